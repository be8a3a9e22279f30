"""The commit ring: a preallocated file that small commits are synced through. The format is in docs/format.md.

Syncing a file that grows must commit its new size too; syncing existing blocks need not. So what the journal gained
since the last sync is copied into the ring's next blocks, and only those are synced. When the ring is full, the
journal itself is synced, and the ring begins again with the next generation. After a power cut, recovery joins the
journal with the ring's frames.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from hangarlog.errors import StoreFormatError
from hangarlog.record.checksum import crc32
from hangarlog.record.line import decode_record, is_record, stored_crc
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.platform import WINDOWS

BLOCK_BYTES = 4 << 10
"""Each frame begins at a block of its own, so writing it cannot tear the previous one."""

RING_BYTES = 1 << 20
"""Size of the ring: 256 small commits between two syncs of the journal (docs/performance.md)."""

MAX_FRAME_BYTES = 64 << 10
"""The most bytes of journal in a frame. For more, syncing the journal itself is as quick."""

_FORMAT = 1
_NO_ROOM = frozenset([errno.EFBIG, errno.ENOSPC, errno.EDQUOT])
# Not shared with the children of a fork.
_PRIVATE: dict[str, Any] = {} if WINDOWS else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
_START = b"\x1e"  # No JSON text has this byte, so no line looks like a frame.
_MAX_HEADER_BYTES = 512

_Generation = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]  # The next one must fit into 32 bits.
_Position = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Length = Annotated[int, msgspec.Meta(ge=0, lt=RING_BYTES)]


class Frame(msgspec.Struct, frozen=True):
    """The header of a frame, and its `text`: complete lines of the journal, of records `first` to `last`.

    `after` is the checksum of the line before the first, or "" if the writer did not have it at hand.
    """

    ring: int
    store: str
    generation: _Generation
    first: _Position
    last: _Position
    length: _Length
    after: str = ""
    text: bytes = b""


_decode = msgspec.json.Decoder(Frame).decode


def encode_frame(store: bytes, generation: int, first: int, last: int, text: bytes, after: bytes = b"") -> bytes:
    """Return a frame, padded to whole blocks."""
    header = b'\x1e{"ring":%d,"store":"%b","generation":%d,"first":%d,"last":%d,"length":%d,"after":"%b"' % (
        _FORMAT,
        store,
        generation,
        first,
        last,
        len(text),
        after,
    )
    frame = b'%b,"crc":"%08x"}\n%b' % (header, crc32(text, crc32(header)), text)
    return frame.ljust(-(-len(frame) // BLOCK_BYTES) * BLOCK_BYTES, b"\0")


def decode_frame(ring: bytes, offset: int) -> Frame | None:
    """Return the frame at `offset`, or None if there is no intact one."""
    end = ring.find(b"\n", offset, offset + _MAX_HEADER_BYTES)
    if ring[offset : offset + 1] != _START or end < 0:
        return None
    header, mark, crc = ring[offset:end].rpartition(b',"crc":"')
    try:
        frame = _decode(ring[offset + 1 : end])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    text = ring[end + 1 : end + 1 + frame.length]
    if not mark or len(text) != frame.length or b'%08x"}' % crc32(text, crc32(header)) != crc:
        return None
    return msgspec.structs.replace(frame, text=text)


class Found(msgspec.Struct):
    """What a recovery finds in the ring.

    Attributes:
        generation: The last generation begun.
        frames: The intact frames of that generation, in order.
        whole: True if the ring has its full size.
        older: Frames of earlier generations. They matter only if the journal has lost what was synced.
    """

    generation: int = 0
    frames: list[Frame] = []
    whole: bool = False
    older: list[Frame] = []


def read_ring(filesystem: FileSystem, path: str, store: str) -> Found:
    """Return what the ring has. Frames of another store came with a copied file and are skipped.

    Raises:
        StoreFormatError: a newer version of hangarlog wrote it.
        OSError: it cannot be read, so its frames are unknown.
    """
    try:
        ring, size = ring_content(filesystem, path)
    except FileNotFoundError:
        return Found()
    frames = [frame for _, frame in frames_in(ring) if frame.store == store]
    if any(frame.ring > _FORMAT for frame in frames):
        cause = "a newer version of hangarlog wrote its commit ring; open the store once with that version"
        raise StoreFormatError(path, f"{cause}, or delete {path} and lose the last durable commits")
    generation = max((frame.generation for frame in frames), default=0)
    whole = size == RING_BYTES
    older = [frame for frame in frames if frame.generation < generation]
    return Found(generation, [frame for frame in frames if frame.generation == generation], whole, older)


def lines_of_frames(frames: list[Frame], after: int, crc: str) -> dict[int, bytes]:
    """Return {position: line} of the records after position `after`. The line at `after` has the checksum `crc`.

    A frame whose `after` names another line than the preceding one belongs to another history, and is skipped. So is a
    frame that follows a line of such a frame.
    """
    found: dict[int, bytes] = {}
    skipped: set[str] = set()
    for frame in sorted(frames, key=lambda frame: frame.first):
        before = found.get(frame.first - 1)
        known = _crc_of(before) if before else crc if frame.first == after + 1 else ""
        lines = frame.text.split(b"\n")[:-1]
        if frame.after and (frame.after in skipped or (known and frame.after != known)):
            skipped.update(map(_crc_of, lines))
            continue
        found |= {
            position: line
            for position, line in enumerate(lines, frame.first)
            if position > after and is_record(line) and decode_record(line).position == position
        }
    return found


def _crc_of(line: bytes) -> str:
    return stored_crc(line).decode("ascii", "replace")


def ring_owner(filesystem: FileSystem, path: str) -> str:
    """Return the id of the store that most frames belong to, or "" if there are none."""
    try:
        stores = [frame.store for _, frame in frames_in(ring_content(filesystem, path)[0])]
    except OSError:
        return ""
    return max(stores, key=stores.count, default="")


def usable_ring(filesystem: FileSystem, path: str) -> int:
    """Return the identity of the ring's file, or 0 if it cannot be used."""
    try:
        fd = filesystem.open_update(path)
    except OSError:
        return 0
    try:
        return filesystem.identity(fd) if filesystem.size(fd) == RING_BYTES and filesystem.names(fd) == 1 else 0
    finally:
        filesystem.close(fd)


