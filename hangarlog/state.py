"""The shared state: a few words that every process of a store maps into its memory. A cache, rebuilt when it is lost.

Words are 64-bit and aligned, so a reader without a lock sees each either before or after a change, never between.
"""

from __future__ import annotations

import contextlib
import mmap

from hangarlog.bell import Bell
from hangarlog.filesystem import FileSystem, boot_id

_MAGIC = 0x34_45_54_41_54_53_4C_48  # "HLSTATE4"
_SIZE = 4096
_MASK = (1 << 64) - 1

(
    _FORMAT,
    _BOOT,
    _FILE,
    _COMMITTED,
    _JOURNAL_FIRST,
    _JOURNAL_SIZE,
    _WRITING,
    _LAYOUT,
    _EXCLUSIVE,
    _SYNC_FAILED,
    _CHECK,
    _FAILURES,
    _DURABLE,
    _DURABLE_END,
    _RING_NEXT,
    _RING_FILE,
    _GATE_BELL,
    _GATE_WAITERS,
    _LOCK_BELL,
    _LOCK_WAITERS,
    _SYNC_BELL,
    _SYNC_WAITERS,
) = range(22)
_LOW = (1 << 32) - 1
_STANDING = _DURABLE * 8
"""Bytes of the words that change only where a writer has something to look at."""


def _check(committed: int, journal_first: int, journal_size: int) -> int:
    # Zeros are no check of zeros. Factors of 30 bits: larger ones take three times as long.
    return (_MAGIC ^ committed * 0x3C6EF35F ^ journal_first * 0x2545F491 ^ journal_size * 0x27D4EB2F << 4) & _MASK


def create_state(filesystem: FileSystem, path: str) -> None:
    """Make the file if it is missing, too short, or somebody else's too. Under the write lock."""
    with contextlib.suppress(FileNotFoundError):
        fd = filesystem.open_read(path)
        try:
            if filesystem.size(fd) >= _SIZE and filesystem.names(fd) == 1:
                return
        finally:
            filesystem.close(fd)
    # Written, not only sized: a page of a sparse file that cannot be stored kills the process.
    filesystem.replace_file(path, bytes(_SIZE), sync=False)


