"""A part of row 10: the files of compressed segments, swapped, with tables that lie, bombs, holes and many frames."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from hangarlog.log import compressed_text
from hangarlog.log.compressed_text import read_tables
from hangarlog.log.zstd import MAGIC, zstd
from hangarlog.system.filesystem import FileSystem

from .files import swap
from .part import Part, make_base, opened, use
from .sizes import HOLES, run_all

_SKIPPED_MAGIC = 0x184D2A50
_BOMB_BYTES = 200 << 20
_LONGEST = "a bomb of one line"
_LINES_BYTES = 1 << 20  # Each of these lines is looked at.


def compressed(part: Part) -> None:
    """The file of each compressed segment is something else, or says something else."""
    base = part.folder / "base"
    make_base(base)
    with opened(base) as store:
        store.compress()
    names = sorted(str(path.relative_to(base)) for path in base.rglob("*.zst"))
    assert names[0].startswith("journal"), "nothing is compressed"
    assert names[-1].startswith("streams"), "no stream is compressed"
    swap(part, base, names)
    for name in names if part.size >= 1000 else (names[0], names[-1]):
        liars = list(_liars(base / name))
        for kind, make in liars if part.size >= 1000 else part.rng.sample(liars, 6):
            for lost in part.states():
                part.made_anew(base, lost=lost)
                (part.path / name).write_bytes(make())
                brings = 3 * _BOMB_BYTES if kind == _LONGEST else 0  # As such a line in a plain file.
                with part.case(f"{name}: {kind}{', state lost' if lost else ''}", brings=brings):
                    use(part)
                shutil.rmtree(part.path)
        for hole in HOLES if part.size >= 1000 else part.rng.sample(HOLES, 1):
            part.made_anew(base, lost=False)
            hole(part.path / name)
            run_all(part, f"{name}: {hole.__name__}")
    liars = list(_liars(base / names[0]))
    for kind, make in liars if part.size >= 1000 else part.rng.sample(liars, 3):
        part.made_anew(base, lost=False)
        (part.path / names[0]).write_bytes(make())
        # Tables that tell of other lines are named with what to run: zstd, then `hangarlog compress`. The longest line
        # takes more memory than a command has here, as in a plain file.
        works = not kind.startswith("texts of") and kind != _LONGEST
        run_all(part, f"{names[0]}: {kind}, all commands", works=works)


def _liars(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(what it is, what makes the content)."""
    whole, filesystem, pack = path.read_bytes(), FileSystem(), zstd("").compress
    fd = filesystem.open_read(str(path))
    found = read_tables(filesystem, fd)
    filesystem.close(fd)
    assert found
    first, end = found.first, found.offsets[-1]
    frames = whole[:end]
    packed, sizes, counts = (
        [after - before for before, after in pairwise(numbers)]
        for numbers in (found.offsets, found.starts, found.numbers)
    )

    def told(packed: list[int], sizes: list[int], counts: list[int], first: int = first) -> bytes:
        return frames + compressed_text.tables(first, packed, sizes, counts)

    many = len(packed)
    for number in (0, 1, first + 1, (1 << 53) - 1, 1 << 63, (1 << 64) - 1):
        yield f"it begins with {number}", lambda number=number: told(packed, sizes, counts, number)
    for lies in (0, 1, (1 << 31) - 1, (1 << 32) - 1):
        yield f"frames of {lies} bytes", lambda lies=lies: told([lies] * many, sizes, counts)
        yield f"texts of {lies} bytes", lambda lies=lies: told(packed, [lies] * many, counts)
        yield f"texts of {lies} lines", lambda lies=lies: told(packed, sizes, [lies] * many)
    yield "more frames than there are", lambda: told([*packed, 0, 0], [*sizes, 0, 0], [*counts, 1, 1])
    yield "a table of a million frames", lambda: told([1] * (1 << 20), [2] * (1 << 20), [1] * (1 << 20))
    yield "two lines of one frame swapped with its next", lambda: told(packed[::-1], sizes[::-1], counts[::-1])
    yield "a frame twice", lambda: frames + whole
    yield "frames without tables", lambda: frames
    yield "tables without frames", lambda: whole[end:]
    yield "tables twice", lambda: whole + whole[end:]
    yield "a frame to skip of 4 GiB", lambda: struct.pack("<II", _SKIPPED_MAGIC, (1 << 32) - 1) + whole
    yield "a thousand frames to skip", lambda: struct.pack("<II", _SKIPPED_MAGIC, 0) * 1000 + whole
    yield "a million beginnings of frames", lambda: MAGIC * (1 << 20) + whole
    yield "a hundred thousand empty frames", lambda: pack(b"") * 100_000 + whole
    bomb = pack(bytes(_BOMB_BYTES))
    yield "a bomb", lambda: bomb
    yield "a bomb before it", lambda: bomb + whole
    line = compressed_text.tables(first, [len(bomb)], [sizes[0]], [counts[0]])
    yield "a bomb in the place of a frame", lambda: bomb + line
    lines = pack(b"{}\n" * (_BOMB_BYTES // 3))
    yield "a bomb of short lines", lambda: lines
    likely = pack((b"{" + b" " * 62 + b"\n") * (_LINES_BYTES // 64))
    yield "a bomb of lines that may be", lambda: likely
    longest = pack(b"{" + bytes(_BOMB_BYTES) + b"\n")
    yield _LONGEST, lambda: longest
    blank = pack(b"\n" * _BOMB_BYTES)
    yield "a bomb of empty lines", lambda: blank
    yield "a bomb in a bomb", lambda: pack(bomb)
