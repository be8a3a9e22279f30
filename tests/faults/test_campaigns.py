"""Every row of docs/reliability.md at its CI size. `python -m tests.faults --row N --seed S` runs one again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from campaigns.harness import Campaign, campaigns
from campaigns.table import PAGE, table
from conftest import ROOT


@pytest.mark.parametrize("campaign", campaigns(), ids=lambda campaign: f"row-{campaign.row}")
@pytest.mark.timeout(900)
def test_campaign(campaign: Campaign) -> None:
    missing = campaign.missing()
    if missing:
        if os.environ.get("HANGARLOG_REQUIRE_TOOLS"):
            pytest.fail(missing)
        pytest.skip(missing)
    # In a process of its own: it forks, and is to be free of what the tests have registered.
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--row", str(campaign.row)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_has_the_table_that_the_harness_makes() -> None:
    """docs/reliability.md, from docs/reliability.json: every row of the fault table, each with what it has counted."""
    assert [campaign.row for campaign in campaigns()] == list(range(1, 21))
    assert table() in PAGE.read_text()
    assert "| not yet |" not in table()
