"""The sizes of a store's files: of the journal, of all streams, of the rest, and of the largest streams.

Memory does not grow with the number of streams: only rolled ones are remembered while a folder is listed.
"""

from __future__ import annotations

import contextlib
import heapq
import os

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.filestore.file_names import stream_id_of, stream_path
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.sizes import part_of, sizes_of_files
from hangarlog.log.log import Log
from hangarlog.system.open_folder import Entry
from hangarlog.watching.journal_signs import SEGMENT

PARTS = ("journal", "streams", "other")
"""The parts of a store: the text of the journal, that of the streams, and all other files."""


class Size(msgspec.Struct, frozen=True):
    """How many files, and their bytes."""

    files: int
    bytes: int


class LargeStream(msgspec.Struct, frozen=True):
    """A stream, or if no file tells its id, the path of its file below `streams`, and the bytes of its segments."""

    name: str
    bytes: int


class StoreFiles(msgspec.Struct, frozen=True):
    """The files of a store.

    Attributes:
        parts: The size of each of the `PARTS`.
        streams: How many streams have a file. A deleted one keeps its file.
        largest: The largest streams, the largest first.
    """

    parts: dict[str, Size]
    streams: int
    largest: tuple[LargeStream, ...]


def scan_files(folder: Folder, most: int = 0) -> StoreFiles:
    """List all files of a store, and return their sizes, with the `most` largest streams. Raises `OSError`."""
    scan = _Scan(folder, most)
    scan.run()
    parts = {part: Size(scan.files[part], scan.bytes[part]) for part in PARTS}
    return StoreFiles(parts, scan.streams, tuple(scan.largest()))


class _Scan:
    def __init__(self, folder: Folder, most: int) -> None:
        self._folder, self._most = folder, most
        self.files, self.bytes = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
        self.streams = 0
        self._heap: list[tuple[int, str, str]] = []  # (bytes, category folder, name) of the largest.

    def run(self) -> None:
        folder, filesystem = self._folder, self._folder.filesystem
        for entry in filesystem.entries(folder.path):
            if not entry.is_dir():
                self._count(part_of(folder.path, entry.path), entry)
            elif entry.path == folder.streams_path:
                self._list_streams("", entry.path)
            else:
                with contextlib.suppress(PermissionError):  # `locks` is private also where others may read.
                    for path, size in sizes_of_files(filesystem, entry.path, 2):
                        self._add(part_of(folder.path, path), size)

    def _add(self, part: str, size: int) -> None:
        self.files[part] += 1
        self.bytes[part] += size

    def _count(self, part: str, entry: Entry) -> int:
        with contextlib.suppress(FileNotFoundError):  # A roll or a compaction has removed it.
            size = entry.stat().st_size
            self._add(part, size)
            return size
        return 0

    def _list_streams(self, category: str, path: str) -> None:
        sealed: dict[str, int] = {}
        for entry in self._folder.filesystem.entries(path):
            found = SEGMENT.fullmatch(entry.name)
            if entry.is_dir():
                if not category:
                    self._list_streams(entry.name, entry.path)
            elif found is None:
                self._count("other", entry)
            elif found["first"]:
                sealed[found["name"]] = sealed.get(found["name"], 0) + self._count("streams", entry)
            else:
                self.streams += 1
                self._consider(self._count("streams", entry), category, found["name"])
        for name, size in sealed.items():
            with contextlib.suppress(OSError):
                size += self._folder.filesystem.size_at(os.path.join(path, f"{name}.jsonl"))
            self._consider(size, category, name)

    def _consider(self, size: int, category: str, name: str) -> None:
        # A rolled stream may be there twice, so there is room for twice as many.
        if len(self._heap) < 2 * self._most:
            heapq.heappush(self._heap, (size, category, name))
        elif self._most and size > self._heap[0][0]:
            heapq.heapreplace(self._heap, (size, category, name))

    def largest(self) -> list[LargeStream]:
        """Return the largest streams, the largest first."""
        sizes: dict[tuple[str, str], int] = {}
        for size, category, name in self._heap:
            sizes[category, name] = max(size, sizes.get((category, name), 0))
        ordered = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[: self._most]
        return [LargeStream(_shown_name(self._folder, *place), size) for place, size in ordered]


def _shown_name(folder: Folder, category: str, name: str) -> str:
    """Return the id of the stream with these names, or its path if no file tells."""
    stream_id = stream_id_of(category, name)
    if stream_id is None:  # A long name is shortened, but every line has the id.
        log = Log(folder.filesystem, folder.category_path(category), name, "stream_version")
        with contextlib.suppress(OSError, CorruptionError):
            segment = log.open_active()
            if segment:
                with contextlib.closing(segment):
                    record = segment.first_record()
                if record and stream_path(record.stream_id) == (category, name):
                    stream_id = record.stream_id
    return stream_id or (f"{category}/{name}" if category else name)
