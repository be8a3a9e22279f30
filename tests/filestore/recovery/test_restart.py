"""After a power cut the journal's valid part is the history, whatever else reached the device."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import pytest
from conftest import Added

import hangarlog.filestore.recovery.journal_end
import hangarlog.filestore.recovery.replay
from hangarlog import ANY, CorruptionError, CorruptionWarning, FileEventStore
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify
from hangarlog.record.line import encode_records
from hangarlog.testing.probe import shared_state


def filled(path: Path, segment_bytes: int = 64 << 20) -> list[bytes]:
    """A store with 30 events in commits of three over two streams; its journal's lines."""
    with FileEventStore(path, durability="relaxed", segment_bytes=segment_bytes) as store:
        for n in range(10):
            store.append_many([("a:1", [Added(n), Added(n)], ANY), (f"b:{n % 3}", [Added(n)], ANY)])
    (path / "state").unlink()  # What a restart amounts to: nothing in it counts.
    return (path / "journal.jsonl").read_bytes().splitlines(keepends=True)


def recovering(path: Path, *, damaged: bool) -> FileEventStore:
    """The store, opened; a recovery that mends damage warns, keeps what it replaced, and says where it was."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", CorruptionWarning)
        store = FileEventStore(path, durability="relaxed")
    assert store.recovered
    assert [str(warning.message) for warning in said] == list(map(str, store.recovered.damage))
    assert bool(said) == damaged == bool(list(path.rglob("*.damaged*")))
    return store


def whole(path: Path, events: int) -> None:
    with FileEventStore(path, durability="relaxed") as store:
        assert store.get_event_count() == events
        assert len(list(store.read_all())) == events
        assert sum(len(store.read_stream(stream_id)) for stream_id in store.list_streams()) == events
        assert list(verify(store)) == []
        store.append("a:1", [Added(-1)], ANY)
        assert list(verify(store)) == []


@pytest.mark.filterwarnings("ignore:.*no whole history leads to:hangarlog.CorruptionWarning")
def test_a_journal_that_lost_its_end_takes_the_streams_back_with_it(tmp_path: Path) -> None:
    """Cut at every 7th byte: whole commits stay, in journal and streams alike."""
    lines = filled(tmp_path / "full")
    text = b"".join(lines)
    ends = [sum(map(len, lines[:n])) for n in range(0, 31, 3)]
    for cut in range(0, len(text) + 1, 7):
        path = tmp_path / "cut"
        shutil.copytree(tmp_path / "full", path)
        (path / "journal.jsonl").write_bytes(text[:cut])
        whole(path, 3 * (sum(end <= cut for end in ends) - 1))
        shutil.rmtree(path)


def test_streams_that_lost_their_ends_get_them_back_from_the_journal(tmp_path: Path) -> None:
    """Each cut somewhere, one emptied, one gone, one full of zeros."""
    filled(tmp_path / "s")
    streams = tmp_path / "s/streams"
    for name, keep in (("a/1", 700), ("b/0", 0), ("b/1", 301)):
        text = (streams / f"{name}.jsonl").read_bytes()
        (streams / f"{name}.jsonl").write_bytes(text[:keep])
    (streams / "b/2.jsonl").write_bytes(bytes(4096))
    whole(tmp_path / "s", 30)


def test_a_stream_whose_name_never_reached_the_device_comes_back(tmp_path: Path) -> None:
    """The journal has all of it."""
    filled(tmp_path / "s")
    (tmp_path / "s/streams/b/2.jsonl").unlink()
    whole(tmp_path / "s", 30)


def test_what_reached_a_stream_but_not_the_journal_never_happened(tmp_path: Path) -> None:
    """In a stream the journal knows, and in one it does not."""
    filled(tmp_path / "s")
    event = ("Added", "id", b'{"number":1}', None, None)
    (phantom,), _ = encode_records(31, "a:1", 20, [event], b"2026-11-23T00:00:00.000000Z")
    with (tmp_path / "s/streams/a/1.jsonl").open("ab") as file:
        file.write(phantom)
    (tmp_path / "s/streams/a/phantom.jsonl").write_bytes(phantom.replace(b'"a:1"', b'"a:phantom"'))
    with pytest.warns(CorruptionWarning, match=r"no whole history leads to: [12]; .* into .*put-aside\.jsonl"):
        whole(tmp_path / "s", 30)
    assert not (tmp_path / "s/streams/a/phantom.jsonl").exists()
    aside = (tmp_path / "s/put-aside.jsonl").read_bytes()
    assert phantom in aside
    assert aside.count(b"\n") == 1 + (b'"a:phantom"' in aside)


def test_recovery_begins_at_the_checkpoint(tmp_path: Path) -> None:
    """What is sealed is not read again: damage in it goes unnoticed until it is read."""
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=3000) as store:
        for n in range(40):
            store.append("a:1", [Added(n)], ANY)
    (tmp_path / "s/state").unlink()
    sealed = tmp_path / "s/journal.00000000000000000001.jsonl"
    sealed.write_bytes(sealed.read_bytes().replace(b'"number":3', b'"number":4'))
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        assert store.get_event_count() == 40
        assert store.append("a:1", [Added(40)], 39) == 40
        with pytest.warns(CorruptionWarning, match=str(sealed)):
            assert len(list(store.read_all())) == 41


def test_damage_in_the_middle_of_the_journal_is_mended_from_the_streams(tmp_path: Path) -> None:
    """And the recovery says so."""
    lines = filled(tmp_path / "s")
    journal = tmp_path / "s/journal.jsonl"
    for bad in (lines[10].replace(b"Added", b"Addee"), b"", bytes(len(lines[10])), b"\n"):
        journal.write_bytes(b"".join([*lines[:10], bad, *lines[11:]]))
        (tmp_path / "s/state").unlink(missing_ok=True)
        with recovering(tmp_path / "s", damaged=b"Addee" in bad) as store:
            assert store.recovered
            assert store.recovered.mended == (2 if bad[-1:] == b"\0" else 1)
            assert list(verify(store)) == []
        assert journal.read_bytes() == b"".join(lines)
        (tmp_path / "s/journal.jsonl.damaged").unlink(missing_ok=True)


def test_damage_in_the_middle_of_both_copies_is_not_taken_for_a_torn_tail(tmp_path: Path) -> None:
    """It is named with segment and offset, and nothing is cut off."""
    lines = filled(tmp_path / "s")
    for stream in (tmp_path / "s/streams").rglob("*.jsonl"):
        stream.write_bytes(stream.read_bytes().replace(b"Added", b"Addee"))
    journal = tmp_path / "s/journal.jsonl"
    offset = sum(map(len, lines[:10]))
    damaged = b"".join(lines[:10]) + lines[10].replace(b"Added", b"Addee") + b"".join(lines[11:])
    journal.write_bytes(damaged)
    with pytest.warns(CorruptionWarning, match=f"journal.jsonl. at offset {offset}: position 11 is damaged here"):
        store = FileEventStore(tmp_path / "s")
    with store, pytest.raises(CorruptionError) as caught:
        list(store.read_all())
    assert (caught.value.path, caught.value.segment, caught.value.offset) == (str(journal), "journal.jsonl", offset)
    assert "checksum" in caught.value.cause
    assert journal.read_bytes() == damaged


def reopened(path: Path) -> FileEventStore:
    """The store as a machine that has restarted finds it."""
    (path / "state").unlink()
    return FileEventStore(path, durability="relaxed")


def test_what_a_stream_sealed_since_the_checkpoint_is_not_written_again(tmp_path: Path) -> None:
    """Though the journal's blocks after the checkpoint begin with it."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed", segment_bytes=600_000) as store:
        for n in range(700):
            store.append("a:1", [Added(n, "x" * 1000)], ANY)
        for n in range(700):
            store.append("b:1", [Added(n, "x" * 1000)], ANY)
    for checkpoint in (True, False):
        if not checkpoint:
            (path / "checkpoint.json").unlink()
        with reopened(path) as store:
            assert store.recovered
            assert store.recovered.rolled_forward == store.recovered.streams_cut == 0
            assert list(verify(store)) == []
            assert len(store.read_stream("b:1")) == 700


