"""What the files of a store prove, by zlib and json as docs/format.md has it: what must be held by who opens them."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hangarlog import FileEventStore
from hangarlog.eventstore.selection import Span
from hangarlog.filestore.event_ids import Moment
from hangarlog.log.zstd import MAGIC, zstd
from hangarlog.record.line import StoredEnvelope, is_erased

BLOCK = 4 << 10
META = "hangarlog.json"
Row = tuple[int, str, int, str]  # Position, stream, version, event id.
READABLE = "put-aside.jsonl", ".damaged"  # Where recovery and repair keep what no history leads to.


def text_in(name: str, content: bytes) -> bytes:
    """The text of a file of this name: what its whole frames have if it is compressed, up to the first that is not."""
    if ".zst" not in name:
        return content
    module, texts = zstd(name), []
    with contextlib.suppress(module.ZstdError):
        while content.startswith(MAGIC):
            unpacker = module.ZstdDecompressor()
            texts.append(unpacker.decompress(content))
            content = unpacker.unused_data
    return b"".join(texts)


class Proved(NamedTuple):
    """A whole line."""

    position: int
    stream_id: str
    version: int
    event_id: str
    batch_end: int
    line: bytes

    @property
    def ends_batch(self) -> bool:
        return self.batch_end in (0, self.position)

    @property
    def is_erased(self) -> bool:
        return b'"event_type":"","event_id":' in self.line


def proved(line: bytes) -> Proved | None:
    """What a line, given with its newline, says, if its checksum is right."""
    body, mark, tail = line.rpartition(b',"crc":"')
    if not mark or tail != b'%08x"}\n' % zlib.crc32(body):
        return None
    found = json.loads(line)
    place = found["position"], found["stream_id"], found["stream_version"], found["event_id"]
    return Proved(*place, found.get("batch_end", 0), line)


def whole_lines(text: bytes) -> Iterator[Proved]:
    for line in text.splitlines(keepends=True):  # A line holds no other line's end: msgspec escapes "\r".
        if line.startswith(b'{"position":') and (found := proved(line)):
            yield found


def frames(ring: bytes, store_id: str) -> Iterator[bytes]:
    """The text of every whole frame of the ring, of any generation."""
    for start in range(0, len(ring), BLOCK):
        header, _, rest = ring[start:].partition(b"\n")
        signed, mark, crc = header.rpartition(b',"crc":"')
        if not mark or header[:1] != b"\x1e":
            continue
        with contextlib.suppress(ValueError):
            frame = json.loads(header[1:])
            text = rest[: frame["length"]]
            if frame["store"] == store_id and crc == b'%08x"}' % zlib.crc32(text, zlib.crc32(signed)):
                yield text


@dataclass
class Evidence:
    """`lines`: every whole line of journal, ring and streams by position; `committed`: the last position that the
    journal, the ring or the checkpoint says was reached; `streams_only`: positions beyond it, which only streams have.
    """

    lines: dict[int, Proved] = field(default_factory=dict)
    committed: int = 0
    streams_only: dict[int, Proved] = field(default_factory=dict)

    def through(self, first: int = 1) -> int:
        """The last position of the whole batches that follow on each other from position `first` on."""
        whole = first - 1
        for position in range(first, self._connected(first) + 1):
            if self.lines[position].ends_batch:
                whole = position
        return whole

    @property
    def gap(self) -> bool:
        """Whether something was committed behind a position that no file has."""
        return self.committed > self._connected()

    def _connected(self, first: int = 1) -> int:
        position = first - 1
        while position + 1 in self.lines and position < self.committed:
            position += 1
        return position


def segments_in(files: Iterable[Path]) -> list[Path]:
    """Those files that are segments, compressed or not."""
    return [file for file in files if file.name.endswith((".jsonl", ".jsonl.zst"))]


def evidence(folder: Path) -> Evidence:
    found = Evidence()
    store_id = json.loads((folder / "hangarlog.json").read_bytes())["store_id"]
    texts = [text_in(file.name, file.read_bytes()) for file in segments_in(folder.glob("journal*"))]
    ring = folder / "ring"
    texts += frames(ring.read_bytes(), store_id) if ring.exists() else []
    for text in texts:
        for line in whole_lines(text):
            found.lines.setdefault(line.position, line)
    found.committed = max([_checkpoint(folder), *found.lines])
    for file in segments_in((folder / "streams").rglob("*")):
        for line in whole_lines(text_in(file.name, file.read_bytes())):
            if line.is_erased:
                continue  # It keeps the place of a hidden event, and proves nothing of what it was.
            if line.position > found.committed:
                found.streams_only[line.position] = line
            found.lines.setdefault(line.position, line)
    return found


def _checkpoint(folder: Path) -> int:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return int(json.loads((folder / "checkpoint.json").read_bytes())["position"])
    return 0


def kept_aside(folder: Path) -> set[bytes]:
    """Every line that a recovery or a repair has put where a person can read it."""
    return {
        line
        for path in folder.rglob("*")
        if path.is_file() and path.name.endswith(READABLE)
        for line in text_in(path.name, path.read_bytes()).splitlines(keepends=True)
    }


class Files(NamedTuple):
    """All files of a store at one moment: contents by path inside it, other names of a file by its first one."""

    contents: dict[str, bytes]
    links: dict[str, str]
    folders: list[str]

    @classmethod
    def of(cls, folder: str | os.PathLike[str], before: dict[str, bytes] | None = None) -> Files:
        """As they are now. A content that is the same as in `before` is kept only once."""
        contents: dict[str, bytes] = {}
        links: dict[str, str] = {}
        first: dict[int, str] = {}
        all_folders: list[str] = []
        for path, folders, names in os.walk(folder):
            folders.sort()
            all_folders += [os.path.relpath(os.path.join(path, name), folder) for name in folders]
            for name in sorted(names):
                full = os.path.join(path, name)
                inside = os.path.relpath(full, folder)
                inode = os.stat(full).st_ino
                if first.setdefault(inode, inside) != inside:
                    links[inside] = first[inode]
                    continue
                with open(full, "rb") as file:
                    content = file.read()
                old = (before or {}).get(inside)
                contents[inside] = old if old == content else content
        return cls(contents, links, all_folders)

    def put(self, folder: Path) -> None:
        """Make `folder` hold exactly that, in place: a file that stays keeps its inode, as after a remount.

        `hangarlog.json` also keeps the time of its last change, which is the same as long as the folder is no copy.
        """
        for file in list(folder.rglob("*")):
            inside = os.path.relpath(file, folder)
            if not file.is_dir() and (inside not in self.contents or file.stat().st_nlink > 1):
                file.unlink()
        for path, _, _ in os.walk(folder, topdown=False):
            if path != str(folder) and os.path.relpath(path, folder) not in self.folders:
                with contextlib.suppress(OSError):  # It is not empty.
                    os.rmdir(path)
        for inside in sorted(self.folders):
            os.makedirs(folder / inside, mode=0o700, exist_ok=True)
        for inside, content in self.contents.items():
            if inside != META or _content(folder / inside) != content:
                write_in_place(folder / inside, content)
        for inside, first in self.links.items():
            os.link(folder / first, folder / inside)


def _content(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def write_in_place(path: Path, content: bytes) -> None:
    """Give a file other bytes, and leave it its inode."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(fd, content)
        os.truncate(fd, len(content))
    finally:
        os.close(fd)


