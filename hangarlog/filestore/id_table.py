"""The table of event ids: from the hash of an id to the position of its event. A file that all processes share.

The file is a hash table of pages of 4 KiB, in native byte order. The first page has the header: magic, salt, number of
pages, the position up to which all events are in the table, keys in use, checksum of that position's line, checksum of
the header. Each other page has room for 255 keys, then for their positions, then its number of keys and its checksum.
A key's page is its remainder by the number of pages; there is no second choice. Keys are hashes with the salt, so
nobody can choose ids that fill one page.

A page is written as a whole and only gains keys. The header is written after the pages are on the device. So what the
header says is covered is in the table, after every crash; a page that was torn, or has rotted, fails its checksum.
"""

from __future__ import annotations

import contextlib
import os
import sys
from array import array
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from hangarlog.record.checksum import blake2b, crc32
from hangarlog.system.filesystem import FRESH, FileSystem

PAGE_BYTES = 4096
_PAGE_KEYS = 255
_KEYS_BYTES = 8 * _PAGE_KEYS
_POSITIONS = _KEYS_BYTES
_COUNT = 2 * _KEYS_BYTES
_FILLED = 170  # Keys in a page, on average, at which the table grows. A page with 255 is six deviations away.
_HEADER, _CHECK = Struct("=8s16sQQQI"), Struct("=I")
_TRAILER = Struct("=I8xI")
_ONE = Struct("=Q")
_MAGIC = b"HLIDS1" + (b"<\0" if sys.byteorder == "little" else b">\0")


class TableError(Exception):
    """The file is not what was written: make it anew from the journal."""


class Covered(NamedTuple):
    """What a table covers: every event up to `position`, whose line has the checksum `crc`."""

    position: int = 0
    crc: int = 0


