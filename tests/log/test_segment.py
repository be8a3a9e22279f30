"""One file of a log: its lines in both directions, and where they end."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from store_files import hole

from hangarlog import CorruptionError
from hangarlog.log.segment import Segment
from hangarlog.record.line import TOO_LONG
from hangarlog.system.filesystem import FileSystem

ZEROED = TOO_LONG + bytes(1024)
"""Stands for a long line with zeros in it."""


def segment_of(path: Path) -> Segment:
    return Segment(FileSystem(), str(path).removesuffix(".jsonl"), "position")


@pytest.mark.parametrize("size", [16, 4 << 10, 256 << 10])
def test_a_line_that_is_longer_than_any_that_is_written_comes_alone(tmp_path: Path, size: int) -> None:
    """In both directions, at its place, with the lines around it as they are."""
    with contextlib.closing(segment_of(hole(tmp_path / "x.jsonl", b"one\n", b"two\nthree\n"))) as segment:
        first = segment.lines_at(0, size)
        assert first == ([b"one"], 4)
        assert segment.lines_at(4, size) == ([ZEROED], 4 + (1 << 40) + 4)
        assert segment.lines_at(4 + (1 << 40) + 4, size) == ([b"three"], segment.size)
        assert segment.end_offset() == segment.size
        assert segment.lines_before(segment.size - 6, size) == ([ZEROED], 4)
        assert segment.lines_before(4, size) == ([b"one"], 0)
        with pytest.raises(CorruptionError, match="longer than the limit of 268435456 bytes") as damage:
            segment.decode(segment.lines_at(4)[0], 4)
        assert damage.value.offset == 4


def test_a_hole_behind_the_last_line_is_a_torn_end(tmp_path: Path) -> None:
    """As zeros are, which a power cut leaves."""
    with contextlib.closing(segment_of(hole(tmp_path / "x.jsonl", b"one\n"))) as segment:
        assert segment.end_offset() == 4
        assert segment.lines_at(4) == ([], 4)
        assert segment.rest_may_be_torn(4)
        assert sum(len(piece) for _, piece in segment.pieces(4)) < 1 << 20
    with contextlib.closing(segment_of(hole(tmp_path / "y.jsonl", b""))) as segment:
        assert (segment.end_offset(), segment.lines_at(0)) == (0, ([], 0))


@pytest.mark.parametrize("length", [10, 5000, 300_000, 1 << 20, 3 << 20])
def test_lines_of_any_length_are_read_in_both_directions(tmp_path: Path, length: int) -> None:
    lines = [b"a" * length, b"b", b"", b"c" * (2 * length), b"d" * length]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines) + b"\n" + b"t" * length)
    with contextlib.closing(segment_of(tmp_path / "x.jsonl")) as segment:
        assert [line for block in segment.blocks() for line in block] == lines
        found: list[bytes] = []
        offset = segment.end_offset()
        assert segment.size - offset == length
        while offset:
            block, offset = segment.lines_before(offset, 1000)
            found = block + found
        assert found == lines
