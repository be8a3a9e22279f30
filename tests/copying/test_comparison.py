"""Which events are the same in two stores, where some are hidden, erased or left out; and where positions lead then."""

from __future__ import annotations

import pytest
from msgspec import Raw

from hangarlog import Envelope
from hangarlog.copying.comparison import Comparison, DifferenceError
from hangarlog.copying.positions import Positions

HIDDEN = {"a:1": 9, "b:1": 9, "c:1": 9}


def rows(*places: tuple[int, str, int], batch_end: int = 0) -> list[Envelope]:
    """Events by (position, stream, version)."""
    return [
        Envelope(position, stream, version, "T", f"{stream}/{version}", "now", Raw(b"{}"), batch_end=batch_end)
        for position, stream, version in places
    ]


def compared(source: list[Envelope], target: list[Envelope]) -> Positions:
    by_id, positions = {each.event_id: each for each in source}, Positions()
    for _ in Comparison(HIDDEN, by_id.get, positions, notes=True, after=0).run(iter([source]), iter([target])):
        pass
    return positions


def test_a_hidden_event_that_is_left_out_is_passed_over_for_one_that_is_in_both() -> None:
    """Positions 1 and 2 are erased, so either could be missing on either side; their ids tell."""
    found = compared(
        rows((3, "a:1", 0), (4, "b:1", 0), (5, "z:1", 0)),
        rows((1, "b:1", 0), (2, "z:1", 0)),
    )
    assert [found.in_target(position) for position in (2, 3, 4, 5, 9)] == [0, 0, 1, 2, 2]


def test_a_hidden_event_that_only_the_target_has_is_passed_over() -> None:
    found = compared(
        rows((3, "a:1", 0), (4, "b:1", 0), (5, "z:1", 0)),
        rows((1, "c:1", 0), (2, "b:1", 0), (3, "z:1", 0)),
    )
    assert [found.bounds(position) for position in (2, 3, 4, 5)] == [(0, 1), (0, 1), (2, 2), (3, 3)]


def test_where_the_source_has_lost_as_many_as_the_target_has_positions_stay() -> None:
    found = compared(
        rows((1, "z:1", 0), (4, "z:1", 1)),
        rows((1, "z:1", 0), (2, "a:1", 0), (3, "a:1", 1), (4, "z:1", 1)),
    )
    assert [found.bounds(position) for position in (1, 2, 3, 4)] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert found.kept


WRONG = {
    "an event that is not hidden is missing": (rows((1, "z:1", 0), (2, "z:1", 1)), rows((1, "z:1", 1))),
    "one more": (rows((1, "z:1", 0)), rows((1, "z:1", 0), (2, "z:1", 1))),
    "another order": (rows((1, "z:1", 0), (2, "y:1", 0)), rows((1, "y:1", 0), (2, "z:1", 0))),
    "a hidden one where the source has lost nothing": (rows((1, "z:1", 0)), rows((1, "c:1", 0), (2, "z:1", 0))),
    "two batches made one": (rows((1, "z:1", 0), (2, "z:1", 1)), rows((1, "z:1", 0), (2, "z:1", 1), batch_end=2)),
    "a batch divided": (rows((1, "z:1", 0), (2, "z:1", 1), batch_end=2), rows((1, "z:1", 0), (2, "z:1", 1))),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_differs_is_found(name: str) -> None:
    with pytest.raises(DifferenceError):
        compared(*WRONG[name])