@pytest.mark.parametrize("streams", ["lost", "kept"])
@pytest.mark.filterwarnings("ignore:.*no whole history leads to:hangarlog.CorruptionWarning")
def test_a_sector_that_the_device_has_as_it_was_when_the_file_ended_in_it_is_a_hole(
    tmp_path: Path, streams: str
) -> None:
    """Met on xfs: zeros from the end of what was synced to the end of that sector, then whole records."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store:
        for number in range(20):
            store.append("a:1", [Added(number)], number - 1)
        store.sync()
        synced = (path / "journal.jsonl").stat().st_size
        stream = (path / "streams/a/1.jsonl").read_bytes()
        for number in range(20, 30):
            store.append("a:1", [Added(number)], number - 1)
    hole = 512 - synced % 512
    assert 0 < hole < 512
    journal = (path / "journal.jsonl").read_bytes()
    (path / "journal.jsonl").write_bytes(journal[:synced] + bytes(hole) + journal[synced + hole :])
    if streams == "lost":
        (path / "streams/a/1.jsonl").write_bytes(stream)
    (path / "state").unlink()
    with FileEventStore(path) as store:
        assert store.recovered
        last = 19 if streams == "lost" else 29
        assert [event.number for event in store.read_stream("a:1")] == list(range(last + 1))
        assert (store.recovered.put_aside > 0) is (path / "put-aside.jsonl").exists() is (streams == "lost")
        assert list(verify(store)) == []
        assert store.append("a:1", [Added(99)], ANY) == last + 1


@pytest.mark.parametrize("lost", [b"", bytes(110_000)], ids=["gone", "zeros"])
@pytest.mark.parametrize("jump", [100, 260_000])
@pytest.mark.filterwarnings("ignore:.*no whole history leads to:hangarlog.CorruptionWarning")
def test_an_index_that_covers_what_was_lost_is_forgotten(tmp_path: Path, jump: int, lost: bytes) -> None:
    """Of journal and stream, even if the next append ends beyond it; rolls go on."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed", segment_bytes=300_000) as store:
        for n in range(200):
            store.append("a:1", [Added(n, "x" * 1000)], ANY)
    text = (path / "journal.jsonl").read_bytes()
    (path / "journal.jsonl").write_bytes(text[:90_000] + lost)
    kept = text[:90_000].count(b"\n")
    with reopened(path) as store:
        assert store.get_stream_version("a:1") == kept - 1
        assert store.read_stream("a:1", from_version=150) == []
        assert list(store.read_all(from_position=150)) == []
        store.append("a:1", [Added(kept, "y" * jump)], ANY)
        for n in range(kept + 1, 600):
            store.append("a:1", [Added(n, "y" * 1000)], ANY)
        for start in (0, kept - 1, kept, 150, 400, 599):
            assert [e.number for e in store.read_stream("a:1", start)] == list(range(start, 600))
        assert list(verify(store)) == []


