"""Whoever has the extra `fast` and whoever has not read and write the same bytes."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from conftest import Added
from hypothesis import given
from hypothesis import strategies as st

from hangarlog import FileEventStore
from hangarlog.maintenance.verify import verify
from hangarlog.record.checksum import crc32

_WITHOUT = """
import sys
sys.modules["isal"] = None  # As if it were not installed.
import msgspec
from hangarlog import FileEventStore, register_event_type
from hangarlog.record import checksum
from hangarlog.maintenance.verify import verify
import zlib
assert checksum.crc32 is zlib.crc32

@register_event_type
class Added(msgspec.Struct):
    number: int

with FileEventStore(sys.argv[1], durability="relaxed") as store:
    assert [event.number for event in store.read_stream("a:1")] == list(range(3000))
    assert list(verify(store)) == []
    store.append("a:1", [Added(number) for number in range(3000)], 2999)
    store.append("a:1", [Added(3000)], 5999)
"""


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_it_is_zlibs_checksum(data: bytes, start: int) -> None:
    assert crc32(data) == zlib.crc32(data)
    assert crc32(data, start) == zlib.crc32(data, start)


def test_a_store_is_the_same_with_the_extra_and_without(tmp_path: Path) -> None:
    pytest.importorskip("isal", reason="the extra `fast` is not installed")
    assert crc32 is not zlib.crc32
    path = str(tmp_path / "s")
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a:1", [Added(number) for number in range(3000)], -1)
    done = subprocess.run([sys.executable, "-c", _WITHOUT, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with FileEventStore(path) as store:
        assert [event.number for event in store.read_stream("a:1")][3000:] == [*range(3000), 3000]
        assert list(verify(store)) == []
