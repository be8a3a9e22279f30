"""What was written from the page alone appends to closed stores, and hangarlog goes on with them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from store_by_the_page import Store
from test_verdicts import KINDS, made
from verifier_by_the_page import damages
from writer_by_the_page import CannotAppendError, append, new_store

from hangarlog import ANY, FileEventStore, StreamDeletedError, UntypedEvent
from hangarlog.maintenance.verify import verify, verify_folder

TAILS = [b"", b'{"position":99,"str', b"\n", b" \n\n", bytes(700)]


def taken_over(path: Path, events: int) -> None:
    """Let hangarlog open, check and append to a store with so many positions."""
    assert list(verify_folder(path)) == []
    assert damages(path) == []
    with FileEventStore.untyped(path, durability="relaxed") as store:
        assert store.recovered
        assert not store.recovered.damage
        assert store.last_position == events
        assert int(store.append("b", [UntypedEvent("Added", {})], ANY)) == store.get_stream_version("b")
        assert list(verify(store)) == []


@pytest.mark.usefixtures("ring_at_once")
@pytest.mark.parametrize("kind", KINDS)
def test_it_appends_to_closed_stores(tmp_path: Path, kind: str) -> None:
    for seed in range(6):
        path, chosen = tmp_path / str(seed), random.Random(seed)
        made(kind, path, chosen)
        before = Store(path).committed
        for file in (path / "journal.jsonl", *path.glob("streams/b.jsonl")):
            with file.open("ab") as opened:
                opened.write(chosen.choice(TAILS))
        for number in range(8):
            append(path, [("b", [("Added", b'{"_version":1,"n":%d}' % number)] * 2), ('q"\\', [("Ä\n", b"{}")])])
        taken_over(path, before + 24)


def test_it_makes_a_store(tmp_path: Path) -> None:
    new_store(tmp_path / "s")
    for _ in range(20):  # Its segments roll.
        append(tmp_path / "s", [("b", [("Added", b"{}")]), ("c:d", [("Added", b"{}")])])
    assert list((tmp_path / "s").glob("journal.0*.jsonl"))
    taken_over(tmp_path / "s", 40)


def test_it_completes_a_stream_that_a_crash_has_left_behind(tmp_path: Path) -> None:
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        store.append("b", [UntypedEvent("Added", {"number": number}) for number in range(5)], -1)
    file = tmp_path / "s/streams/b.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:2]) + b'{"posi')
    append(tmp_path / "s", [("b", [("Added", b"{}")])])
    assert file.read_bytes() == (tmp_path / "s/journal.jsonl").read_bytes()
    taken_over(tmp_path / "s", 6)


def test_a_deleted_stream_begins_anew_and_one_with_a_tombstone_does_not(tmp_path: Path) -> None:
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        for name in ("gone", "for-good"):
            store.append(name, [UntypedEvent("Added", {"number": number}) for number in range(3)], -1)
            store.delete_stream(name, permanent=name == "for-good")
    append(tmp_path / "s", [("gone", [("Added", b"{}")])])
    with pytest.raises(CannotAppendError):
        append(tmp_path / "s", [("for-good", [("Added", b"{}")])])
    with FileEventStore.untyped(tmp_path / "s") as store:
        assert [record.stream_version for record in store.records("gone")] == [3]
        with pytest.raises(StreamDeletedError):
            store.append("for-good", [UntypedEvent("Added", {})], ANY)
        assert list(verify(store)) == []
    taken_over(tmp_path / "s", 7)


def test_it_stops_at_a_damaged_end(tmp_path: Path) -> None:
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        store.append("b", [UntypedEvent("Added", {})], -1)
    with (tmp_path / "s/journal.jsonl").open("ab") as journal:
        journal.write(b"hello")
    with pytest.raises(CannotAppendError):
        append(tmp_path / "s", [("b", [("Added", b"{}")])])


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
@pytest.mark.parametrize("evidence", ["state", "stream", "end"])
def test_it_stops_where_more_was_committed_or_a_stream_is_damaged(tmp_path: Path, evidence: str) -> None:
    """A copy without the journal's last line: `state`, or a stream, has what is missing."""
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        store.append("b", [UntypedEvent("Added", {"number": number}) for number in range(5)], -1)
        store.append("c", [UntypedEvent("Added", {})], -1)
    path = shutil.copytree(tmp_path / "s", tmp_path / "copy")
    journal, lost = path / "journal.jsonl", path / "streams/c.jsonl"
    if evidence == "end":
        with (path / "streams/b.jsonl").open("ab") as stream:
            stream.write(b"hello\n")
    else:
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
        (path / "state" if evidence == "stream" else lost).unlink()
    before = journal.read_bytes()
    with pytest.raises(CannotAppendError):
        append(path, [("b", [("Added", b"{}")])])
    assert journal.read_bytes() == before
    with FileEventStore.untyped(path, durability="relaxed") as store:
        assert store.recovered
        assert store.last_position == {"state": 5, "stream": 5, "end": 6}[evidence]
    append(path, [("b", [("Added", b"{}")])])


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
def test_a_copy_takes_from_its_streams_what_its_state_says_was_committed(tmp_path: Path) -> None:
    """As the page says of hangarlog: it looks for it, and what it does not find is no damage."""
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        for number in range(6):
            store.append("b", [UntypedEvent("Added", {"number": number})], number - 1)
    for kept, file in ((6, "catalog"), (3, "streams/b.jsonl")):
        path = shutil.copytree(tmp_path / "s", tmp_path / f"copy-{kept}")
        journal = path / "journal.jsonl"
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:3]))
        (path / file).unlink()
        with FileEventStore.untyped(path, durability="relaxed") as store:
            assert store.recovered
            assert not store.recovered.damage
            assert store.last_position == kept
            assert list(verify(store)) == []