def test_what_is_damaged_in_both_copies_keeps_its_place_again_and_again(tmp_path: Path) -> None:
    """Nothing else is hidden by it, and nothing is cut off."""
    filled(tmp_path / "s")
    journal = tmp_path / "s/journal.jsonl"
    for file in (journal, *(tmp_path / "s/streams").rglob("*.jsonl")):
        file.write_bytes(file.read_bytes().replace(b'"number":2', b'"number":3', 1))
    before = journal.read_bytes()
    for _ in range(3):
        with pytest.warns(CorruptionWarning, match="damaged here and in its stream"):
            store = FileEventStore(tmp_path / "s")
        with store:
            assert store.get_event_count() == 30
        assert journal.read_bytes() == before


def test_a_damaged_end_of_a_settled_stream_is_mended_from_the_journal(tmp_path: Path) -> None:
    """And its version is not given again."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed", segment_bytes=3000) as store:
        store.append("a:1", [Added(n) for n in range(5)], ANY)
        for n in range(40):
            store.append("b:1", [Added(n)], ANY)
    stream = path / "streams/a/1.jsonl"
    whole_text = stream.read_bytes()
    for damage in (whole_text[:-30] + b"X" + whole_text[-29:], whole_text[:-1], whole_text + bytes(300)):
        stream.write_bytes(damage)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", CorruptionWarning)
            store = reopened(path)
        assert ["mended from the journal" in str(each.message) for each in said] == [True] * (b"X" in damage)
        with store:
            assert stream.read_bytes() == whole_text
            assert store.get_stream_version("a:1") == 4
            assert list(verify(store)) == []


def test_a_damaged_beginning_of_a_stream_costs_nothing_behind_it(tmp_path: Path) -> None:
    """The journal has the first record too."""
    path = tmp_path / "s"
    filled(path)
    stream = path / "streams/a/1.jsonl"
    text = stream.read_bytes()
    stream.write_bytes(text.replace(b'"number":0', b'"number":9', 1))
    with pytest.warns(CorruptionWarning, match=r"1\.jsonl. at offset 0: .*mended from the journal"):
        store = FileEventStore(path)
    with store:
        assert store.recovered
        assert len(store.recovered.damage) == 1
    assert stream.read_bytes() == text
    whole(path, 30)


def test_after_a_compaction_the_journal_can_still_not_lose_what_was_dropped(tmp_path: Path) -> None:
    """It was synced before anything was deleted, and recovery does not bring it back."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed", segment_bytes=1500) as store:
        store.append("a:1", [Added(n) for n in range(20)], ANY)
        store.save_snapshot("a:1", 14, {"n": 14})
        assert store.compact_stream("a:1") == 15
        assert shared_state(store).covers(1) is shared_state(store).covers(20)  # All of it, or nothing is said of it.
    with reopened(path) as store:
        assert [e.number for e in store.read_stream("a:1")] == list(range(15, 20))
        assert store.append("a:1", [Added(20)], 19) == 20
        assert list(verify(store)) == []


