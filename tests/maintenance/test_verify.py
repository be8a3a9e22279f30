"""What `verify` says: every damaged place of a store, and nothing that is not there while others write to it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from conftest import ROOT, Added, Command
from store_files import change, flip, folder_of, put

from hangarlog import ANY, CorruptionError, FileEventStore
from hangarlog.filestore.checkpoint import Checkpoint
from hangarlog.maintenance.journal_check import JournalCheck
from hangarlog.maintenance.repair import Lost, repair
from hangarlog.maintenance.store_view import StoreView
from hangarlog.maintenance.stream_check import StreamCheck
from hangarlog.maintenance.verify import verify, verify_folder
from hangarlog.record.batch import Pending
from hangarlog.record.checked_json import with_crc

pytestmark = pytest.mark.usefixtures("ring_at_once")

EVENTS = 90


def fill(path: Path, *, durable: bool = False) -> None:
    """Three streams with sealed segments, a snapshot each, one of them compacted; some batches over two streams."""
    with FileEventStore(path, durability="always" if durable else "relaxed", segment_bytes=4_000) as store:
        for number in range(0, EVENTS, 3):
            store.append("a:0", [Added(number, "x" * 60)], ANY)
            more = [(f"a:{at}", [Added(number + at, "x" * 60)], ANY) for at in (1, 2)]
            store.append_many(more)
        for at in range(3):
            store.save_snapshot(f"a:{at}", 4, {"n": 4})
        store.compact_stream("a:2")


def found(path: Path) -> list[tuple[str, int]]:
    """What both ways of verifying say, which must be the same."""
    as_it_is = sorted((damage.path, damage.offset) for damage in verify_folder(path))
    with FileEventStore(path) as store:
        opened = sorted((damage.path, damage.offset) for damage in verify(store))
    assert as_it_is == opened
    return opened


def sealed(line: dict[str, object]) -> bytes:
    body = msgspec.json.encode({name: value for name, value in line.items() if name != "crc"})[:-1]
    return body + b',"crc":"%08x"}\n' % zlib.crc32(body)


def rewritten(file: Path, number: int, **changes: object) -> tuple[str, int]:
    """Change fields of one line, whose checksum is right again: its place."""
    lines = file.read_bytes().splitlines(keepends=True)
    lines[number] = sealed({**msgspec.json.decode(lines[number]), **changes})
    put(file, b"".join(lines))
    return str(file), sum(map(len, lines[:number]))


def test_a_store_that_is_whole_has_no_damage(tmp_path: Path) -> None:
    fill(tmp_path / "s", durable=True)
    assert found(tmp_path / "s") == []


def test_every_damaged_place_is_named(tmp_path: Path) -> None:
    """Not one a file; and the copies are compared wherever else there is damage."""
    path = tmp_path / "s"
    fill(path)
    with FileEventStore(path):  # Else opening it would mend some of it, and say so.
        _damage_and_find(path)


def _damage_and_find(path: Path) -> None:
    places = [change(path / "journal.jsonl", number, flip) for number in (1, 2, 44, 89)]
    places += [change(path / "streams/a/0.jsonl", number, flip) for number in (3, 9, 60)]
    snapshot = path / "snapshots/a/1.json"
    put(snapshot, snapshot.read_bytes().replace(b'"n":4', b'"n":5'))
    places.append((str(snapshot), 0))
    live = path / "streams/a/1.jsonl"
    places.append(rewritten(live, 1, event_type="Another"))
    assert found(path) == sorted(places)
    with FileEventStore(path) as store:
        events = {(d.position, d.stream_id, d.stream_version) for d in verify(store) if "journal" in d.path}
    assert events == {(2, "a:1", 0), (3, "a:2", 0), (45, "a:2", 14), (90, "a:2", 29)}


def flip_ring(path: Path) -> tuple[str, int]:
    ring = path / "ring"
    content = bytearray(ring.read_bytes())
    content[3 * 4096 + 300] ^= 1
    put(ring, bytes(content))
    return str(ring), 3 * 4096


def foreign_ring(path: Path) -> tuple[str, int]:
    """Of the same store, but with another event."""
    from hangarlog.filestore.commit_ring import BLOCK_BYTES, decode_frame, encode_frame

    ring = path / "ring"
    content = bytearray(ring.read_bytes())
    block = next(at for at in range(2, 256) if decode_frame(bytes(content), at * BLOCK_BYTES))
    frame = decode_frame(bytes(content), block * BLOCK_BYTES)
    assert frame
    lines = frame.text.split(b"\n")[:-1]
    lines[0] = sealed({**msgspec.json.decode(lines[0]), "event_id": "another"})[:-1]
    text = b"".join(line + b"\n" for line in lines)
    changed = encode_frame(frame.store.encode(), frame.generation, frame.first, frame.last, text)
    content[block * BLOCK_BYTES : block * BLOCK_BYTES + len(changed)] = changed
    put(ring, bytes(content))
    return str(ring), block * BLOCK_BYTES


def written(name: str, content: Callable[[bytes], bytes], offset: Callable[[bytes], int] = lambda text: 0) -> object:
    def make(path: Path) -> tuple[str, int]:
        file = path / name
        text = file.read_bytes() if file.exists() else b""
        if file.exists():
            put(file, content(text))
        else:
            file.write_bytes(content(text))
        return str(file), offset(text)

    return make


def snapshot_of(**changes: object) -> Callable[[bytes], bytes]:
    def make(text: bytes) -> bytes:
        fields = msgspec.json.decode(text)
        del fields["crc"]
        return with_crc({**fields, **changes})

    return make


def double_a_line(path: Path) -> tuple[str, int]:
    live = path / "streams/a/1.jsonl"
    lines = live.read_bytes().splitlines(keepends=True)
    put(live, b"".join([*lines, lines[-1]]))
    return str(live), sum(map(len, lines))


def swap_two_lines(path: Path) -> tuple[str, int]:
    file = path / "streams/a/1.00000000000000000000.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[2], lines[3] = lines[3], lines[2]
    put(file, b"".join(lines))
    return str(file), sum(map(len, lines[:2]))


def remove(name: str) -> Callable[[Path], tuple[str, int]]:
    def make(path: Path) -> tuple[str, int]:
        (path / name).unlink()
        return str(path / name), 0

    return make


def another_name(path: Path) -> tuple[str, int]:
    """A sealed segment under the name of a stream that is not there."""
    (first,) = path.glob("streams/a/0.00000000000000000000.jsonl")
    shutil.copy(first, path / "streams/a/9.00000000000000000000.jsonl")
    return str(path / "streams/a/9.jsonl"), 0


def doubled_segment(path: Path) -> tuple[str, int]:
    first = path / "streams/a/0.00000000000000000000.jsonl"
    copy = path / "streams/a/0.00000000000000000900.jsonl"
    shutil.copy(first, copy)
    return str(copy), 0


def cut_after_a_line(path: Path) -> tuple[str, int]:
    live = path / "streams/a/1.jsonl"
    lines = live.read_bytes().splitlines(keepends=True)
    put(live, b"".join(lines[:-1]))
    return str(live), sum(map(len, lines[:-1]))


def half_a_batch(path: Path) -> tuple[str, int]:
    """Wrong in both copies: only a forger, or a tool that writes lines, can do that."""
    (path / "ring").unlink()
    live = path / "streams/a/1.jsonl"
    number = live.read_bytes().count(b"\n") - 2
    position = msgspec.json.decode(live.read_bytes().splitlines()[number])["position"]
    rewritten(live, number, batch_end=position + 3)
    journal = path / "journal.jsonl"
    for file in sorted(path.glob("journal*.jsonl")):
        positions = [msgspec.json.decode(line)["position"] for line in file.read_bytes().splitlines()]
        if position in positions:
            at = positions.index(position)
            rewritten(file, at, batch_end=position + 3)
            lines = file.read_bytes().splitlines(keepends=True)
            if at + 1 < len(lines):
                return str(file), sum(map(len, lines[: at + 1]))
            return str(journal), 0
    raise AssertionError


BLIND: dict[str, object] = {
    "bytes behind the journal": written("journal.jsonl", lambda text: text + b"hello\n", len),
    "half a line behind the journal": written("journal.jsonl", lambda text: text + b"hello", len),
    "bytes behind a stream": written("streams/a/1.jsonl", lambda text: text + b"hello\n", len),
    "a line that comes again": double_a_line,
    "two lines swapped": swap_two_lines,
    "a stream that ends early": cut_after_a_line,
    "a checkpoint of a later time": written("checkpoint.json", lambda _: with_crc(Checkpoint(10_000, 0.0))),
    "a checkpoint that is none": written("checkpoint.json", lambda _: b'{"position":9}\n'),
    "a flipped bit in the ring": flip_ring,
    "a ring of another history": foreign_ring,
    "a short ring": written("ring", lambda ring: ring[:5000], lambda _: 5000),
    "a damaged snapshot": written("snapshots/a/0.json", lambda text: text.replace(b'"n":4', b'"n":5')),
    "a snapshot of another stream": written("snapshots/a/0.json", snapshot_of(stream_id="a:7")),
    "a snapshot beyond its stream": written("snapshots/a/2.json", snapshot_of(compacted_through=900)),
    "a sealed segment of no stream": another_name,
    "a sealed segment twice": doubled_segment,
    "a stream's live file gone": remove("streams/a/1.jsonl"),
    "a sealed segment gone": remove("streams/a/1.00000000000000000000.jsonl"),
    "half a batch": half_a_batch,
}


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("blind", BLIND)
def test_whatever_an_append_or_a_recovery_would_meet_is_seen(tmp_path: Path, blind: str, is_open: bool) -> None:
    """At its place. (What a recovery mends when the store is opened is not there any more.)"""
    if blind == "a stream that ends early" and not is_open:
        pytest.skip("a crash may have left it: it is no damage, and the next writer completes it")
    path = tmp_path / "s"
    fill(path, durable=True)
    make = BLIND[blind]
    assert callable(make)
    with FileEventStore(path) if is_open else contextlib.nullcontext() as store:
        file, offset = make(path)
        damages = [(damage.path, damage.offset) for damage in (verify(store) if store else verify_folder(path))]
    if blind == "two lines swapped":
        assert damages == [(file, offset), (file, damages[-1][1])]  # The one that is missing there, and comes then.
    elif blind == "a sealed segment gone":
        assert {Path(name).name.split(".")[0] for name, _ in damages} == {"1"}
    else:
        assert damages == [(file, offset)]


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
@pytest.mark.parametrize("log", ["journal", "streams/a/0", "streams/a/2"])
@pytest.mark.parametrize("by", [-1, 1])
def test_a_segment_with_the_name_of_another_number_is_damage(tmp_path: Path, log: str, by: int) -> None:
    path = tmp_path / "s"
    fill(path)
    segment = sorted((path / log).parent.glob(f"{Path(log).name}.0*.jsonl"))[1]
    number = int(segment.name.split(".")[1]) + by
    renamed = segment.rename(segment.with_name(f"{Path(log).name}.{number:020}.jsonl"))
    assert found(path) == [(str(renamed), 0)]
    (damage,) = verify_folder(path)
    assert f"its name says {number}, but it begins with" in damage.cause
    assert not [done for done in repair(path) if isinstance(done, Lost)]
    assert found(path) == []


@pytest.mark.parametrize("log", ["journal", "streams/a/0"])
def test_a_damaged_first_line_of_a_segment_is_one_finding(tmp_path: Path, log: str) -> None:
    path = tmp_path / "s"
    fill(path)
    segment = sorted((path / log).parent.glob(f"{Path(log).name}.0*.jsonl"))[1]
    with segment.open("r+b") as file:
        text = file.readline().replace(b"xxx", b"xyx", 1)
        file.seek(0)
        file.write(text)
    assert [(damage.path, damage.offset) for damage in verify_folder(path)] == [(str(segment), 0)]


def test_verify_changes_no_byte_if_it_is_told_so(tmp_path: Path, hangarlog: Command) -> None:
    """Nor makes a file; a writer that died has left its mark, and a half line."""
    path = tmp_path / "s"
    fill(path)
    assert hangarlog("verify", path, "--read-only").returncode == 0
    change(path / "streams/a/0.jsonl", 60, flip)
    (path / "state").unlink()
    with (path / "journal.jsonl").open("ab") as file:
        file.write(b'{"position":91,"str')
    shutil.rmtree(path / "locks")
    before = folder_of(path)
    done = hangarlog("verify", path, "--read-only")
    assert done.returncode == 1
    damage, summary = map(msgspec.json.decode, done.stdout.splitlines())
    assert (damage["position"], damage["stream_id"], damage["stream_version"]) == (61, "a:0", 20)
    assert summary == {"events": EVENTS, "streams": 3, "damaged": 1}
    assert folder_of(path) == before
    assert hangarlog("verify", tmp_path / "none", "--read-only").returncode == 1
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("begins", [0, 5, 100])
def test_one_damaged_line_of_an_imported_stream_is_one_finding(tmp_path: Path, begins: int) -> None:
    """Its versions may be higher than its positions."""
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        store.begin_stream("a:1", begins)
        pending = Pending(
            "a:1", [("Added", None, b'{"number":%d}' % n, None, None) for n in range(4)], -1, None, begins
        )
        store.append_encoded([pending])
        assert list(verify(store)) == []
        file = tmp_path / "s/streams/a/1.jsonl"
        file.write_bytes(file.read_bytes().replace(b'"number":1', b'"number":7'))
        assert len([str(damage) for damage in verify(store)]) == 1


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_what_a_power_cut_leaves_is_no_damage(tmp_path: Path, keep: int) -> None:
    """Streams that are shorter than the journal, or longer; torn ends; a ring that is ahead."""
    path = tmp_path / "s"
    with FileEventStore(path) as store:
        for number in range(9):
            store.append("a:1", [Added(number)], ANY)
    lines = (path / "journal.jsonl").read_bytes().splitlines(keepends=True)  # The first sync was of the journal.
    put(path / "journal.jsonl", b"".join(lines[: max(1, 3 * keep)]) + b'{"position":'[: 4 * keep])
    put(path / "streams/a/1.jsonl", b"".join(lines[: 9 - 3 * keep]) + bytes(100 * keep))
    (path / "state").unlink()
    assert list(verify_folder(path)) == []
    with FileEventStore(path) as store:
        assert list(verify(store)) == []
        assert len(store.read_stream("a:1")) == 9


def test_what_the_recovery_at_opening_had_to_mend_is_a_finding(tmp_path: Path, hangarlog: Command) -> None:
    """A flipped byte in the journal's end of a copy: once; then it is whole."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed") as store:
        for number in range(9):
            store.append("a:1", [Added(number, "xxx")], ANY)
    journal, offset = change(path / "journal.jsonl", 5, flip)
    (path / "state").unlink()
    done = hangarlog("verify", path)
    assert done.returncode == 1
    damage, summary = map(msgspec.json.decode, done.stdout.splitlines())
    assert (damage["path"], damage["offset"]) == (journal, offset)
    assert "it was mended from the other copy" in damage["cause"]
    assert summary["damaged"] == 1
    assert hangarlog("verify", path).returncode == 0


