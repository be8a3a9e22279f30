"""The shared state: a few words that every process of a store reads and writes. A cache, rebuilt when it is lost.

The file is read and written by system calls. A mapping would kill the process if the file system cannot store a mapped
page. Words are 64-bit and aligned. One call changes what a commit publishes, and a check over it tells a reader without
a lock whether it saw all of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from struct import Struct

from hangarlog.filestore.counters import count_sealed, count_sync, forget_counters
from hangarlog.system.file_lock import FileLock, held
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.futex import Futex
from hangarlog.system.platform import boot_id
from hangarlog.system.waking import Waking

_MAGIC = 0x35_45_54_41_54_53_4C_48  # "HLSTATE5"
_SIZE_BYTES = 4096
_MASK = (1 << 64) - 1

(
    _FORMAT,
    _SESSION,
    _FILE,
    COMMITTED,
    JOURNAL_FIRST,
    JOURNAL_SIZE,
    _CHECK,
    TAIL,
    WRITING,
    LAYOUT,
    EXCLUSIVE,
    SYNC_FAILED,
    DURABLE,
    DURABLE_END,
    RING_NEXT,
    RING_FILE,
    FAILURES,
    _BOOT,
    CURSOR_SYNCS,
    _GATE_FUTEX,
    _GATE_WAITERS,
    _LOCK_FUTEX,
    LOCK_WAITERS,
    _SYNC_FUTEX,
    SYNC_WAITERS,
    FOLLOWED,
    DURABLE_FOLLOWED,
    AWAITED,
) = range(28)
STANDING = DURABLE * 8
"""If the bytes before this offset have changed, a writer must check its files."""
FAILED = slice(FAILURES * 8, FAILURES * 8 + 8)
"""The bytes with the number of failed syncs."""
WAITING = slice(LOCK_WAITERS * 8, LOCK_WAITERS * 8 + 8)
"""The bytes that are zero if nobody waits for the write lock."""

FOLLOWED_AT = FOLLOWED * 8
"""The offset of a byte whose lowest bit is set if somebody waits for a commit."""

_LOW = (1 << 32) - 1
_all, _five, _three, _one = Struct("=28Q"), Struct("=5Q"), Struct("=3Q"), Struct("=Q")
_NOTHING = (0,) * 28
_SIZE_OF_ALL = _all.size

Words = tuple[int, ...]
"""All words as they were at one moment."""


def _check(committed: int, journal_first: int, journal_size: int) -> int:
    # The check of zeros is not zero. The factors have 30 bits: larger ones take three times as long. See `consistent`.
    return (_MAGIC ^ committed * 0x3C6EF35F ^ journal_first * 0x2545F491 ^ journal_size * 0x27D4EB2F << 4) & _MASK


def consistent(words: Words) -> bool:
    """True if the committed position and the journal's end were published by one commit."""
    return words[_CHECK] == _check(words[COMMITTED], words[JOURNAL_FIRST], words[JOURNAL_SIZE])


def covers(words: Words, position: int) -> bool:
    """True if the record at `position` is known to be on the device."""
    return position <= words[DURABLE] <= words[COMMITTED]  # A durable position beyond the committed one is wrong.


def durable_in(words: Words, journal_first: int) -> int:
    """Return how many bytes of the journal segment beginning with `journal_first` are known to be on the device."""
    end = words[DURABLE_END]
    return end & _LOW if end >> 32 == journal_first & _LOW else 0


def ring_next(words: Words) -> tuple[int, int]:
    """Return the (generation, block) of the commit ring's next frame."""
    return words[RING_NEXT] >> 32, words[RING_NEXT] & _LOW


def words_of(raw: bytes) -> Words:
    """Return the words in these bytes; zeros if the file was cut."""
    return _all.unpack(raw) if len(raw) == _all.size else _NOTHING


def create_state(filesystem: FileSystem, path: str) -> None:
    """Make the file if it is missing, too short, or a hard link. Needs the write lock."""
    with contextlib.suppress(FileNotFoundError):
        fd = filesystem.open_read(path)
        try:
            if filesystem.size(fd) >= _SIZE_BYTES and filesystem.names(fd) == 1:
                return
        finally:
            filesystem.close(fd)
    filesystem.replace_file(path, bytes(_SIZE_BYTES), sync=False)


def _read_nothing(fd: int, size: int, offset: int) -> bytes:
    return b""


