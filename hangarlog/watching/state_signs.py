"""What the shared state says to a process that only looks at it."""

from __future__ import annotations

import contextlib

import msgspec

from hangarlog.filestore.counters import Counters, counters_in
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.session import session_going_on
from hangarlog.filestore.shared_state import (
    COMMITTED,
    DURABLE,
    EXCLUSIVE,
    FAILURES,
    JOURNAL_FIRST,
    JOURNAL_SIZE,
    LAYOUT,
    SYNC_FAILED,
    WRITING,
    SharedState,
    Words,
    consistent,
)
from hangarlog.record.envelope import MAX_NUMBER
from hangarlog.system.futex import give_way
from hangarlog.system.platform import BYTE_LOCKS
from hangarlog.watching.durations import SyncTimes

_MAX_LOOKS = 500
"""Looks at words that a commit is publishing."""


class StateSigns(msgspec.Struct, frozen=True, kw_only=True):
    """What the shared state says. None stands for what it does not tell.

    Attributes:
        is_open: True if a process has the store open for writing.
        is_believed: True if the words belong to such a process. Otherwise they are what the last one has left.
        committed, durable: The committed and the durable position.
        journal_first, journal_size: The first position of the active journal segment, and its committed bytes.
        layout: A count of rolls, compactions and recoveries.
        exclusive: The process that holds the store exclusively, 0 if none does.
        writing: The process that is changing files, or died while it did; 0 if none does.
        has_failed: True if a sync has failed, and the journal was not written anew since.
        failed_syncs: The number of syncs that have failed since the machine started.
        written_bytes: The bytes written to the journal since counting began.
        syncs: How long syncs took since then.
        problem: Why nothing is known, None if there is no reason: there may have been no writer yet.
    """

    is_open: bool | None = None
    is_believed: bool = False
    committed: int | None = None
    durable: int | None = None
    journal_first: int | None = None
    journal_size: int | None = None
    layout: int | None = None
    exclusive: int | None = None
    writing: int | None = None
    has_failed: bool | None = None
    failed_syncs: int | None = None
    written_bytes: int | None = None
    syncs: SyncTimes | None = None
    problem: str | None = None


def read_state(folder: Folder) -> StateSigns:
    """Return what the shared state of an entered folder says."""
    is_open = _is_open(folder)
    try:
        state = SharedState(folder.filesystem, folder.state_path, folder.home, writable=False)
        with contextlib.closing(state):
            words, raw = _settled(state)
            last = state.last_session
            if not (last and state.of_this_boot and consistent(words)):
                return StateSigns(is_open=is_open, problem=_doubt(state, words, last))
            is_believed = session_going_on(folder.filesystem, folder.fd, last) == last
    except OSError as error:
        return StateSigns(is_open=is_open, problem=f"the shared state cannot be read: {error.strerror}")
    if max(words[COMMITTED], words[JOURNAL_FIRST]) > MAX_NUMBER:
        return StateSigns(is_open=is_open, problem="the shared state is damaged: its positions are too high")
    counters = counters_in(raw)
    return StateSigns(
        is_open=is_open,
        is_believed=is_believed,
        committed=words[COMMITTED],
        durable=words[DURABLE] if words[DURABLE] <= words[COMMITTED] else 0,
        journal_first=words[JOURNAL_FIRST],
        journal_size=words[JOURNAL_SIZE],
        layout=words[LAYOUT],
        exclusive=words[EXCLUSIVE],
        writing=words[WRITING],
        has_failed=words[SYNC_FAILED] != 0,
        failed_syncs=words[FAILURES],
        written_bytes=_written(counters, words) if counters else None,
        syncs=SyncTimes(counters.syncs) if counters else None,
    )


def _is_open(folder: Folder) -> bool | None:
    """True if any session has members, None if the system does not tell."""
    if not BYTE_LOCKS or folder.fd < 0:
        return None
    try:
        return folder.filesystem.held_byte(folder.fd, 1, 0) is not None
    except OSError:
        return None


def _settled(state: SharedState) -> tuple[Words, bytes]:
    """Return all words and bytes, if possible while no commit publishes them."""
    for _ in range(_MAX_LOOKS):
        words, raw = state.look_at_all()
        if consistent(words) or not any(words):
            break
        give_way()
    return words, raw


def _written(counters: Counters, words: Words) -> int:
    """Return the bytes that were written. During a roll, the sealed segment may still be the published active one."""
    is_counted = counters.sealed_first == words[JOURNAL_FIRST]
    return counters.sealed_bytes + (0 if is_counted else words[JOURNAL_SIZE])


def _doubt(state: SharedState, words: Words, last: int) -> str | None:
    """Return why the words are not to be believed, None if that is as it should be."""
    if not any(words) or state.is_of_copy or (last and not state.of_this_boot):
        return None  # No writer has opened this store yet, or since the machine started.
    if not last:
        return "the shared state is damaged, of another version, or being recovered"
    return "the shared state is damaged: its positions do not match their check"