class SharedState:
    """The mapped words of one store.

    Only the holder of the write lock changes them, but for those about syncs, which the holder of the sync lock
    changes, and for the bells.
    """

    def __init__(self, filesystem: FileSystem, path: str, *, writable: bool = True) -> None:
        """Map the file at `path`. Raises `OSError`, or `ValueError` where the file is too short."""
        self._filesystem, self._path, self.writable = filesystem, path, writable
        self._boot = boot_id()
        self.gate_bell, self.lock_bell, self.sync_bell = Bell(), Bell(gives_time=True), Bell()
        self._load()

    def _load(self) -> None:
        filesystem = self._filesystem
        fd = filesystem.open_update(self._path) if self.writable else filesystem.open_read(self._path)
        try:
            if self.writable and filesystem.names(fd) > 1:
                raise ValueError("it has another name (a hard link)")  # Made anew, in its place.
            self._file = filesystem.identity(fd)
            self._map = mmap.mmap(fd, _SIZE, access=mmap.ACCESS_WRITE if self.writable else mmap.ACCESS_READ)
        finally:
            filesystem.close(fd)
        self._words = memoryview(self._map).cast("Q")
        if self.writable:
            for bell, at in ((self.gate_bell, _GATE_BELL), (self.lock_bell, _LOCK_BELL), (self.sync_bell, _SYNC_BELL)):
                bell.hang(self._map, at * 8)

    def reload(self) -> None:
        """Map the file anew if another one has its name, made anew where somebody deleted it. Under the write lock."""
        if self._filesystem.identity_at(self._path) != self._file:
            create_state(self._filesystem, self._path)
            self.close()
            self._load()

    def ask_again(self) -> bool:
        """Where the file could only be mapped for reading: whether it can be written by now."""
        self.close()
        self.writable = True
        try:
            self._load()
        except OSError:
            self.writable = False
            self._load()
        return self.writable

    def close(self) -> None:
        """Unmap the file."""
        for bell in (self.gate_bell, self.lock_bell, self.sync_bell):
            bell.take_down()
        self._words.release()
        self._map.close()

    @property
    def valid(self) -> bool:
        """Whether the words were written here since the machine started: not before a power cut, not in a copy."""
        words = self._words
        return words[_FORMAT] == _MAGIC and words[_BOOT] == self._boot and words[_FILE] == self._file

    def begin_recovery(self, pid: int) -> None:
        """As `begin`; and what failed before the machine restarted is forgotten, as everything is read anew since."""
        words = self._words
        if words[_BOOT] != self._boot:
            words[_FORMAT] = words[_FAILURES] = 0
            words[_BOOT] = self._boot
        self.begin(pid)

    def recovered(self, committed: int, journal_first: int, journal_size: int) -> None:
        """Publish what a recovery found. Only now do words from before a restart become valid."""
        words = self._words
        words[_LAYOUT] = (words[_LAYOUT] + 1) & _MASK
        if not self.valid:
            words[_FORMAT] = 0  # Until all is said: a recovery that dies here must be run again whole.
            words[_EXCLUSIVE] = words[_SYNC_FAILED] = 0
            words[_FILE] = self._file
        self.finish(committed, journal_first, journal_size)
        words[_FORMAT] = _MAGIC

    @property
    def standing(self) -> bytes:
        """What a writer has to look at: where it is as its last commit left it, nobody else has done anything."""
        return self._map[:_STANDING]

    @property
    def consistent(self) -> bool:
        """Whether what the last commit published is what stands here: under the write lock, with no writer's mark."""
        words = self._words
        return words[_CHECK] == _check(words[_COMMITTED], words[_JOURNAL_FIRST], words[_JOURNAL_SIZE])

    def distrust(self) -> None:
        """Make the words invalid, so that a recovery takes nothing from them."""
        self._words[_FORMAT] = 0

    def published(self) -> tuple[int, int, int] | None:
        """What the last commit published: (position, journal's first position, its size); None in the middle of one."""
        words = self._words
        found = words[_COMMITTED], words[_JOURNAL_FIRST], words[_JOURNAL_SIZE]
        return found if words[_CHECK] == _check(*found) else None

    def begin(self, pid: int) -> None:
        """Mark that process `pid` is writing; if it dies, the next one finds the mark and recovers."""
        self._words[_WRITING] = pid

    def finish(self, committed: int, journal_first: int, journal_size: int) -> bytes:
        """Publish a commit: readers see it from here on. `committed` last, then the mark is taken away.

        Returns what is `standing` then; nothing where a sync has failed meanwhile, so that the writer looks.
        """
        words = self._words
        words[_JOURNAL_FIRST] = journal_first
        words[_JOURNAL_SIZE] = journal_size
        words[_CHECK] = _check(committed, journal_first, journal_size)
        words[_COMMITTED] = committed
        words[_WRITING] = 0
        standing = self._map[:_STANDING]
        return b"" if words[_SYNC_FAILED] else standing

    def abandon(self) -> None:
        """Take the mark away after everything was undone."""
        self._words[_WRITING] = 0

    @property
    def writing(self) -> int:
        """The process that is writing, or died at it; 0 if none is."""
        return self._words[_WRITING]

    @property
    def committed(self) -> int:
        """The position of the last committed record."""
        return self._words[_COMMITTED]

    @property
    def end(self) -> tuple[int, int]:
        """(the position that the next record gets, the first one of the live journal segment)."""
        words = self._words
        return words[_COMMITTED] + 1, words[_JOURNAL_FIRST]

    @property
    def journal_first(self) -> int:
        """The first position of the live journal segment."""
        return self._words[_JOURNAL_FIRST]

    @property
    def journal_size(self) -> int:
        """The committed bytes of the live journal segment."""
        return self._words[_JOURNAL_SIZE]

    def covers(self, position: int) -> bool:
        """Whether the record at `position` is known to be on the device."""
        words = self._words
        return position <= words[_DURABLE] <= words[_COMMITTED]  # Beyond that it is not to be believed.

    @property
    def durable(self) -> int:
        """The position up to which everything is known to be on the device."""
        words = self._words
        return words[_DURABLE] if words[_DURABLE] <= words[_COMMITTED] else 0  # Beyond that it is not to be believed.

    def durable_in(self, journal_first: int) -> int:
        """How many bytes of the journal segment that begins with `journal_first` are known to be on the device."""
        end = self._words[_DURABLE_END]
        return end & _LOW if end >> 32 == journal_first & _LOW else 0

    def made_durable(self, position: int, journal_first: int, journal_size: int) -> None:
        """Say that everything up to there is on the device. Under the sync lock."""
        self._words[_DURABLE_END] = (journal_first & _LOW) << 32 | journal_size  # One word: never half of it.
        self._words[_DURABLE] = position

    @property
    def ring_next(self) -> tuple[int, int]:
        """(generation, block) of the commit ring's next frame."""
        word = self._words[_RING_NEXT]
        return word >> 32, word & _LOW

    @ring_next.setter
    def ring_next(self, place: tuple[int, int]) -> None:
        self._words[_RING_NEXT] = (place[0] & _LOW) << 32 | place[1]

    @property
    def ring_file(self) -> int:
        """Which file the commit ring is, 0 if there is none yet. Of a state from before a restart, too."""
        return self._words[_RING_FILE] if self._words[_FORMAT] == _MAGIC else 0

    @ring_file.setter
    def ring_file(self, identity: int) -> None:
        self._words[_RING_FILE] = identity

    def keep(self) -> None:
        """Return when the words are on the device: for what must be known of them after a restart."""
        self._map.flush()

    @property
    def layout(self) -> int:
        """A count of changes after which an open file may no longer be the live one (rolls, compactions)."""
        return self._words[_LAYOUT]

    def change_layout(self) -> None:
        """Tell every process to look at its open files again."""
        self._words[_LAYOUT] = (self._words[_LAYOUT] + 1) & _MASK

    @property
    def exclusive(self) -> int:
        """The process that holds the store exclusively, 0 if none does."""
        return self._words[_EXCLUSIVE]

    @exclusive.setter
    def exclusive(self, pid: int) -> None:
        self._words[_EXCLUSIVE] = pid

    @property
    def sync_failed(self) -> bool:
        """Whether a sync has failed, and the journal has not been written anew since."""
        return bool(self._words[_SYNC_FAILED])

    def failed_since(self, failures: int) -> bool:
        """Whether a sync has failed since there were so many `failures`, or nothing was done about the last one yet."""
        words = self._words
        return words[_FAILURES] != failures or words[_SYNC_FAILED] != 0

    @property
    def failures(self) -> int:
        """How many syncs have failed since the machine started."""
        return self._words[_FAILURES]

    def mark_sync_failed(self) -> None:
        """Tell every process that the device has refused bytes."""
        self._words[_FAILURES] += 1
        self._words[_SYNC_FAILED] = 1
