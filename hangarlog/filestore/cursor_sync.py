"""One sync of the cursors' file serves every move that was written before it began."""

from __future__ import annotations

import sys

from hangarlog.errors import SyncError
from hangarlog.filestore.group_sync import JournalSync
from hangarlog.filestore.shared_state import CURSOR_SYNCS, FAILURES, LAYOUT, Words


class CursorSync(JournalSync):
    """Makes moves of cursors durable, as `JournalSync` does with records, and under the same lock.

    In place of a position stands a count of syncs, which is odd while one runs: one that begins after a move covers it.
    """

    pending = False
    """True if this process has moved a cursor, and not synced since."""

    def ensure_moved(self, words: Words) -> None:
        """Make every move durable that was written before these words were read. Raises what `ensure` raises."""
        self.pending = False
        try:
            count = words[CURSOR_SYNCS]
            self.ensure(count + 2 + count % 2, words[FAILURES])
        except BaseException:
            self.pending = True
            raise

    def ensure_pending(self) -> None:
        """Make the moves of this process durable. Raises what `ensure` raises."""
        if self.pending:
            self.ensure_moved(self._state.look())

    def _is_covered(self, words: Words, position: int) -> bool:
        return position <= words[CURSOR_SYNCS]

    def _refuse_older(self, position: int) -> None:
        """Do nothing: `_sync` opens the file that is in place."""

    def _sync(self, words: Words) -> int:
        """Under the sync lock: sync the file, and count that. What was written before is covered."""
        state, which = self._state, (-1, words[LAYOUT], self._replacements)
        if self._fd < 0 or self._fd_of != which:
            self._close_fd()
            self._fd, self._fd_of = self._filesystem.open_update(self._folder.cursors_path), which
        count = words[CURSOR_SYNCS] + 1 | 1
        state.count_cursor_sync(count)
        try:
            self._filesystem.sync_data(self._fd)
        except OSError as error:
            state.mark_sync_failed()
            raise SyncError(self._folder.cursors_path, str(error)) from error
        state.count_cursor_sync(count + 1)
        return sys.maxsize
