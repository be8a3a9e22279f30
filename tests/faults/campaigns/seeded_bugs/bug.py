"""A bug, and the check that must see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """`text`, which is in `file` exactly once, replaced by `bad`; `check` is a campaign's options or a test."""

    name: str
    file: str
    text: str
    bad: str
    check: str