def stored(records: Any) -> list[Row]:
    """Records that a store has given."""
    return [(record.position, record.stream_id, record.stream_version, record.event_id) for record in records]


def all_stored(store: FileEventStore, dropped: dict[str, set[int]], *, skip: bool = False) -> list[Row]:
    """What a store gives, and the places of what is erased: only what its stream was told to hide."""
    records = _all_records(store, skip=skip)
    shown = [record for record in records if not is_erased(record)]
    assert stored(store.records(on_damage="skip" if skip else "raise")) == stored(shown), (
        "reads give something else than the journal has"
    )
    for record in records:
        hidden = record.stream_version < max(dropped.get(record.stream_id, {0}))
        assert hidden or not is_erased(record), f"{record.stream_id} version {record.stream_version} is erased"
    return stored(records)


def _all_records(store: FileEventStore, *, skip: bool = False) -> list[StoredEnvelope]:
    moment = Moment(store.last_position, store._reader.layout, (0, 0))
    return [record for block in store._reader.blocks_at(Span(None, skip=skip), moment) for record in block]


def check_commits(held: list[Row], commits: dict[int, list[tuple[str, str]]], first: int = 1) -> None:
    """Positions are dense from `first` on, and the events are those of whole commits in their order: (stream, id).

    An event's id begins with the number of its commit.
    """
    at, last = 0, -1
    while at < len(held):
        number = int(held[at][3].partition("-")[0])
        commit = commits[number]
        there = [(each[1], each[3]) for each in held[at : at + len(commit)]]
        assert there == commit, f"from position {at + 1} on it holds {there}, not {commit}"
        assert last < number, f"commit {number} comes after {last}"
        at, last = at + len(commit), number
    assert [each[0] for each in held] == list(range(first, first + len(held))), "positions are not dense"


def check_streams(
    store: FileEventStore, held: list[Row], dropped: dict[str, set[int]], earlier: dict[str, int] | None = None
) -> None:
    """Every stream has its share of `held`, from its first version on or from one of those it was compacted to.

    `earlier` is how many events of a stream came before the first of `held`. Of one that has no others, a copy made
    while these were dropped may know another version, or nothing. It may also begin after the last one that is erased:
    a copy need not have the mark.
    """
    erased = {each.stream_id: each.stream_version for each in _all_records(store) if is_erased(each)}
    gone, streams = earlier or {}, dict[str, list[Row]]()
    for each in held:
        streams.setdefault(each[1], []).append(each)
    names = store.list_streams()
    for name in {*names} - streams.keys() if gone else ():
        names.remove(name)
        assert not list(store.records(name)), f"stream {name} shows what was dropped"
    assert names == sorted(streams), f"the streams are {names}, not {sorted(streams)}"
    for stream_id, of_stream in streams.items():
        end = gone.get(stream_id, 0) + len(of_stream)
        versions = list(range(end - len(of_stream), end))
        assert [each[2] for each in of_stream] == versions, f"versions of {stream_id} are not dense"
        found = stored(store.records(stream_id))
        begins = (erased.get(stream_id, -1) + 1, 0, *dropped.get(stream_id, ()))
        shares = [[each for each in of_stream if each[2] >= first] for first in begins]
        assert found in shares, f"stream {stream_id} holds {found}, not {of_stream}"
        version = store.get_stream_version(stream_id)
        assert version == end - 1, f"{stream_id} is said to be at version {version}, not {end - 1}"
