"""The error of a copy."""

from __future__ import annotations

from hangarlog.errors import HangarlogError


class CopyError(HangarlogError):
    """Two stores cannot be made equal, or are not. Fields: `source`, `target` (their names), `cause`."""

    def __init__(self, source: str, target: str, cause: str) -> None:
        super().__init__(source, target, cause)
        self.source, self.target, self.cause = source, target, cause

    def __str__(self) -> str:
        return f"cannot copy {self.source} to {self.target}: {self.cause}"
