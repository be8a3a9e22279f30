"""What keeps a benchmark from measuring."""

from __future__ import annotations

from hangarlog.errors import HangarlogError


class BenchmarkError(HangarlogError):
    """A benchmark cannot begin or go on. Fields: `path` (of the folder or the payload), `cause`."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"cannot measure with {self.path}: {self.cause}"


class LeftFilesError(BenchmarkError):
    """A benchmark could not remove its files. Fields: `path` (of the folder to delete), `cause`."""

    def __str__(self) -> str:
        return f"cannot remove {self.path}: {self.cause}; delete it"
