"""Large events, large batches, many streams: memory is bounded by a batch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from copied_stores import check_equal, copied, event, opened
from limits import run_limited

from hangarlog import ANY, EncodedEvent

PROGRAM = """
from hangarlog.copying import copy
limit(more)
with opened(sys.argv[1]) as source, opened(sys.argv[2]) as target:
    print(copy(source, target).compared)
    print(copy(source, target).already)
"""


def test_large_events_and_a_large_batch(tmp_path: Path) -> None:
    """Also one that is larger than a segment of the target."""
    with opened(tmp_path / "source") as source:
        source.append("a:1", [EncodedEvent("T", b'{"x":"%b"}' % (b"y" * (6 << 20)))], ANY)
        source.append_many([(f"b:{n % 50}", [event(n, text="x" * 200)], ANY) for n in range(20_000)])
        source.append("a:1", [event(1)], ANY)
        copied(tmp_path / "source", tmp_path / "target")
        with opened(tmp_path / "small", segment_bytes=100_000) as small:
            small.close()
        copied(tmp_path / "source", tmp_path / "small")
        for name in ("target", "small"):
            with opened(tmp_path / name) as target:
                check_equal(source, target)


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_copy_of_many_large_events_takes_little_memory(tmp_path: Path) -> None:
    """200 MiB in batches of up to 2 MiB, with 80 MiB to spare."""
    with opened(tmp_path / "source") as source:
        for number in range(130):
            source.append(f"a:{number % 3}", [event(number, text="x" * (1 << 19))] * (1 + number % 4), ANY)
        size = source.stats().bytes
        assert size > 2 * 100 << 20
    found = run_limited(PROGRAM, 80 << 20, tmp_path / "source", tmp_path / "target")
    assert len(set(found.split())) == 1


def test_more_streams_than_files_may_be_open(tmp_path: Path) -> None:
    """An event of each in turn, several times."""
    with opened(tmp_path / "source") as source:
        for _ in range(3):
            source.append_many([(f"s:{n}", [event(n)], ANY) for n in range(600)])
            for number in range(600):
                source.append(f"s:{number}", [event(number)], ANY)
        copied(tmp_path / "source", tmp_path / "target")
        with opened(tmp_path / "target") as target:
            check_equal(source, target)
