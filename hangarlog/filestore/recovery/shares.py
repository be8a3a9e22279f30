"""The journal's lines, many at a time, sorted by stream."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from hangarlog.record.envelope import Place
from hangarlog.record.line import ERASED_MARK, StoredEnvelope, erased_journal_record

Record = StoredEnvelope | Place


class Share:
    """The journal's lines of one stream, and their versions; `last` is the position of the last line.

    Erased lines are in `erased`. What comes before one is hidden, so it is left out.
    """

    __slots__ = ("erased", "last", "lines", "versions")

    def __init__(self, versions: list[int], lines: list[bytes]) -> None:
        self.versions, self.lines, self.last = versions, lines, 0
        self.erased: list[StoredEnvelope] = []

    @property
    def version(self) -> int:
        """The version of the last line."""
        return self.versions[-1] if self.versions else self.erased[-1].stream_version


class Shares:
    """A part of the journal, sorted by stream: the lines of positions `first` to `last`, `size` bytes in total."""

    def __init__(self) -> None:
        self.by_stream: defaultdict[str, Share] = defaultdict(lambda: Share([], []))
        self.first = self.last = self.size = 0

    def add(self, records: Sequence[Record], lines: list[bytes]) -> None:
        """Add the lines that follow."""
        for record, line in zip(records, lines, strict=True):
            share = self.by_stream[record.stream_id]
            share.last = record.position
            if ERASED_MARK in line and (erased := erased_journal_record(line)):
                share.erased.append(erased)
                share.versions, share.lines = [], []
                continue
            share.versions.append(record.stream_version)
            share.lines.append(line)
        self.first = self.first or records[0].position
        self.last = records[-1].position
        self.size += sum(map(len, lines))