def ring_content(filesystem: FileSystem, path: str) -> tuple[bytes, int]:
    """Return (the first `RING_BYTES` bytes of a ring's file, the size of the file). Raises `OSError`."""
    fd = filesystem.open_read(path)
    try:
        return filesystem.read(fd, RING_BYTES, 0), filesystem.size(fd)
    finally:
        filesystem.close(fd)


def frames_in(ring: bytes) -> Iterator[tuple[int, Frame]]:
    """Yield (first block, frame) of each intact frame of a ring. Frames do not overlap.

    A partly overwritten frame is no longer intact, so all frames together fit into the ring.
    """
    block = 0
    while block * BLOCK_BYTES < len(ring):
        frame = decode_frame(ring, block * BLOCK_BYTES)
        if frame:
            yield block, frame
        block = block_after(ring, block, frame) if frame else block + 1


def block_after(ring: bytes, block: int, frame: Frame) -> int:
    """Return the first block after a frame that begins at `block`."""
    text = ring.index(b"\n", block * BLOCK_BYTES) + 1
    return -(-(text + frame.length) // BLOCK_BYTES)


class Ring:
    """The open ring. For the holder of the sync lock only."""

    def __init__(self, filesystem: FileSystem, path: str, store: str) -> None:
        self._filesystem, self._path, self._store = filesystem, path, store.encode()
        self._fd, self.identity = -1, 0
        self._synced = True  # True if each write is on the device when it returns.
        self._page: memoryview | None = None  # Aligned, as such writes require.

    def open(self, identity: int) -> bool:
        """Open the ring with this identity. Returns False if it is missing or was cut."""
        if self._fd >= 0 and self.identity == identity and self._filesystem.size(self._fd) == RING_BYTES:
            return True
        self.close()
        with contextlib.suppress(OSError):
            self._open()
            whole = self._filesystem.size(self._fd) == RING_BYTES and self._filesystem.names(self._fd) == 1
            if whole and self.identity == identity:
                return True
        self.close()
        return False

    def create(self) -> int:
        """Replace the file with a ring of zeros, and return its identity. Raises `OSError`."""
        self.close()
        self._filesystem.replace_file(self._path, bytes(RING_BYTES))
        self._open()
        return self.identity

    def _open(self) -> None:
        if self._synced:
            self._fd, self._synced = self._filesystem.open_synced(self._path)
        else:
            self._fd = self._filesystem.open_update(self._path)
        self.identity = self._filesystem.identity(self._fd)

    def write(self, generation: int, block: int, first: int, last: int, text: bytes, after: bytes) -> int:
        """Write a frame at `block` and sync it. Returns the next block, or -1 if there is no room. Raises `OSError`."""
        frame = encode_frame(self._store, generation, first, last, text, after)
        if block * BLOCK_BYTES + len(frame) > RING_BYTES:
            return -1
        try:
            if not (self._synced and self._write_through(frame, block * BLOCK_BYTES)):
                self._filesystem.write_at(self._fd, frame, block * BLOCK_BYTES)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            return -1  # A limit or a quota may refuse it although the blocks exist.
        if not self._synced:
            self._filesystem.sync_data(self._fd)
        return block + len(frame) // BLOCK_BYTES

    def _write_through(self, frame: bytes, offset: int) -> bool:
        """Write and sync in one call. Returns False if the device does not support that."""
        page = self._page
        if page is None:
            page = self._page = memoryview(mmap.mmap(-1, MAX_FRAME_BYTES + 2 * BLOCK_BYTES, **_PRIVATE))
        text = page[: len(frame)]
        text[:] = frame
        try:
            self._filesystem.write_at(self._fd, text, offset)
            return True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        self.close()
        self._synced = False
        self._open()
        return False

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._filesystem.close(fd)
