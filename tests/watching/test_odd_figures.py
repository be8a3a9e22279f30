"""Whatever a store says, the page, the picture and the screen can be drawn, and fit."""

from __future__ import annotations

import random
import unicodedata

import pytest

from hangarlog.cli.picture_lines import picture
from hangarlog.cli.watch_frame import History, frame, one_line
from hangarlog.watching.activity import Share
from hangarlog.watching.durations import SyncTimes
from hangarlog.watching.page import page
from hangarlog.watching.state_signs import StateSigns
from hangarlog.watching.store_files import PARTS, LargeStream, Size, StoreFiles
from hangarlog.watching.subscriber_signs import SubscriberSigns
from hangarlog.watching.survey import Survey, TypeShare
from hangarlog.watching.vitals import Vitals
from hangarlog.watching.watcher import Look, Rates

LETTERS = ["a", "b", "\u4e2d", "\u202e", "<", "\u00e9", "\x1b", "\ud800", "\U0001f600", "\u0301", "\n", '"', "&"]


class Odd:
    """Makes up what a store may say."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def name(self) -> str:
        return "".join(self.random.choice(LETTERS) for _ in range(self.random.choice([0, 1, 5, 40, 400])))

    def number(self) -> float | None:
        return self.random.choice(
            [None, 0, 1, 999, 10**6, 2**63, self.random.random(), 10 ** self.random.randrange(20)]
        )

    def survey(self) -> Survey:
        choose = self.random
        low, high = -30.6e9, 221.8e9
        base, span = choose.uniform(low, high), 10 ** choose.uniform(-4, 11.5)
        count = choose.choice([0, 1, 2, 3, 50, 300])
        times = sorted(min(high, max(low, base + choose.random() * span)) for _ in range(count))
        if choose.random() < 0.1:
            times = times[:1] * count
        types = [
            TypeShare(self.name(), float(choose.randrange(10**9)), float(choose.randrange(10**12)))
            for _ in range(choose.choice([0, 1, 8, 30]))
        ]
        other = TypeShare("", 5.0, 9.0) if choose.random() < 0.3 else None
        sizes = {bits: choose.random() * 1000 for bits in choose.sample(range(40), choose.randrange(10))}
        events = choose.choice([count, count * 10, 10**9])
        return Survey(events, count, times, tuple(types), other, sizes, choose.choice([None, self.name()]))

    def vitals(self) -> Vitals:
        choose = self.random
        pairs = [(choose.choice([0, 0, 1, 2**64 - 1]), choose.choice([0, 10**9, 2**64 - 1])) for _ in range(50)]
        state = StateSigns(
            is_open=choose.choice([None, True, False]),
            is_believed=choose.random() < 0.5,
            committed=choose.choice([None, 0, 5, 2**53 - 1]),
            durable=choose.choice([None, 0, 5]),
            syncs=SyncTimes(tuple(pairs)) if choose.random() < 0.8 else None,
            has_failed=choose.choice([None, True, False]),
        )
        large = tuple(LargeStream(self.name(), choose.randrange(10**13)) for _ in range(choose.choice([0, 3, 20])))
        files = StoreFiles({part: Size(1, choose.randrange(10**15)) for part in PARTS}, choose.randrange(10**7), large)
        subscribers = [
            SubscriberSigns(
                self.name(),
                choose.randrange(100),
                choose.choice([None, 0, 7, 2**53]),
                choose.choice([None, 0.0, 3e-7, 1e12]),
                choose.choice([None, True, False]),
                choose.choice([None, 0, 77]),
            )
            for _ in range(choose.choice([0, 3, 30]))
        ]
        return Vitals(
            path="/" + self.name(),
            at=choose.uniform(0, 4e9),
            state=state,
            committed=choose.choice([None, 0, 1, 10**9]),
            files=choose.choice([None, files]),
            subscribers=tuple(subscribers),
            last_at=choose.choice([None, -1e9, 1e9]),
            problems=tuple(self.name() for _ in range(choose.randrange(3))),
        )

    def look(self) -> Look:
        numbers = [self.number() for _ in range(5)]
        shares = [tuple(Share(self.name(), self.random.random()) for _ in range(20)) for _ in range(2)]
        vitals = self.vitals()
        return Look(vitals, self.random.choice([None, Rates(1.0, *numbers)]), *shares, True, vitals.problems)


def columns_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


@pytest.mark.parametrize("seed", range(60))
def test_all_of_it_can_be_drawn(seed: int) -> None:
    odd = Odd(seed)
    page(odd.vitals(), survey := odd.survey()).encode()
    for unicode in (True, False):
        for width in (10, 30, 80, 300):
            for line in picture(survey, width, unicode=unicode):
                assert sum(columns_of(each) for text, _ in line for each in text) <= width
        look, history = odd.look(), History()
        for _ in range(odd.random.randrange(20)):
            history.add(odd.look().rates)
        width, height = odd.random.choice([0, 1, 2, 7, 20, 43, 75, 76, 100]), odd.random.choice([1, 2, 5, 10, 24, 60])
        lines = frame(look, history, width, height, unicode=unicode, seconds=1.0)
        assert len(lines) <= height
        for line in lines:
            assert sum(columns_of(each) for text, _ in line for each in text) <= width
        assert one_line(look, unicode=unicode)
