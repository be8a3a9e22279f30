"""A part of the hostile-input campaign: files that seem to be larger than any device, and counts that lie.

Each case runs all commands in one process that may take `MEMORY` bytes and `SECONDS` of the processor, so that neither
can grow with what a file claims. Every command ends with a code of its own, none with a traceback.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from zlib import crc32

from hangarlog.filestore.commit_ring import BLOCK_BYTES

from .part import Part, make_base, sealed

MEMORY = 1 << 30
SECONDS = 60
HUGE = 1 << 40

PROGRAM = """
import json, os, resource, sys
from hangarlog.cli.main import main
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), resource.RLIM_INFINITY))
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), resource.RLIM_INFINITY))
for words in json.loads(sys.argv[3]):
    sys.argv = ["hangarlog", *words]
    try:
        main()
    except SystemExit as ended:
        print("ended", words[0], ended.code, file=sys.stderr, flush=True)
"""


def commands(store: Path, scratch: Path) -> list[list[str]]:
    """All there are, those first that only read; the last ones show that the store works after a repair."""
    path = str(store)
    looks = [["verify", path, "--read-only"], ["read", path, "--limit", "9"], ["tail", path], ["tail", path, "a:1"]]
    looks += [["read", path, "a:1", "--reverse"], ["read", path, "--reverse", "--limit", "3"], ["stats", path]]
    looks += [["streams", path, "-l"], ["verify", path], ["read", path, "--skip-damaged"]]
    makes = [["export", path, str(scratch / "out.jsonl")], ["backup", path, str(scratch / "backup")]]
    event = ["append", path, "a:1", "--type", "T", "--data", "{}"]
    return [*looks, *makes, event, ["repair", path], ["verify", path], ["read", path, "--skip-damaged"], event]


def run_all(part: Part, name: str, *, works: bool = True) -> None:
    """All commands on the part's store; with `works` the last ones must succeed, as they come after a repair."""
    scratch = part.folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    with part.case(name):
        words = commands(part.path, scratch)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(MEMORY), str(SECONDS), json.dumps(words)],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_ARENA_MAX": "1"},
            check=False,
        )
        errors = done.stderr.decode("utf-8", "replace")
        ended = [line.split() for line in errors.splitlines() if line.startswith("ended ")]
        at = words[len(ended)][0] if len(ended) < len(words) else "its end"
        assert done.returncode == 0, f"{at}: ended with {done.returncode}: {errors[-700:]}"
        assert "Traceback" not in errors, errors[-700:]
        codes = [code for _, _, code in ended]
        assert set(codes) <= {"0", "1", "2"}, ended
        assert not works or codes[-1] == codes[-2] == "0", errors[-700:]
        part.figures["commands on files of any size"] += len(codes)


def grown(path: Path) -> None:
    """A hole behind what is there."""
    path.touch()
    os.truncate(path, HUGE)


def ended_by_a_line(path: Path) -> None:
    """The same, and then a newline: so it is a line."""
    grown(path)
    with open(path, "ab") as file:
        file.write(b"\n")


def begun_by_a_hole(path: Path) -> None:
    """A hole, and then what was there."""
    content = path.read_bytes() if path.exists() else b"x\n"
    path.unlink(missing_ok=True)
    with open(path, "wb") as file:
        file.seek(HUGE)
        file.write(content)


