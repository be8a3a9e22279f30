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


WAYS = {
    "a key twice": (b'"number":', b'"number":0,"number":'),
    "another form of the time": (b'Z","data"', b'z","data"'),
    "not UTF-8": (b'"number":', b'"x":"\xff","number":'),
    "metadata as if erased": (b',"data"', b',"metadata":null,"data"'),
    "nested too deep": (b'"number":', b'"x":%b%b,"number":' % (b"[" * 200, b"]" * 200)),
}


def broken(line: bytes, way: str = "a key twice") -> bytes:
    """The line with something that the format forbids, and a right checksum."""
    body = line.rpartition(b',"crc"')[0].replace(*WAYS[way])
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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("marked", [False, True], ids=["no snapshot", "a snapshot"])
def test_so_it_is_for_all_that_breaks_the_format(tmp_path: Path, way: str, marked: bool) -> None:
    """In the first lines of a stream, in its middle and at its end; also where a snapshot may hide something."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a", [Added(number) for number in range(8)], -1)
        if marked:
            store.save_snapshot("a", 0, {})
    whole, journal = lines(path), path / "journal.jsonl"
    journal.write_bytes(
        b"".join(broken(text, way) if n in (0, 1, 4, 7) else text + b"\n" for n, text in enumerate(whole))
    )
    (path / "state").unlink()
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a", [Added(8)], 7)
    assert (path / "streams/a.jsonl").read_bytes().split(b"\n")[:8] == whole
    assert not (path / "put-aside.jsonl").exists()
    list(repair(path))
    assert list(verify_folder(path)) == []
    assert lines(path)[:8] == whole
