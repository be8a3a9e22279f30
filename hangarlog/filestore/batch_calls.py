"""The call of a file store that writes many batches at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hangarlog.eventstore.record import Event
from hangarlog.filestore.cursor_calls import CursorCalls
from hangarlog.filestore.writer import Writer
from hangarlog.record.batch import Pending


class BatchCalls(CursorCalls[Event]):
    """The part of a file store that writes many batches at once."""

    if TYPE_CHECKING:
        _writer: Writer

    def append_batches(self, batches: list[list[Pending]]) -> list[int]:
        """As `EventStore.append_batches`. The journal and each stream get the lines of many batches in one write."""
        firsts: list[int] = []
        while len(firsts) < len(batches):
            left = batches[len(firsts) :]
            with self._calling():
                written = self._writer.commit_batches(left)
            firsts += written or super().append_batches(left[:1])
        return firsts
