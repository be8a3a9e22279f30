"""The table of docs/reliability.md, made from what the campaigns have counted (docs/reliability.json)."""

from __future__ import annotations

import json
from typing import Any

from .harness import ROOT, Campaign, Figures, campaigns
from .seeded_bugs.campaign import table as table_of_bugs

DOCS = ROOT / "docs"
FIGURES, PAGE = DOCS / "reliability.json", DOCS / "reliability.md"
BEGIN, END = "<!-- the harness writes from here -->\n", "<!-- to here -->\n"


def recorded() -> dict[str, Any]:
    """{row: its last recorded run}."""
    return dict(json.loads(FIGURES.read_text())) if FIGURES.exists() else {}


def record(campaign: Campaign, size: int, seed: int, seconds: float, figures: Figures) -> None:
    """Keep what a run has counted, and write the table anew."""
    runs = recorded()
    runs[str(campaign.row)] = {"size": size, "seed": seed, "seconds": round(seconds), "figures": figures}
    FIGURES.write_text(json.dumps(dict(sorted(runs.items(), key=lambda run: int(run[0]))), indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2])


def table() -> str:
    """The campaigns with what their last recorded runs have counted."""
    runs = recorded()
    lines = ["", "| # | fault | promise | how | CI size | recorded run |", "| --- | --- | --- | --- | --- | --- |"]
    for campaign in campaigns():
        run = runs.get(str(campaign.row))
        counted = "not yet"
        if run:
            figures = "; ".join(f"{name} {_shown(value)}" for name, value in run["figures"].items())
            counted = f"{run['size']:,} {campaign.unit}, seed {run['seed']}, {run['seconds']:,} s: {figures}"
        cells = (campaign.row, campaign.fault, campaign.promise, campaign.how, f"{campaign.ci:,}", counted)
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    lines += ["", "Row 7 in full: each of these bugs is put into a copy of hangarlog, and has to be seen.", ""]
    return "\n".join([*lines, *table_of_bugs(), "", ""])


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)
