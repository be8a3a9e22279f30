"""What would make history unreadable is caught, what would not is let pass, and the documentation says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from changes.breaking import BREAKING
from changes.change import Change
from changes.harmless import HARMLESS
from changes.page import BY_HAND, PAGE, findings, table

from hangarlog.schema.check import failing


@pytest.mark.parametrize("change", BREAKING, ids=lambda change: change.title)
def test_a_change_that_breaks_is_caught_for_what_it_is(change: Change, tmp_path: Path) -> None:
    kinds = {finding.kind for finding in failing(findings(change, tmp_path))}
    assert kinds == {change.expected}


@pytest.mark.parametrize("change", HARMLESS, ids=lambda change: change.title)
def test_a_change_that_breaks_nothing_passes(change: Change, tmp_path: Path) -> None:
    assert failing(findings(change, tmp_path)) == []


def test_the_page_of_changes_says_what_the_check_says() -> None:
    """Write it anew with `python -m tests.schema.changes`."""
    assert len(BREAKING) >= 30
    assert len(HARMLESS) >= 15
    assert PAGE.read_text().partition(BY_HAND)[0] == table()