@pytest.mark.parametrize("text", [b"somebody's notes\n", b"no newline", b'{"other":"log"}\n', b"x\ny\n"])
def test_what_no_crash_leaves_is_not_cut_off_as_a_torn_end(tmp_path: Path, text: bytes) -> None:
    """In the place of the journal, and behind it: the streams have it all, or nothing is changed until a repair."""
    path = tmp_path / "s"
    lines = filled(path)
    journal = path / "journal.jsonl"
    journal.write_bytes(text)
    with recovering(path, damaged=True) as store:
        assert store.recovered
        assert store.recovered.mended == 30
    assert (path / "journal.jsonl.damaged").read_bytes() == text
    (path / "journal.jsonl.damaged").unlink()
    assert journal.read_bytes() == b"".join(lines)
    for restarted in (False, True):
        if restarted:
            (path / "state").unlink()
        journal.write_bytes(b"".join(lines) + text)
        for _ in range(2):
            with pytest.raises(CorruptionError, match="no crash leaves"), FileEventStore(path) as store:
                store.append("a:1", [Added(-1)], ANY)
        assert journal.read_bytes() == b"".join(lines) + text
        assert [Path(each.path) for each in repair(path)] == [journal]
        assert journal.read_bytes() == b"".join(lines)
        assert (path / "journal.jsonl.damaged").read_bytes() == b"".join(lines) + text
    (path / "state").unlink()
    whole(path, 30)


def in_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A store with sealed segments and no checkpoint, whose recovery takes small parts; its journal's lines."""
    monkeypatch.setattr(hangarlog.filestore.recovery.replay, "WINDOW_BYTES", 3000)
    monkeypatch.setattr(hangarlog.filestore.recovery.replay, "_LINES_AT_ONCE", 2)
    for module in (hangarlog.filestore.recovery.replay, hangarlog.filestore.recovery.journal_end):
        monkeypatch.setattr(module, "READ_BYTES", 500)
    with FileEventStore(path, durability="relaxed", segment_bytes=8000) as store:
        for n in range(40):
            store.append_many([("a:1", [Added(n), Added(n)], ANY), (f"b:{n % 3}", [Added(n)], ANY)])
    (path / "checkpoint.json").unlink()
    (path / "state").unlink()
    return b"".join(file.read_bytes() for file in sorted(path.glob("journal*.jsonl"))).splitlines(keepends=True)


