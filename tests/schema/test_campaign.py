"""The check, held against decoding events of random classes; and that this finds a check that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from campaign.alarms import JUSTIFIED, section
from campaign.campaign import FOLLOWING, HEADING, PAGE, run, unjustified

from hangarlog.schema import check, compare, describe, locking, scalars
from hangarlog.schema.defaults import is_always_written
from hangarlog.schema.sample import Edges

MOST = 40  # Histories that a bug may take to be found.


def test_the_check_is_right_about_random_classes() -> None:
    """The same ones every time; `python -m tests.schema.campaign --events N --seed S` takes others."""
    counts, wrong = run(10_000)
    assert not (bad := unjustified(wrong)), f"{bad[0].kind}: {bad[0].why}\n{bad[0].shown}"
    assert counts.passed > 100
    assert counts.pairs - counts.passed > 100


def passing(text: str) -> Any:
    """A comparison that takes a change that says this for harmless."""
    made = compare.Pair._changes

    def changes(self: Any, old: Any, new: Any, path: str) -> Iterator[Any]:
        for each in made(self, old, new, path):
            is_bug = isinstance(each, compare.Change) and text in each.what
            yield compare.Change(each.path, each.what, False) if is_bug else each

    return changes


def without_nesting(info: Any, field: Any, *, nested: bool) -> bool:
    return is_always_written(info, field, nested=False)


def none(*args: Any, **more: Any) -> list[Any]:
    return []


BUGS: dict[str, tuple[Any, str, Any]] = {
    "an enum may lose a value": (scalars, "_missing", none),
    "limits are ignored": (compare, "limits", none),
    "patterns and formats are ignored": (compare, "strings", none),
    "defaults are ignored": (compare, "default_change", lambda *parts: None),
    "text may become a time": (compare.Pair, "_changes", passing("was text, is date-time")),
    "null may go": (compare.Pair, "_changes", passing("null is no longer taken")),
    "a new field needs no default": (compare.Pair, "_changes", passing("is new and has no default")),
    "a field may go": (compare.Pair, "_changes", passing("was removed: ")),
    "a default may go": (compare.Pair, "_changes", passing("has lost its default")),
    "any value may become one of a type": (compare.Pair, "_changes", passing("took any value")),
    "a lock forgets what earlier events lack": (locking, "forget_omitted", none),
    "a nested dataclass has all its defaults": (describe, "is_always_written", without_nesting),
    "samples do not know the limits of today": (check, "edges_of", lambda schema: Edges()),
    "an upcaster may leave out a default that has changed": (check, "changed_defaults", none),
    "what has no field is not lost": (check, "places", none),
    "a union that takes any value takes some": (compare, "is_any", lambda part: not part.keys() - ANY),
}
ANY = {"default", "x-default", "x-written"}
FIRST = {
    "limits are ignored": 265,
    "a lock forgets what earlier events lack": 1_260,
    "text may become a time": 165,
    "null may go": 60,
    "any value may become one of a type": 260,
    "a nested dataclass has all its defaults": 890,
    "samples do not know the limits of today": 170,
    "a union that takes any value takes some": 260,
}
"""The first history that is run for a bug that few of them show."""


@pytest.mark.parametrize("bug", BUGS)
def test_the_campaign_finds_a_check_that_is_wrong(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BUGS[bug])
    first = FIRST.get(bug, 0)
    assert any(unjustified(run(1, [seed])[1]) for seed in range(first, first + MOST))


def test_the_page_lists_the_false_alarms_that_are_justified() -> None:
    """Write it anew with `python -m tests.schema.campaign --events … --record`."""
    written = PAGE.read_text().partition(HEADING)[2].partition(FOLLOWING)[0]
    figures = written.split("\n\n")[1]
    assert "0 misses" in figures
    assert written == section(figures)
    assert len({each.what for each in JUSTIFIED}) == len(JUSTIFIED)
