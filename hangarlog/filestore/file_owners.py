"""Finds the stream of a file whose shortened name does not tell it. Reads the journal and each folder once."""

from __future__ import annotations

import os

from hangarlog.errors import CorruptionError
from hangarlog.filestore.file_names import stream_path
from hangarlog.filestore.journal import Journal
from hangarlog.log.log import Log
from hangarlog.log.segment_name import first_of


class JournalNames:
    """The ids of the journal's streams by folder and name. The journal is read when first needed."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._ids: dict[tuple[str, str], str] | None = None
        self._damage: CorruptionError | None = None
        self._sealed: dict[str, dict[str, set[int]]] = {}

    def get(self, folder: str, name: str) -> str | None:
        """Return the id of the stream with the file (folder, name), or None if the journal has no such stream.

        Raises `CorruptionError` if the journal is damaged and the stream was not found before the damage.
        """
        if self._ids is None:
            self._ids = {}
            try:
                for block in self._journal.forward(1):
                    if not self._ids:
                        self._refuse_later_beginning(block[0].position)
                    for record in block:
                        self._ids.setdefault(stream_path(record.stream_id), record.stream_id)
            except CorruptionError as error:
                self._damage = error.with_traceback(None)
        stream_id = self._ids.get((folder, name))
        if stream_id is None and self._damage:
            raise self._damage
        return stream_id

    def _refuse_later_beginning(self, position: int) -> None:
        if position != (begins := self._journal.begins()):
            path, cause = self._journal.active_path, f"position {begins} to {position - 1} are missing"
            raise CorruptionError(path, os.path.basename(path), 0, cause)

    def sealed(self, log: Log) -> list[int]:
        """Return `log.sealed()`, from a single listing of each folder."""
        listed = self._sealed.get(log.folder)
        if listed is None:
            listed = self._sealed[log.folder] = {}
            for entry in log.filesystem.entries(log.folder):
                name = entry.name.partition(".")[0]
                first = first_of(entry.name, name)
                if first is not None:
                    listed.setdefault(name, set()).add(first)
        return sorted(listed.get(log.name, ()))