def test_streams_are_compared_in_many_parts_as_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with a different loss: none, a cut anywhere, zeros, a changed byte, something behind the end, all."""
    in_parts(tmp_path / "full", monkeypatch)
    names = ("a/1", "b/0", "b/1", "b/2")
    texts = [(tmp_path / f"full/streams/{name}.jsonl").read_bytes() for name in names]
    for turn in range(30):
        path = tmp_path / str(turn)
        shutil.copytree(tmp_path / "full", path)
        for number, (name, text) in enumerate(zip(names, texts, strict=True)):
            at = (turn * 997 + number * 131) % len(text)
            losses = [text, text[:at], text[:at] + bytes(len(text) - at), text + b"{", b""]
            losses.append(text[:at] + b"X" + text[at + 1 :])
            (path / f"streams/{name}.jsonl").write_bytes(losses[(turn + number) % len(losses)])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", CorruptionWarning)
            whole(path, 120)
        assert all(re.search("mended from the journal|put into", str(warning.message)) for warning in said)


def streams_of(path: Path) -> dict[Path, bytes]:
    return {file.relative_to(path): file.read_bytes() for file in (path / "streams").rglob("*.jsonl")}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"stream_id":"a:1"', b'"stream_id":"b:1"'),
        (b'"stream_id":"a:1"', b'"stream_id":"c:1"'),
        (b'"stream_id":"a:1"', b'"stream_id":"a:1\xff'),
        (b'"stream_version":', b'"stream_version":9'),
        (b'"stream_version":', b'"stream_versiom":'),
        (b'"position":', b'"position":1'),
        (b'"number":', b'"number":1'),
        (b"}\n", b"}"),
    ],
)
def test_a_damaged_line_of_the_journal_does_no_harm_to_the_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes
) -> None:
    """In what was sealed since the checkpoint: the streams have it right, and keep it; nothing new is made."""
    lines = in_parts(tmp_path / "full", monkeypatch)
    before = streams_of(tmp_path / "full")
    sealed = (tmp_path / "full/journal.00000000000000000001.jsonl").read_bytes().count(b"\n")
    for number, line in enumerate(lines[:sealed]):
        path = tmp_path / str(number)
        if old not in line:
            continue
        shutil.copytree(tmp_path / "full", path)
        damaged = [*lines[:number], line.replace(old, new, 1), *lines[number + 1 : sealed]]
        (path / "journal.00000000000000000001.jsonl").write_bytes(b"".join(damaged))
        with FileEventStore(path, durability="relaxed") as store:
            assert store.recovered
            assert store.recovered.rolled_forward == store.recovered.streams_cut == store.recovered.put_aside == 0
            assert streams_of(path) == before
        assert [Path(each.path).name for each in repair(path)] == ["journal.00000000000000000001.jsonl"]
        whole(path, 120)
        shutil.rmtree(path)


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_journal_segment_that_is_gone_takes_nothing_from_the_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """Of those that were sealed since the checkpoint: the streams have all that was in it."""
    path = tmp_path / "s"
    in_parts(path, monkeypatch)
    before = streams_of(path)
    sorted(path.glob("journal.0*.jsonl"))[which].unlink()
    with FileEventStore(path, durability="relaxed") as store:
        assert streams_of(path) == before
        assert len(store.read_stream("a:1")) == 80


def test_a_damaged_line_is_not_passed_over_as_one_of_a_sealed_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names another stream, at a version that this one has sealed; its own stream has nothing else."""
    monkeypatch.setattr(hangarlog.filestore.recovery.replay, "WINDOW_BYTES", 3000)
    monkeypatch.setattr(hangarlog.filestore.recovery.journal_end, "READ_BYTES", 500)
    monkeypatch.setattr(hangarlog.filestore.recovery.replay, "READ_BYTES", 500)
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed", segment_bytes=8000) as store:
        for stream_id, count in (("a:1", 60), ("b:1", 20), ("z:1", 1), ("b:1", 60)):
            for n in range(count):
                store.append(stream_id, [Added(n)], ANY)
    before = streams_of(path)
    (path / "checkpoint.json").unlink()
    (path / "state").unlink()
    (sealed,) = [file for file in path.glob("journal.0*.jsonl") if b'"z:1"' in file.read_bytes()]
    sealed.write_bytes(sealed.read_bytes().replace(b'"z:1"', b'"a:1"'))
    with FileEventStore(path, durability="relaxed") as store:
        assert streams_of(path) == before
        assert store.read_stream("z:1") == [Added(0)]


def test_damage_that_both_copies_have_is_said_by_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sealed is not read as good because the two are the same; what is behind it can be appended to."""
    in_parts(tmp_path / "s", monkeypatch)
    for name in ("journal.00000000000000000001.jsonl", "streams/b/1.jsonl"):
        file = tmp_path / "s" / name
        text = file.read_bytes()
        at = text.index(b'"stream_id":"b:1"')
        file.write_bytes(text[:at] + text[at:].replace(b"Added", b"Addee", 1))
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        assert len(store.read_stream("a:1")) == 80
        with pytest.raises(CorruptionError):
            store.read_stream("b:1")
        with pytest.raises(CorruptionError):
            list(store.read_all())
        assert store.append("a:1", [Added(-1)], 79) == 80


def test_a_roll_whose_index_kept_its_name_is_finished_without_it(tmp_path: Path) -> None:
    """Of a roll, a power cut may lose the rename of the index alone: then it lay beside another segment."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store:
        for n in range(800):
            store.append("a:1", [Added(n)], ANY)
    for name, first in (("streams/a/1", 0), ("journal", 1)):
        assert (path / f"{name}.index").exists(), "blind: too few events"
        (path / f"{name}.{first:020}.jsonl").hardlink_to(path / f"{name}.jsonl")
    (path / "state").unlink()
    with FileEventStore(path) as store:
        assert not list(verify(store))
        assert not list(path.rglob("*.index"))  # It is a cache, and may be torn.
        assert [event.number for event in store.read_stream("a:1")] == list(range(800))
