"""The catalog: the last version of every stream, in a file that all processes share. A cache of the journal.

A stream's own file cannot show that its end is missing. So each commit notes here where its streams end, and each
append, and each read of a stream's end, compares. The file is a hash table with open addressing, in native byte order:
a header of eight words (magic, two marks, used slots, slots, session, 0, 0), then slots of two words. The first word is
a hash of the stream's id. The second has the low 32 bits of its last position in the upper half, and its last version
plus one in the lower half. Slots are never emptied.

A checkpoint writes its mark here before the file is synced. So a catalog with the mark of the last checkpoint has
everything up to it, and recovery adds what came later.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from hangarlog.record.checksum import blake2b
from hangarlog.system.filesystem import FileSystem

_MAGIC = 0x31_47_4C_54_43_4C_48  # "HLCTLG1"
LOW = (1 << 32) - 1
_MIN_SLOTS = 1 << 10  # Slots of a new catalog.
_HEADER, _SLOT, _ONE = Struct("=6Q16x"), Struct("=2Q"), Struct("=Q")
_MARKS = Struct("=2Q")
_USED_AT, _SESSION_AT = 24, 40
_VERSIONS = slice(2 if sys.byteorder == "little" else 3, None, 4)  # The versions among the 32-bit halves of slots.
_SLOTS_AT_ONCE = 16  # Slots read at a time.
# The most slots from a stream's first choice to its own. Even a huge table needs about a hundred.
_MAX_DISTANCE_SLOTS = 1 << 12
_PART_BYTES = 1 << 20  # Bytes read at a time: whole slots.


class Known(NamedTuple):
    """The last committed record of a stream: its version, and the low 32 bits of its position."""

    version: int
    position: int

    def is_after(self, position: int) -> bool:
        """True if this is a record after a position, by less than 2^31."""
        return 0 < (self.position - position) & LOW < 1 << 31

    def is_at(self, position: int) -> bool:
        """True if this may be the record at a position."""
        return position & LOW == self.position

    def position_before(self, committed: int) -> int:
        """Return its full position, which is at most `committed`."""
        return committed - ((committed - self.position) & LOW)


NO_STREAM = Known(-1, 0)


class Catalog:
    """The open catalog of a store. Only the holder of the write lock changes it. Calls raise `OSError`."""

    def __init__(self, filesystem: FileSystem, path: str) -> None:
        self._filesystem, self.path = filesystem, path
        self._fd, self._pread = -1, filesystem.pread
        self._slots = self.inode = 0
        self._reading = self._closed = False
        self._places: dict[str, tuple[bytes, int]] = {}  # {stream id: (its hash, the offset of its slot)}

    def open(self, session: int = 0, *, reading: bool = False) -> bool:
        """Open the file if it is intact and belongs to `session` (0: to any). With `reading`, open it read-only.

        Returns False if it cannot be used, and keeps the file that was open. Other threads may read meanwhile.
        """
        filesystem = self._filesystem
        try:
            fd = filesystem.open_read(self.path) if reading else filesystem.open_update(self.path)
        except FileNotFoundError:
            return False
        try:
            header = filesystem.read(fd, _HEADER.size, 0)
            magic, _, _, _, slots, its_session = _HEADER.unpack(header.ljust(_HEADER.size, b"\0"))
            whole = magic == _MAGIC and filesystem.size(fd) == _HEADER.size + slots * _SLOT.size
            if not (whole and filesystem.names(fd) == 1 and session in (0, its_session)):
                return False
            inode = filesystem.identity(fd)
            self._places.clear()
            if self._fd < 0:
                self._fd, fd = fd, -1
            else:
                filesystem.become(self._fd, fd)
        finally:
            if fd >= 0:
                filesystem.close(fd)
        self._reading, self._slots, self.inode = reading, slots, inode
        self._places.clear()  # Another thread may have found these in the previous file.
        if self._closed:  # Closed meanwhile, by a thread that did not wait for this read.
            self.close()
            return False
        return True

    def create(self) -> None:
        """Replace the file with an empty catalog. Needs the write lock."""
        self._replace({}, (0, 0), 0)

    def close(self) -> None:
        """Close the file for good."""
        self._closed = True
        self.let_go()

    def let_go(self) -> None:
        """Close the file. Nothing is known until `open`."""
        self._places.clear()
        self._slots = self.inode = 0
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._filesystem.close(fd)

    @property
    def is_in_place(self) -> bool:
        """True if the open file is the one at its path."""
        return self.inode != 0 and self._filesystem.identity_at(self.path) == self.inode

    @property
    def is_open(self) -> bool:
        """True if a file is open."""
        return self._fd >= 0

    # Reading

    def get(self, stream_id: str) -> Known | None:
        """Return the last record of a stream, or None if it is unknown."""
        place = self._places.get(stream_id)
        if place:
            slot = self._pread(self._fd, _SLOT.size, place[1])
            if slot[:8] == place[0] and len(slot) == _SLOT.size:
                return _known(_ONE.unpack_from(slot, 8)[0])
        _, word = self._find(stream_id)
        return _known(word)

    def _find(self, stream_id: str) -> tuple[int, int]:
        """Return (offset of a stream's slot, or of a free one; the slot's second word); (0, 0) if there is no room."""
        key = _key(stream_id)
        wanted = _number(key)
        start = at = wanted % self._slots if self._slots else 0
        for _ in range(min(self._slots, _MAX_DISTANCE_SLOTS) // _SLOTS_AT_ONCE + 2):
            count = min(_SLOTS_AT_ONCE, self._slots - at)
            data = self._filesystem.read(self._fd, count * _SLOT.size, _HEADER.size + at * _SLOT.size)
            for slot, (found, word) in enumerate(_SLOT.iter_unpack(data[: len(data) // 16 * 16]), at):
                if found in (wanted, 0):
                    offset = _HEADER.size + slot * _SLOT.size
                    if found:
                        self._remember(stream_id, key, offset)
                    return offset, word
            at = (at + count) % self._slots if self._slots else 0
            if at == start:
                break
        return 0, 0

    def _remember(self, stream_id: str, key: bytes, offset: int) -> None:
        if len(self._places) >= 8192:
            self._places.clear()
        self._places[stream_id] = key, offset

    def count(self) -> int:
        """Return how many streams there are. Reads the whole file."""
        count = 0
        for slots in self._parts():
            versions = memoryview(slots).cast("I")[_VERSIONS].tolist()
            count += len(versions) - versions.count(0)
        return count

    def _parts(self) -> Iterator[bytes]:
        """Yield the slots in parts, without the holes of the file, which have no streams."""
        offset, stop = _HEADER.size, _HEADER.size + self._slots * _SLOT.size
        while offset < stop:
            begin, end = (min(at, stop) for at in self._filesystem.data_from(self._fd, offset))
            for at in range(begin, end, _PART_BYTES):
                slots = self._filesystem.read(self._fd, min(_PART_BYTES, end - at), at)
                yield slots[: len(slots) // _SLOT.size * _SLOT.size]
            if end <= offset:
                return
            offset = end

    def compare(self, stream_ids: Iterable[str]) -> tuple[dict[str, Known], int]:
        """Return ({stream id: last record} of those of these streams that it has, the number of other streams it has).

        Reads the whole file.
        """
        words = {key: word for key, word in self._entries().items() if word & LOW}
        known = {}
        for stream_id in stream_ids:
            word = words.pop(_number(_key(stream_id)), 0)
            if found := _known(word):
                known[stream_id] = found
        return known, len(words)

    def used(self) -> int:
        """Return how many slots are used: one for each stream, or a few more."""
        return self._word(_USED_AT)

    def _word(self, at: int) -> int:
        data = self._filesystem.read(self._fd, 8, at)
        return int(_ONE.unpack(data)[0]) if len(data) == 8 else 0

    def marks(self) -> tuple[int, int]:
        """Return the marks of the last two checkpoints: (the one before, the last one begun)."""
        header = self._filesystem.read(self._fd, _HEADER.size, 0)
        return _HEADER.unpack(header)[1:3] if len(header) == _HEADER.size else (0, 0)

    # Writing

    def put(self, stream_id: str, version: int, position: int) -> None:
        """Note the last version of a stream, and the position of that record. Version -1: the stream does not exist."""
        word = (position & LOW) << 32 | (version + 1) & LOW
        place = self._places.get(stream_id)
        offset = place[1] if place else self._find(stream_id)[0]
        if place or stream_id in self._places:
            self._filesystem.write_at(self._fd, _ONE.pack(word), offset + 8)
            return
        used = self.used()
        if not offset or (used + 1) * 2 > self._slots:
            self._rewrite()
            offset, _ = self._find(stream_id)
            if not offset:
                self._replace({}, (0, 0), self.session())
                offset, _ = self._find(stream_id)
            used = self.used()  # The old header may have been wrong.
        key = _key(stream_id)
        self._filesystem.write_at(self._fd, _SLOT.pack(_number(key), word), offset)
        self._filesystem.write_at(self._fd, _ONE.pack(used + 1), _USED_AT)
        self._remember(stream_id, key, offset)

    def mark(self, before: int, mark: int) -> None:
        """Note that a checkpoint with this mark was begun, after the one with the mark `before`."""
        self._filesystem.write_at(self._fd, _MARKS.pack(before, mark), 8)

    def begin_session(self, session: int) -> None:
        """Note that the catalog has everything committed before `session`."""
        self._filesystem.write_at(self._fd, _ONE.pack(session), _SESSION_AT)

    def follow(self, session: int) -> bool:
        """Use the session's file at the path, or restore it if somebody deleted it. Needs the write lock.

        Returns False if this process does not have the session's catalog either.
        """
        if self.is_in_place and not self._reading:
            return self.session() == session
        if self.open(session):
            return True
        if not self.is_open or self._reading or self.session() != session:
            return False
        self._rewrite()
        return True

    def session(self) -> int:
        """Return the session that the catalog belongs to."""
        return self._word(_SESSION_AT)

    def _rewrite(self) -> None:
        self._replace(self._entries(), self.marks(), self.session())

    def _entries(self) -> dict[int, int]:
        return {key: word for slots in self._parts() for key, word in _SLOT.iter_unpack(slots) if key}

    def _replace(self, entries: dict[int, int], marks: tuple[int, int], session: int) -> None:
        table = _table(entries)
        if not table:  # Somebody chose ids whose keys collide. The journal has all streams.
            entries, marks, table = {}, (0, 0), _table({})
        header = _HEADER.pack(_MAGIC, *marks, len(entries), len(table), session)
        text = b"".join([header, *table])
        # Synced, because a catalog with a mark must have everything before its checkpoint.
        self._filesystem.replace_file(self.path, text, sync=bool(any(marks)))
        if not self.open():
            raise OSError(5, "the catalog that was just made cannot be opened", self.path)


def _table(entries: dict[int, int]) -> list[bytes]:
    """Return a table at most half full, or [] if an entry would be over `_MAX_DISTANCE_SLOTS` from its first slot."""
    slots = _MIN_SLOTS
    while len(entries) * 4 > slots:
        slots *= 2
    empty = bytes(_SLOT.size)
    table = [empty] * slots
    for key, word in entries.items():
        place: int | None = key % slots
        if table[key % slots] is not empty:
            places = (at % slots for at in range(key, key + _MAX_DISTANCE_SLOTS))
            place = next((at for at in places if table[at] is empty), None)
        if place is None:
            return []
        table[place] = _SLOT.pack(key, word)
    return table


def _key(stream_id: str) -> bytes:
    return blake2b(stream_id.encode(), digest_size=8).digest()


def _number(key: bytes) -> int:
    return int.from_bytes(key, sys.byteorder) or 1


def _known(word: int) -> Known | None:
    version = (word & LOW) - 1
    return Known(version, word >> 32) if version >= 0 else None