class SharedState:
    """The words of one store, in its file `state`.

    Only the holder of the write lock changes them, with two exceptions: the holder of the sync lock changes those about
    syncs, and everybody changes the futexes. `home` is the number of the folder that the file must belong to.

    Calls raise `OSError`.
    """

    def __init__(self, filesystem: FileSystem, path: str, home: int, *, writable: bool = True) -> None:
        """Open the file at `path`. Raises `OSError`, or `ValueError` if the file is a hard link."""
        self._filesystem, self._path, self._home, self.writable = filesystem, path, home, writable
        self._pread: Callable[[int, int, int], bytes] = filesystem.pread
        self.inode = 0
        self._boot = boot_id()
        self.session = 0
        """The session that this process has found or begun; 0 before that."""
        self._fd = -1
        self.gate_futex, self.lock_futex, self.sync_futex = Futex(), Futex(gives_time=True), Futex()
        self.followers, self.durable_followers = (self.waking(durable=durable) for durable in (False, True))
        self.cursor_waiters = self.waking_of_cursors()
        self._open()

    def _open(self) -> None:
        filesystem = self._filesystem
        if not (self.writable or filesystem.is_there(self._path)):
            self._pread = _read_nothing  # A reader, before any writer has made the file.
            return
        fd = filesystem.open_update(self._path) if self.writable else filesystem.open_read(self._path)
        self._pread = filesystem.pread
        try:
            if self.writable and filesystem.names(fd) > 1:
                raise ValueError("it has another name (a hard link)")  # The caller makes a new file.
            inode = filesystem.identity(fd)
            if self._fd < 0:
                self._fd, fd = fd, -1
            else:
                filesystem.become(self._fd, fd)  # Readers in other threads take no lock.
        finally:
            if fd >= 0:
                filesystem.close(fd)
        self.inode = inode
        # A copy has another inode, or is in a folder made at another time.
        self._file = (self.inode * 0x9E3779B97F4A7C15 ^ self._home) & _MASK
        if self.writable:
            for futex, at in (
                (self.gate_futex, _GATE_FUTEX),
                (self.lock_futex, _LOCK_FUTEX),
                (self.sync_futex, _SYNC_FUTEX),
            ):
                futex.attach(filesystem, self._fd, at * 8)
            self.attach(self.followers, durable=False)
            self.attach(self.durable_followers, durable=True)
            self.attach_cursors(self.cursor_waiters)

    def waking(self, *, durable: bool) -> Waking:
        """Return a view of the word at which processes wait for a commit, or for a durable one."""

        def read() -> int:
            try:
                return self.word_in(self.look(), durable=durable)
            except OSError:
                return 1  # The store was closed, or its disk is gone: whoever looks at the position learns of it.

        return Waking(read)

    def word_in(self, words: Words, *, durable: bool) -> int:
        """Return the word at which processes wait for a commit, or for a durable one."""
        return words[DURABLE_FOLLOWED if durable else FOLLOWED] & _LOW

    def attach(self, waking: Waking, *, durable: bool) -> None:
        """Let a view use the file that is open now."""
        waking.attach(self._filesystem, self._fd, (DURABLE_FOLLOWED if durable else FOLLOWED) * 8)

    def waking_of_cursors(self) -> Waking:
        """Return a view of the word at which processes wait for a cursor to move."""
        return Waking(lambda: self.look()[AWAITED] & _LOW)

    def attach_cursors(self, waking: Waking) -> None:
        """Let a view of that word use the file that is open now."""
        waking.attach(self._filesystem, self._fd, AWAITED * 8)

    @property
    def is_in_place(self) -> bool:
        """True if the open file is the one at its path."""
        return self._filesystem.identity_at(self._path) == self.inode

    def reopen_if_replaced(self) -> None:
        """For a reader: open the file at the path if it was replaced."""
        if not self.is_in_place:
            self._open()

    def reload(self) -> None:
        """Open the file at the path if it was replaced or deleted, and make it if needed. Needs the write lock."""
        if not self.is_in_place:
            create_state(self._filesystem, self._path)
            self._open()

    def retry_writable(self, lock: FileLock, seconds: float | None) -> bool:
        """Try again to open for writing, or make, a file that could only be read; True if that works now.

        `lock` is the write lock, not taken yet. Raises `LockTimeoutError` after `seconds`.
        """
        self.writable = True
        try:
            with held(lock, seconds):
                create_state(self._filesystem, self._path)
            self._open()
        except (OSError, ValueError):
            self.writable = False
        return self.writable

    def close(self) -> None:
        """Close the file."""
        futexes = (self.gate_futex, self.lock_futex, self.sync_futex)
        for word in (*futexes, self.followers, self.durable_followers, self.cursor_waiters):
            word.detach()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._filesystem.close(fd)

    # Reading

    def look(self) -> Words:
        """Return all words as they are now; zeros if the file was cut."""
        raw = self._pread(self._fd, _SIZE_OF_ALL, 0)  # As `words_of(self.raw())`, without two calls.
        return _all.unpack(raw) if len(raw) == _SIZE_OF_ALL else _NOTHING

    def look_at_all(self) -> tuple[Words, bytes]:
        """Return (all words, all bytes with the counters after them) as they are now; zeros if the file was cut."""
        raw = self._pread(self._fd, _SIZE_BYTES, 0)
        return words_of(raw[:_SIZE_OF_ALL]), raw

    def believes(self, words: Words) -> bool:
        """True if these words belong to the session that this process takes part in."""
        return words[_SESSION] == self.session != 0 and words[_FORMAT] == _MAGIC and words[_FILE] == self._file

    def readable(self, words: Words) -> bool:
        """True if readers may believe these words; they may also during a recovery, or after one that failed."""
        return self.session != 0 and words[_SESSION] in (0, self.session) and words[_FILE] == self._file

    @property
    def valid(self) -> bool:
        """True if the current words belong to the session that this process takes part in."""
        return self.believes(self.look())

    @property
    def last_session(self) -> int:
        """The session that the words belong to; 0 if they are of another file, folder or format."""
        words = self.look()
        return words[_SESSION] if words[_FORMAT] == _MAGIC and words[_FILE] == self._file else 0

    @property
    def is_of_copy(self) -> bool:
        """True if the words were written for another file: this folder is a copy of a store, or was moved here."""
        words = self.look()
        return words[_FORMAT] == _MAGIC and words[_FILE] not in (0, self._file)

    @property
    def promised(self) -> tuple[int, int]:
        """(the durable position, the committed position); the latter is 0 if the words are from before a restart."""
        words = self.look()
        if words[_FORMAT] != _MAGIC or not consistent(words):
            return 0, 0
        return self.durable, words[COMMITTED] if self.of_this_boot else 0

    @property
    def tail(self) -> int:
        """How many bytes a recovery would replay, plus an equivalent for each stream it would open."""
        return self.look()[TAIL]

    @property
    def of_this_boot(self) -> bool:
        """True if the words were written since the machine started, or if the system does not tell."""
        words = self.look()
        return words[_FORMAT] == _MAGIC and words[_BOOT] == self._boot

    def published(self) -> tuple[int, int, int] | None:
        """Return (committed position, journal's first position, its size), None while a commit is publishing them."""
        words = self.look()
        return (words[COMMITTED], words[JOURNAL_FIRST], words[JOURNAL_SIZE]) if consistent(words) else None

    @property
    def writing(self) -> int:
        """The process that is changing files, or died while doing so; 0: none."""
        return self.look()[WRITING]

    @property
    def committed(self) -> int:
        """The position of the last committed record."""
        return self.look()[COMMITTED]

    @property
    def durable(self) -> int:
        """The position up to which everything is known to be on the device."""
        words = self.look()
        # A durable position beyond the committed one is wrong.
        return words[DURABLE] if words[DURABLE] <= words[COMMITTED] else 0

    @property
    def journal_first(self) -> int:
        """The first position of the active journal segment."""
        return self.look()[JOURNAL_FIRST]

    @property
    def journal_size(self) -> int:
        """The committed bytes of the active journal segment."""
        return self.look()[JOURNAL_SIZE]

    @property
    def layout(self) -> int:
        """A count of rolls and compactions, after which an open file may no longer be the active one."""
        return self.look()[LAYOUT]

    @property
    def exclusive(self) -> int:
        """The process that holds the store exclusively; 0: none."""
        return self.look()[EXCLUSIVE]

    @exclusive.setter
    def exclusive(self, pid: int) -> None:
        self._put(EXCLUSIVE, pid)

    @property
    def sync_failed(self) -> bool:
        """True if a sync has failed, and the journal has not been rewritten since."""
        return self.look()[SYNC_FAILED] != 0

    @property
    def failures(self) -> int:
        """The number of syncs that have failed since the machine started."""
        return self.look()[FAILURES]

    @property
    def history(self) -> tuple[int, int]:
        """(the session, the number of failed syncs): while both stay, no committed event is taken back."""
        return self.session, self.failures

    def covers(self, position: int) -> bool:
        """True if the record at `position` is known to be on the device."""
        return position <= self.durable

    @property
    def ring_file(self) -> int:
        """The identity of the commit ring's file, also from before a restart; 0: none."""
        words = self.look()
        return words[RING_FILE] if words[_FORMAT] == _MAGIC else 0

    @ring_file.setter
    def ring_file(self, identity: int) -> None:
        self._put(RING_FILE, identity)

    # Writing

    def _put(self, at: int, value: int) -> None:
        self._filesystem.write_at(self._fd, _one.pack(value), at * 8)

    def begin_recovery(self, pid: int) -> None:
        """Note that process `pid` recovers, and forget sync failures from before the machine restarted."""
        words = self.look()
        if words[_FORMAT] != _MAGIC or self._filesystem.size(self._fd) < _SIZE_BYTES:
            self._filesystem.write_at(self._fd, bytes(_SIZE_BYTES), 0)
        elif self.is_of_copy or not self.of_this_boot:
            # They were of another file, or of an earlier boot. Since then everything is read from the device.
            self._put(FAILURES, 0)
            self._put(SYNC_FAILED, 0)
            forget_counters(self._filesystem, self._fd)
        self._put(WRITING, pid)

    def recovered(self, committed: int, journal_first: int, journal_size: int, tail: int) -> None:
        """Publish the result of a recovery. Words that were not believed become valid for `session`."""
        if not self.valid:
            self.distrust()  # If the recovery dies before the last write, the next one starts over.
            self._put(EXCLUSIVE, 0)
            self._put(SYNC_FAILED, 0)
            self._put(_BOOT, self._boot)
            self._put(_FILE, self._file)
            self._put(_FORMAT, _MAGIC)
        self.change_layout()
        self.publish(b"", committed, journal_first, journal_size, tail)
        self._put(WRITING, 0)
        self._put(_SESSION, self.session)

    def raw(self) -> bytes:
        """Return the bytes of all words as they are now; see `words_of`."""
        return self._pread(self._fd, _all.size, 0)

    def publish(self, raw: bytes, committed: int, journal_first: int, journal_size: int, tail: int) -> bytes:
        """Publish a commit, which readers see from now on. `tail` is how much a recovery would replay.

        `raw` is what was read when the lock was taken. Returns the bytes before `STANDING` as they are now; those that
        others may have changed meanwhile are taken from `raw`.
        """
        check = _check(committed, journal_first, journal_size)
        data = _five.pack(committed, journal_first, journal_size, check, tail)
        self._filesystem.write_at(self._fd, data, COMMITTED * 8)
        return raw[: COMMITTED * 8] + data + raw[WRITING * 8 : STANDING]

    def begin(self, pid: int) -> None:
        """Mark that process `pid` changes files. If it dies, the next writer finds the mark and recovers."""
        self._put(WRITING, pid)

    def abandon(self) -> None:
        """Clear the mark."""
        self._put(WRITING, 0)

    def distrust(self) -> None:
        """Make the words invalid, so that a recovery does not use them."""
        self._put(_SESSION, 0)

    def made_durable(self, published: tuple[int, int, int], ring_next: tuple[int, int]) -> None:
        """Note that everything published is on the device, and the ring's next place. Needs the sync lock."""
        position, journal_first, journal_size = published
        end = (journal_first & _LOW) << 32 | journal_size
        ring = (ring_next[0] & _LOW) << 32 | ring_next[1]
        self._filesystem.write_at(self._fd, _three.pack(position, end, ring), DURABLE * 8)

    def announce(self, raw: bytes) -> None:
        """After a commit: wake those who wait for it. `raw` is what was read under the write lock, or empty.

        Who began to wait after that looks again by itself: a call here would cost every append as much as `raw` does.
        """
        with contextlib.suppress(OSError):
            raw = raw or self.raw()
            if len(raw) > FOLLOWED_AT and raw[FOLLOWED_AT] & 1:
                self.followers.wake()

    def wake_durable_followers(self) -> None:
        """After a sync: wake those who wait for what is durable now."""
        with contextlib.suppress(OSError):  # The sync has worked.
            if self.look()[DURABLE_FOLLOWED] & 1:
                self.durable_followers.wake()

    def wake_cursor_waiters(self) -> None:
        """After a cursor was moved: wake all who wait for a cursor. Each looks whether it is theirs."""
        with contextlib.suppress(OSError):
            if self.look()[AWAITED] & 1:
                self.cursor_waiters.map()
                self.cursor_waiters.wake_everybody()

    def wake_followers(self) -> None:
        """After a recovery: wake those who wait for what it has published."""
        self.announce(b"")
        self.wake_durable_followers()
        self.wake_cursor_waiters()

    def keep(self) -> None:
        """Sync the words, for what must survive a restart."""
        self._filesystem.sync_data(self._fd)

    def change_layout(self) -> None:
        """Make every process check its open files."""
        self._put(LAYOUT, (self.layout + 1) & _MASK)

    def count_cursor_sync(self, count: int) -> None:
        """Note that a sync of the cursors begins (odd) or has ended (even). Needs the sync lock."""
        self._put(CURSOR_SYNCS, count)

    def count_sync(self, nanoseconds: int) -> None:
        """Count a sync of the journal that took so long. Needs the sync lock."""
        count_sync(self._filesystem, self._fd, nanoseconds)

    def count_sealed(self, first: int, size: int) -> None:
        """Count the bytes of the journal segment from position `first` on, which was sealed. Needs the write lock."""
        count_sealed(self._filesystem, self._fd, first, size)

    def mark_sync_failed(self) -> None:
        """Tell every process that the device has refused bytes."""
        self._put(FAILURES, self.failures + 1)
        self._put(SYNC_FAILED, 1)