class IdTable:
    """An open table. Calls raise `OSError`, and `TableError` if the file is damaged.

    Any process may read it at any time, but only the holder of its lock writes. A table that was replaced at its path
    still has everything that its header says.
    """

    def __init__(self, filesystem: FileSystem, path: str, store_id: str, fd: int) -> None:
        self._filesystem, self.path, self._store, self._fd = filesystem, path, crc32(store_id.encode()), fd
        self._salt = self._raw = b""
        self.pages, self.used, self.covered = 1, 0, Covered()

    @classmethod
    def open(cls, filesystem: FileSystem, path: str, store_id: str, *, writable: bool) -> IdTable:
        """Open the file at `path`. Raises `TableError` if it is no table of this store, or has another name."""
        table = cls(
            filesystem, path, store_id, filesystem.open_update(path) if writable else filesystem.open_read(path)
        )
        try:
            if writable and filesystem.names(table._fd) > 1:
                raise TableError("it has another name (a hard link)")
            table.load()
        except BaseException:
            table.close()
            raise
        return table

    @classmethod
    def create(cls, filesystem: FileSystem, path: str, store_id: str, count: int) -> IdTable:
        """Put an empty table with room for `count` keys in place of the file at `path`, and return it."""
        table = cls(filesystem, path, store_id, -1)
        table._salt = os.urandom(16)
        while not table.has_room(count):
            table.pages *= 2
        table._replace(iter([(b"", array("Q"))] * table.pages))
        return table

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._filesystem.close(fd)

    __del__ = close

    @property
    def identity(self) -> int:
        """The identity of the open file."""
        return self._filesystem.identity(self._fd)

    # The header

    def load(self) -> None:
        """Read the header."""
        raw = self._read_header()
        if len(raw) < _HEADER.size + 4 or raw[:8] != _MAGIC:
            raise TableError("it is not a table of event ids")
        header = raw[: _HEADER.size]
        if _CHECK.unpack_from(raw, _HEADER.size)[0] != crc32(header, self._store):
            raise TableError("its header is damaged, or of another store")
        _, self._salt, self.pages, position, self.used, crc = _HEADER.unpack(header)
        if not self.pages or self._filesystem.size(self._fd) != (1 + self.pages) * PAGE_BYTES:
            raise TableError("its size is not what its header says")
        self._raw, self.covered = raw, Covered(position, crc)

    def _read_header(self) -> bytes:
        return self._filesystem.pread(self._fd, _HEADER.size + 4, 0)

    @property
    def is_as_loaded(self) -> bool:
        """True if the header is what `load` has read."""
        return self._read_header() == self._raw

    def _put_header(self, covered: Covered) -> None:
        header = _HEADER.pack(_MAGIC, self._salt, self.pages, covered.position, self.used, covered.crc)
        self._filesystem.write_at(self._fd, header + _CHECK.pack(crc32(header, self._store)), 0)

    # Keys

    def key(self, event_id: str, stream_id: str | None = None) -> bytes:
        """Return the key of an event id; with `stream_id`, that of a further event with this id, in another stream."""
        raw = event_id.encode("utf-8", "surrogatepass")
        if stream_id is None:
            return blake2b(raw, digest_size=8, key=self._salt).digest()
        return blake2b(b"%b\0%b" % (raw, stream_id.encode()), digest_size=8, key=self._salt, person=b"stream").digest()

    def get(self, key: bytes) -> int:
        """Return the position that a key leads to, 0 if there is none. The event may have another id."""
        page = self._page(_ONE.unpack(key)[0] % self.pages)
        at = _find(page, key)
        return int(_ONE.unpack_from(page, _POSITIONS + at)[0]) if at >= 0 else 0

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return those of many keys that are not in the table. Each page is read once."""
        by_page: dict[int, list[bytes]] = {}
        for key in keys:
            by_page.setdefault(_ONE.unpack(key)[0] % self.pages, []).append(key)
        return [
            key
            for number in by_page
            for page in [self._page(number)]
            for key in by_page[number]
            if _find(page, key) < 0
        ]

    def _page(self, number: int) -> bytes:
        for _ in range(3):  # Somebody may be writing it.
            page = self._filesystem.read(self._fd, PAGE_BYTES, (1 + number) * PAGE_BYTES)
            if len(page) == PAGE_BYTES and _CHECK.unpack_from(page, PAGE_BYTES - 4)[0] == self._check(number, page):
                return page
        raise TableError(f"page {number} is damaged")

    def _check(self, number: int, page: bytes) -> int:
        return crc32(memoryview(page)[: PAGE_BYTES - 4], crc32(b"%b%d" % (self._salt, number)))

    # Writing

    def put(self, entries: Iterable[tuple[bytes, int]], *, replace: bool = False) -> list[tuple[bytes, int, int]]:
        """Add {key: position}, or with `replace` set what is there; `cover` must follow.

        Returns (key, its position, the position that is there) of keys that lead elsewhere. Raises `OverflowError` if a
        page is full.
        """
        others: list[tuple[bytes, int, int]] = []
        by_page: dict[int, dict[bytes, int]] = {}
        pages, unpack = self.pages, _ONE.unpack
        for key, position in entries:
            on_page = by_page.setdefault(unpack(key)[0] % pages, {})
            if on_page.setdefault(key, position) != position:
                others.append((key, position, on_page[key]))
        for number, on_page in sorted(by_page.items()):
            page = self._page(number)
            keys, positions = _content(page)
            for key in [key for key in on_page if _find(page, key) >= 0] if keys else ():
                position, at = on_page.pop(key), _find(page, key) // 8
                if replace:
                    positions[at] = position
                elif positions[at] != position:
                    others.append((key, position, positions[at]))
            if on_page or replace:
                positions.extend(on_page.values())
                self._put_page(number, keys + b"".join(on_page), positions)
                self.used += len(on_page)
        return others

    def _put_page(self, number: int, keys: bytes, positions: array[int]) -> None:
        self._filesystem.write_at(self._fd, self._packed(number, keys, positions), (1 + number) * PAGE_BYTES)

    def _packed(self, number: int, keys: bytes, positions: array[int]) -> bytes:
        count = len(positions)
        if count > _PAGE_KEYS:
            raise OverflowError(f"page {number} is full")
        body = keys.ljust(_KEYS_BYTES, b"\0") + positions.tobytes().ljust(_KEYS_BYTES, b"\0") + _TRAILER.pack(count, 0)
        return body[:-4] + _CHECK.pack(self._check(number, body))

    def cover(self, covered: Covered) -> None:
        """Bring the pages to the device, then note that the table has every event up to a position."""
        self._sync()
        self._put_header(covered)
        self.load()

    def _sync(self) -> None:
        try:
            self._filesystem.sync_data(self._fd)
        except OSError:
            # A later sync would prove nothing: nobody may go on with this file.
            with contextlib.suppress(OSError):
                self._filesystem.write_at(self._fd, bytes(_HEADER.size), 0)
                self._filesystem.remove(self.path)
            raise

    def has_room(self, count: int) -> bool:
        """True if `count` more keys fit without the table growing."""
        return self.used + count <= self.pages * _FILLED

    def grow(self) -> None:
        """Replace the file with one of twice the pages."""
        if (self.used + _PAGE_KEYS) * 64 < self.pages:
            raise TableError("its pages are full, but the table is not")
        before, pages = IdTable(self._filesystem, self.path, "", self._fd), self.pages
        before._salt = self._salt
        self._fd, self.pages = -1, 2 * pages
        try:
            self._replace(_share(before._page(number % pages), number, 2 * pages) for number in range(2 * pages))
        except BaseException:
            self._fd, self.pages, before._fd = before._fd, pages, -1
            raise
        before.close()

    def _replace(self, contents: Iterator[_Content]) -> None:
        """Write all pages into a new file, bring it to the device, and put it in place."""
        filesystem, fresh = self._filesystem, self.path + FRESH
        filesystem.remove(fresh)
        filesystem.close(filesystem.open_new(fresh))
        try:
            self._fd = filesystem.open_update(fresh)  # What is opened as new can only be appended to.
            for number, content in enumerate(contents):
                self._put_page(number, *content)
            self._put_header(self.covered)
            filesystem.sync_data(self._fd)  # In a new file, a page that is lost fails its checksum.
            filesystem.rename(fresh, self.path)
            self.load()
        except BaseException:
            self.close()
            with contextlib.suppress(OSError):
                filesystem.remove(fresh)  # The disk may be full.
            raise


_Content = tuple[bytes, "array[int]"]
"""The keys of a page, and their positions."""


def _content(page: bytes) -> _Content:
    count = min(_TRAILER.unpack_from(page, _COUNT)[0], _PAGE_KEYS)
    return page[: 8 * count], array("Q", page[_POSITIONS : _POSITIONS + 8 * count])


def _find(page: bytes, key: bytes) -> int:
    """Return the offset of a key in a page, -1 if it is not there."""
    at = page.find(key, 0, _KEYS_BYTES)
    while at >= 0 and at % 8:
        at = page.find(key, at + 1, _KEYS_BYTES)
    return at


def _share(page: bytes, number: int, pages: int) -> _Content:
    """Return what belongs on page `number` of `pages` of what is on a page of a smaller table."""
    keys, positions = _content(page)
    chosen = [at for at, (key,) in enumerate(_ONE.iter_unpack(keys)) if key % pages == number]
    return b"".join([keys[8 * at : 8 * at + 8] for at in chosen]), array("Q", [positions[at] for at in chosen])