def test_a_look_is_made_again_where_a_file_goes_meanwhile(tmp_path: Path) -> None:
    """A compaction of another process deletes what was listed."""
    gone = [FileNotFoundError(), FileNotFoundError()]

    def look() -> list[CorruptionError]:
        if gone:
            raise gone.pop()
        return []

    with FileEventStore(tmp_path / "s") as store, contextlib.closing(StoreView(store.folder, "id", store)) as view:
        assert view.confirm(look) == []


WRITER = """
import os, sys
from hangarlog import *
with FileEventStore(sys.argv[1], durability="relaxed") as store:
    print("begun", flush=True)
    number = 0
    while number < 2_000 and not os.path.exists(sys.argv[2]):  # Else a slow `verify` never catches up.
        number += 1
        stream = f"a:{number % 7}"
        store.append(stream, [UntypedEvent("T", {"x": "y" * 100})] * (1 + number % 40), ANY)
        if number % 50 == 0:
            try:
                store.save_snapshot(stream, store.get_stream_version(stream), {})
                store.compact_stream(stream)
            except (ValueError, CompactionError):
                pass  # The other writer was quicker.
        if number % 30 == 0:
            store.append(f"new:{number}", [UntypedEvent("T", {})], ANY)
"""


@pytest.mark.parametrize("read_only", [False, True])
def test_nothing_is_found_in_a_store_that_is_written_to(tmp_path: Path, read_only: bool) -> None:
    """Segments are rolled, streams made and compacted, indexes grow, the ring begins again."""
    path, stop = tmp_path / "s", tmp_path / "stop"
    with FileEventStore(path, segment_bytes=60_000) as store:
        store.append("a:1", [Added(1)], ANY)
    program = [sys.executable, "-c", WRITER, str(path), str(stop)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen(program, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout
            assert writer.stdout.readline() == b"begun\n"
        damages: list[CorruptionError] = []
        with FileEventStore(path, durability="relaxed") as store:
            for _ in range(10):
                damages += verify_folder(path) if read_only else verify(store)
    finally:
        stop.touch()
        for writer in writers:
            writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert damages == []
    with FileEventStore(path, durability="relaxed") as store:
        assert list(verify(store)) == []


DYING = """
import os, sys
from hangarlog import *
from hangarlog.system.filesystem import FileSystem

class Dies(FileSystem):
    writes = 0
    def write(self, fd, data):
        self.writes += 1
        super().write(fd, data[: len(data) // 2] if self.writes == int(sys.argv[2]) else data)
        if self.writes == int(sys.argv[2]):
            os._exit(0)

FileEventStore(sys.argv[1], filesystem=Dies()).append("a:1", [UntypedEvent("T", {})] * 3, ANY)
"""


def test_what_a_writer_that_died_has_begun_is_no_damage_until_it_is_recovered(tmp_path: Path) -> None:
    path = tmp_path / "s"
    fill(path)
    for dies_at in (1, 2):
        subprocess.run(
            [sys.executable, "-c", DYING, str(path), str(dies_at)],
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert list(verify_folder(path)) == []
        with FileEventStore(path) as store:
            assert list(verify(store)) == []


def test_damage_is_found_in_a_store_that_is_written_to(tmp_path: Path) -> None:
    """A look with the lock held says that it is there."""
    path = tmp_path / "s"
    fill(path)
    place = change(path / "streams/a/0.jsonl", 60, flip)
    with FileEventStore(path, durability="relaxed") as store:
        for number in itertools.count():
            store.append("a:1", [Added(number)], ANY)
            damages = [(damage.path, damage.offset) for damage in verify(store)]
            assert damages == [place]
            if number == 3:
                break


def test_a_stream_that_begins_and_rolls_while_verify_runs_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder was listed before the roll, and its new live segment begins with a later version."""
    with FileEventStore(tmp_path / "s", segment_bytes=600) as store:
        store.append("a:1", [Added(0)], ANY)
        walk = JournalCheck.damages

        def damages(check: JournalCheck) -> Iterator[CorruptionError]:
            yield from walk(check)
            store.append("b:1", [Added(0)], ANY)

        def is_suspect(*_: object) -> bool:
            for count in range(10):
                store.append("b:1", [Added(count)], ANY)
            return True  # As it is where a record is met that is not committed yet.

        monkeypatch.setattr(JournalCheck, "damages", damages)
        monkeypatch.setattr(StreamCheck, "is_suspect", is_suspect)
        assert list(verify_folder(store.path)) == []
        assert store.folder.stream("b:1").sealed()