def divided(path: Path) -> None:
    """A hole in the middle, at the end of a line where there are lines."""
    content = path.read_bytes() if path.exists() else b"x\n"
    middle = content.find(b"\n", len(content) // 2) + 1 or len(content) // 2
    with open(path, "wb") as file:
        file.write(content[:middle])
        file.seek(HUGE)
        file.write(content[middle:])


HOLES = (grown, ended_by_a_line, begun_by_a_hole, divided)
LEFT_OVER = ["journal.jsonl.new", "streams/a/1.jsonl.new", "hangarlog.json.new", "ring.new", "put-aside.jsonl"]
LEFT_OVER += ["journal.jsonl.rebuilt", "streams/b/1.jsonl.rebuilt", "backup.json", "locks/write.lock"]


def sizes(part: Part) -> None:
    """Every file of a store, and those that may be left beside them, with a hole of a terabyte."""
    base = part.folder / "base"
    make_base(base)
    (base / "ring").write_bytes(bytes(1 << 20))
    names = [str(path.relative_to(base)) for path in sorted(base.rglob("*")) if path.is_file()]
    for name in [*names, *LEFT_OVER]:
        for make in part.rng.sample(HOLES, len(HOLES) if part.size >= 1000 else 1):
            for lost in part.states():
                part.made_anew(base, lost=lost)
                make(part.path / name)
                shown = f"{name}: {make.__name__}{', state lost' if lost else ''}"
                run_all(part, shown, works=name != "hangarlog.json")


# Counts that lie


def _sealed_line(position: int, version: int = 0, stream: str = "a:1") -> bytes:
    place = f'{{"position":{position},"stream_id":"{stream}","stream_version":{version}'
    return (
        sealed(f'{place},"event_type":"T","event_id":"x","recorded_at":"2026-01-01T00:00:00.000000Z","data":{{}}')
        + b"\n"
    )


def _catalog(path: Path, slots: int, keys: Iterable[int], used: int | None = None) -> None:
    """The header as it is, but with so many slots, a part of which are filled."""
    header = bytearray(path.read_bytes()[:64])
    filled = b"".join(struct.pack("=2Q", key, 1 << 32 | 2) for key in keys)
    struct.pack_into("=2Q", header, 24, len(filled) // 16 if used is None else used, slots)
    path.write_bytes(bytes(header) + filled)
    os.truncate(path, 64 + 16 * slots)


def _index(path: Path, entries: Iterable[tuple[int, int]]) -> None:
    path.write_bytes(path.read_bytes()[:16] + b"".join(struct.pack("<II", *entry) for entry in entries))


def _appended(path: Path, *lines: bytes) -> None:
    with open(path, "ab") as file:
        file.writelines(lines)


def _in_both(store: Path, places: Iterable[tuple[int, int]], between: bytes = b"", *, stream: str = "z:1") -> None:
    lines = [_sealed_line(position, version, stream) + between for position, version in places]
    folder = store / "streams" / stream[0]
    folder.mkdir(exist_ok=True)
    for path in (store / "journal.jsonl", folder / "1.jsonl"):
        _appended(path, *lines)


def _checkpoint(path: Path, **fields: object) -> None:
    found = {**json.loads(path.read_bytes()), **fields}
    del found["crc"]
    path.write_bytes(sealed(json.dumps(found, separators=(",", ":"))[:-1]) + b"\n")


def _named(folder: Path, names: Iterable[str], content: bytes) -> None:
    for name in names:
        (folder / name).write_bytes(content)


def _liars(store: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """(what it is, what makes a store so)."""
    catalog, journal, index = store / "catalog", store / "journal.jsonl", next(iter(sorted(store.glob("*.index"))))
    many = 1 << 18
    yield "a catalog without a free slot", lambda: _catalog(catalog, many, range(1, many + 1))
    yield "a catalog with more slots than memory", lambda: _catalog(catalog, 1 << 36, range(1, 9))
    yield "a catalog that says it is full", lambda: _catalog(catalog, 1 << 12, range(1, 9), (1 << 64) - 1)
    yield "a catalog without slots", lambda: _catalog(catalog, 0, ())
    yield "a catalog whose streams meet", lambda: _catalog(catalog, many, (n << 30 for n in range(1, many // 2)))
    for key in ("position", "first", "end", "mark"):
        for value in (0, 1 << 40, (1 << 63) - 1):
            wrong = {key: value}
            yield f"a checkpoint with {wrong}", lambda w=wrong: _checkpoint(store / "checkpoint.json", **w)
    yield "an index of zeros", lambda: _index(index, ((0, 0) for _ in range(1 << 20)))
    yield "an index of one end", lambda: _index(index, ((70, 1) for _ in range(1 << 20)))
    yield "an index of huge ends", lambda: _index(index, (((1 << 32) - 1, n) for n in range(1, 1 << 16)))
    yield "an index that goes back", lambda: _index(index, ((n, 1) for n in range(1 << 16, 0, -1)))
    for position in (1 << 20, 1 << 40, (1 << 53) - 1, 1 << 62):
        line = _sealed_line(position)
        yield f"position {position} behind a damaged line", lambda line=line: _appended(journal, b"x\n", line)
        yield f"position {position} behind a hole", lambda line=line: (grown(journal), _appended(journal, b"\n", line))
        yield f"version {position} in both copies", lambda p=position: _in_both(store, [(92, p)], stream="a:1")
        yield f"version {position} in the journal", lambda p=position: _appended(journal, _sealed_line(92, p, "c:1"))
    yield "every second position", lambda: _in_both(store, ((91 + 2 * n, 2 * n) for n in range(8000)))
    yield "a damaged line behind every line", lambda: _in_both(store, ((92 + n, n) for n in range(8000)), b"x\n")
    yield "a ring of frames that overlap", lambda: (store / "ring").write_bytes(_overlapping(store, 256))
    yield "a ring of many frames that overlap", lambda: (store / "ring").write_bytes(_overlapping(store, 1024))
    names = [f"x{n}.jsonl" for n in range(1000)]
    yield "a thousand names of streams", lambda: _named(store / "streams", names, b"x\n")
    cut = [f"x{n}~{'0' * 64}.jsonl" for n in range(1000)]
    yield "a thousand names that were cut", lambda: _named(store / "streams", cut, b"x\n")
    yield "a thousand empty files", lambda: _named(store / "streams/a", names, b"")
    sealed_names = [f"journal.{n:020}.jsonl" for n in range(500, 1500)]
    yield "a thousand sealed ones", lambda: _named(store, sealed_names, b"x\n")
    yield (
        "a thousand damaged files kept",
        lambda: _named(store, ("journal.jsonl.damaged", *(f"journal.jsonl.damaged.{n}" for n in range(2, 1000))), b""),
    )


def _overlapping(store: Path, blocks: int) -> bytes:
    return overlapping(blocks, json.loads((store / "hangarlog.json").read_bytes())["store_id"])


def overlapping(blocks: int, store: str) -> bytes:
    """A ring in each block of which a frame begins that goes on to the end of the ring, its checksum right."""
    ring = bytearray(blocks * BLOCK_BYTES)
    for block in range(blocks - 1, -1, -1):
        at, length = block * BLOCK_BYTES, len(ring)
        for _ in range(4):  # The header's length depends on that of the text.
            header = b'\x1e{"ring":1,"store":"%b","generation":1,"first":2,"last":2,"length":%d'
            header %= store.encode(), length
            length = len(ring) - at - len(header) - len(b',"crc":"00000000"}\n')
        text = bytes(ring[len(ring) - length :])
        header += b',"crc":"%08x"}\n' % crc32(text, crc32(header))
        ring[at : at + len(header)] = header
    return bytes(ring)


def counts(part: Part) -> None:
    """Small files, and many of them, that claim more than there is."""
    base = part.folder / "base"
    make_base(base)
    for name in [name for name, _ in _liars(base)]:
        for lost in part.states():
            part.made_anew(base, lost=lost)
            dict(_liars(part.path))[name]()
            run_all(part, f"{name}{', state lost' if lost else ''}")
