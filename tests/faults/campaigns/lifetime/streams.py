"""The streams of row 20, by number; their events; and which of them the policies of a store keep."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hangarlog import EncodedEvent, RetentionPolicy

CATEGORIES = ("keep", "new", "few", "saved", "old", "gone")
PER_CATEGORY = 4
PER_WRITER = len(CATEGORIES) * PER_CATEGORY
_SIZES = (0, 20, 100, 100, 1000)
LINE_BYTES = 400
"""A line has fewer bytes beside its payload's text."""


def stream_id(number: int) -> str:
    """Return the id of a stream. Each writer has `PER_WRITER` streams, and nobody else appends to them."""
    writer, at = divmod(number, PER_WRITER)
    return f"{CATEGORIES[at // PER_CATEGORY]}:{writer}-{at % PER_CATEGORY}"


def category(number: int) -> str:
    return CATEGORIES[number % PER_WRITER // PER_CATEGORY]


def text_bytes(number: int) -> int:
    """Return the bytes of an event's text."""
    return _SIZES[number % len(_SIZES)]


def event(number: int) -> EncodedEvent:
    text = b"x" * text_bytes(number)
    return EncodedEvent(("Even", "Odd")[number % 2], b'{"n":%d,"text":"%s"}' % (number, text), f"e{number}")


@dataclass
class Rules:
    """The policies of one store. A limit of 0 is none."""

    new_events: int
    few_events: int
    old_seconds: float
    all_events: int
    all_bytes: int

    @classmethod
    def made(cls, rng: random.Random) -> Rules:
        whole = rng.choice((0, 0, 1, 2))
        return cls(
            new_events=rng.choice((10, 100, 2000)),
            few_events=rng.choice((1, 10, 300)),
            old_seconds=rng.choice((0.2, 1.0)),
            all_events=rng.choice((500, 5000)) if whole == 1 else 0,
            all_bytes=rng.choice((100_000, 1_000_000)) if whole == 2 else 0,
        )

    @property
    def keeps_all(self) -> bool:
        """True if no policy drops events of the streams `keep:`."""
        return not (self.all_events or self.all_bytes)

    def policies(self) -> list[RetentionPolicy]:
        found = [
            RetentionPolicy(prefix="new:", max_events=self.new_events),
            RetentionPolicy(prefix="few:", max_events_per_stream=self.few_events),
            RetentionPolicy(prefix="saved:", behind_snapshot=True),
            RetentionPolicy(prefix="old:", max_age=self.old_seconds),
        ]
        if self.all_events:
            found.append(RetentionPolicy(max_events=self.all_events))
        if self.all_bytes:
            found.append(RetentionPolicy(max_bytes=self.all_bytes))
        return found
