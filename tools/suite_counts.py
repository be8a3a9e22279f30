"""A plugin for pytest (`-p suite_counts`): leaves out what a suite's table says, and writes what the suite counted.

`HANGARLOG_SUITE` is a file of JSON: {"deselected": {part of a test's id: reason}, "counts": the path of the result}.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

SUITE = json.loads(Path(os.environ["HANGARLOG_SUITE"]).read_text())
outcomes = Counter[str]()
reasons = Counter[str]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that the table names. A part of an id that names none is an error."""
    deselected: dict[str, str] = SUITE["deselected"]
    why = {item: part for item in items for part in deselected if part in item.nodeid}
    if unused := set(deselected) - set(why.values()):
        raise pytest.UsageError(f"no test has {sorted(unused)} in its id: take it out of tools/integrations.toml")
    reasons.update(deselected[part] for part in why.values())
    config.hook.pytest_deselected(items=list(why))
    items[:] = [item for item in items if item not in why]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count each test once, an error in its setup or teardown as a failure."""
    if hasattr(report, "wasxfail"):
        outcomes["xfailed"] += report.when == "call" or report.skipped
    elif report.when == "call" or report.outcome != "passed":
        outcomes[report.outcome] += 1
    if report.skipped and isinstance(report.longrepr, tuple):
        reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1


def pytest_sessionfinish() -> None:
    """Write the counts."""
    Path(SUITE["counts"]).write_text(json.dumps({**outcomes, "reasons": reasons}))
