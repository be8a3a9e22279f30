"""Every row of docs/reliability.md at its CI size. `python -m tests.faults --row N --seed S` runs one again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from campaign import SEED, Campaign, campaigns
from table import PAGE, table


@pytest.mark.parametrize("campaign", campaigns(), ids=lambda campaign: f"row-{campaign.row}")
@pytest.mark.timeout(900)
def test_campaign(campaign: Campaign, tmp_path: Path) -> None:
    missing = campaign.missing()
    if missing:
        if os.environ.get("HANGARLOG_REQUIRE_TOOLS"):
            pytest.fail(missing)
        pytest.skip(missing)
    print(f"{campaign.fault}: {campaign.ci} {campaign.unit}, HANGARLOG_SEED={SEED}")
    print(campaign.run(tmp_path, campaign.ci, SEED))


def test_the_page_has_the_table_that_the_harness_makes() -> None:
    """docs/reliability.md, from docs/reliability.json: every row of the fault table, each with what it has counted."""
    assert [campaign.row for campaign in campaigns()] == list(range(1, 13))
    assert table() in PAGE.read_text()
    assert "| not yet |" not in table()
