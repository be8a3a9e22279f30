"""Which logs a folder has, and which sealed segments these have, for a backup of a store that is written to."""

from __future__ import annotations

import contextlib
from collections import defaultdict

from hangarlog.filestore.journal import Journal
from hangarlog.filestore.line_scan import log_files
from hangarlog.filestore.recovery.rewriting import last_number
from hangarlog.log.log import Log
from hangarlog.log.segment import Segment
from hangarlog.system.filesystem import FileSystem


class Listing:
    """The logs in a folder and their sealed segments, listed once and again when the listing is out of date."""

    def __init__(self, filesystem: FileSystem, folder: str) -> None:
        self._filesystem, self._folder = filesystem, folder
        self.refresh()

    def refresh(self) -> None:
        """List the folder."""
        self.names: set[str] = set()
        self._sealed: defaultdict[str, list[int]] = defaultdict(list)
        for file in log_files(self._filesystem, self._folder):
            if file.sealed is None:
                self.names.add(file.name)
            elif not file.spare:
                self._sealed[file.name].append(file.sealed)

    def sealed(self, log: Log, active: Segment) -> list[int]:
        """Return the first numbers of the sealed segments before an active one that is open.

        The open one stays readable even if it is sealed meanwhile.
        """
        first = active.first_number()
        if first is None or not (first == 0 or self._reaches(log, first)):
            self.refresh()
        begins = log.begins() if isinstance(log, Journal) else 0  # After the listing: see `Journal.sealed`.
        return sorted(n for n in self._sealed[log.name] if n >= begins and (first is None or n < first))

    def _reaches(self, log: Log, first: int) -> bool:
        """True if the last sealed segment in the listing ends just before number `first`."""
        before = [n for n in self._sealed[log.name] if n < first]
        if not before:
            return isinstance(log, Journal) and first == log.begins()
        with contextlib.closing(log.open_sealed(max(before))) as segment:
            return last_number(log, segment) == first - 1
