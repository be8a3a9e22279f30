"""Every row of docs/reliability.md at its CI size. `python -m tests.faults --row N --seed S` runs one again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from campaign import SEED, Campaign, campaigns


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
