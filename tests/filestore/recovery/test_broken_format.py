"""A line of the journal whose checksum is right, but which breaks the format, never takes the place of a whole copy."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
from conftest import Added

from hangarlog import CorruptionWarning, FileEventStore
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify_folder
from hangarlog.record.checksum import crc32
from hangarlog.system.read_only import ReadOnly


@pytest.fixture(autouse=True)
def damage_is_expected() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)
        yield


def broken(line: bytes) -> bytes:
    """The line with a key twice in its payload, and a right checksum."""
    body = line.rpartition(b',"crc"')[0].replace(b'"number":', b'"number":0,"number":')
    return b'%b,"crc":"%08x"}\n' % (body, crc32(body))


def lines(path: Path) -> list[bytes]:
    with FileEventStore.untyped(path, filesystem=ReadOnly()) as store:
        return [line for _, some in as_stored(store, store.envelopes()) for line in some]


@pytest.mark.parametrize("tail", [b"", b'{"posi', b"hello\n"], ids=["whole", "torn", "damaged"])
@pytest.mark.parametrize("at", [0, 6, 11])
@pytest.mark.parametrize("copied", [False, True])
def test_the_streams_copy_is_kept_and_repair_takes_it(tmp_path: Path, at: int, tail: bytes, copied: bool) -> None:
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store:
        for number in range(12):
            store.append(f"a:{number % 3}", [Added(number)], number // 3 - 1)
    whole = lines(path)
    journal = path / "journal.jsonl"
    journal.write_bytes(b"".join([broken(line + b"\n") if n == at else line + b"\n" for n, line in enumerate(whole)]))
    with (path / f"streams/a/{at % 3}.jsonl").open("ab") as stream:
        stream.write(tail)
    if copied:
        path = Path(shutil.copytree(path, tmp_path / "copy"))
    (path / "state").unlink()
    assert len(list(verify_folder(path))) == 1 + (tail == b"hello\n")
    assert lines(path) == whole
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a:0", [Added(12)], 3)
    assert [damage.position for damage in verify_folder(path)] == [at + 1]
    assert lines(path)[:12] == whole
    list(repair(path))
    assert list(verify_folder(path)) == []
    assert lines(path)[:12] == whole
