"""Drops the journal's beginning, segment by segment, while others read and write.

First everything is brought to the device: the marks that hide the events. Then `retained.json` says where the journal
begins, then the segments before that are removed. So it may stop at any point, and goes on when it is run again.
"""

from __future__ import annotations

from hangarlog.errors import SyncError
from hangarlog.filestore.checkpoint import fits, load_checkpoint
from hangarlog.filestore.write_session import WriteSession


def most_to_drop(session: WriteSession) -> int:
    """Return the position that a drop may make the journal's first, at most: recovery needs the last checkpoint.

    Make a checkpoint if the last one is not in the active segment.
    """
    published, checkpoint = session.state.published(), load_checkpoint(session.folder)
    if not published or checkpoint.first < published[1]:
        session.checkpointing.make(session.lock_seconds)
        checkpoint = load_checkpoint(session.folder)
    return checkpoint.first if checkpoint.mark and fits(checkpoint, session.folder) else 1


def drop_before(session: WriteSession, first: int) -> None:
    """Make the journal begin with position `first`, the first one of a segment, and remove what is before.

    Every event before must be hidden, and `first` be at most what `most_to_drop` returns.

    Raises:
        SyncError: the device refuses a sync, or has refused one since the machine started. Nothing is dropped.
        ValueError: no segment begins there.
        What taking the write lock raises.
    """
    folder, filesystem, journal = session.folder, session.filesystem, session.folder.journal
    if first > journal.begins():
        try:
            filesystem.sync_everything(folder.path, folder.all_folders())
        except OSError as error:
            session.state.mark_sync_failed()
            raise SyncError(folder.path, str(error)) from error
        with session.lock():
            if session.state.failures:
                raise SyncError(folder.path, "an earlier sync failed, so nothing is dropped until the machine restarts")
            if first > journal.begins():
                if first not in (*journal.sealed(), session.journal_first):
                    raise ValueError(f"no segment of the journal begins with position {first}")
                folder.refuse_moved()
                journal.write_retained(first)
                session.changed_layout()
    elif journal.left_over():
        with session.lock():
            folder.refuse_moved()
            journal.write_retained(journal.begins())  # Its sync may have failed when it was written.
    for left in journal.left_over():
        with session.lock():  # For each: a writer waits for one removal.
            folder.refuse_moved()
            journal.remove_sealed(left)
            session.changed_layout()
    filesystem.sync_folder(folder.path)
