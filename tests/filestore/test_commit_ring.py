"""The commit ring after a power cut: whatever became of it, what it had is joined, or what is missing is said."""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path

import pytest
from campaigns.hostile_input.sizes import overlapping
from conftest import Added

from hangarlog import ANY, CorruptionError, FileEventStore, StoreFormatError, SyncError
from hangarlog.filestore.commit_ring import BLOCK_BYTES, RING_BYTES, decode_frame, encode_frame, read_ring
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing.probe import commit_ring

pytestmark = pytest.mark.usefixtures("ring_at_once")

EVENTS = 12
LAST_SYNC = 1  # The first append syncs the journal, to make the ring; the others go through it.


def filled(path: Path) -> bytes:
    """A store of durable events, of whose journal only the first append's is on the device; its whole journal."""
    with FileEventStore(path) as store:
        for number in range(EVENTS):
            store.append("a:1", [Added(number)], number - 1)
    journal = path / "journal.jsonl"
    text = journal.read_bytes()
    journal.write_bytes(b"".join(text.splitlines(keepends=True)[:LAST_SYNC]))
    (path / "streams/a/1.jsonl").unlink()
    (path / "state").unlink()
    return text


def whole(path: Path, text: bytes, *, but: str = "") -> FileEventStore:
    """The store, opened and whole again, `but` for a file that is still damaged."""
    store = FileEventStore(path)
    assert (path / "journal.jsonl").read_bytes() == text
    assert [event.number for event in store.read_stream("a:1")] == list(range(text.count(b"\n")))
    assert [os.path.basename(damage.path) for damage in verify(store)] == [but] * bool(but)
    assert store.append("a:1", [Added(99)], ANY) == text.count(b"\n")
    return store


def damaged(path: Path, at: int, data: bytes) -> None:
    ring = (path / "ring").read_bytes()
    (path / "ring").write_bytes(ring[:at] + data + ring[at + len(data) :])


def test_what_only_the_ring_has_is_written_into_the_journal(tmp_path: Path) -> None:
    """And the ring begins a generation, after which the old frames count no more."""
    text = filled(tmp_path / "s")
    store = whole(tmp_path / "s", text)
    assert store.recovered
    assert store.recovered.joined == EVENTS - LAST_SYNC
    store.close()
    (tmp_path / "s/state").unlink()
    with FileEventStore(tmp_path / "s") as store:
        assert store.recovered
        assert store.recovered.joined == 0
        assert store.get_event_count() == EVENTS + 1


def test_each_frame_names_the_line_that_it_follows(tmp_path: Path) -> None:
    """Also behind a roll: what begins a segment is synced in the journal itself."""
    with FileEventStore(tmp_path / "s", segment_bytes=1_000) as store:
        for number in range(30):
            store.append("a:1", [Added(number)], ANY)
        assert len(list((tmp_path / "s").glob("journal.*.jsonl"))) > 3
        ring = read_ring(FileSystem(), store.folder.ring_path, store.meta.store_id)
        crcs = {record.position: record.crc for block in store.envelopes() for record in block}
    frames = ring.older + ring.frames
    assert len(frames) > 15
    assert [frame.after for frame in frames] == [crcs[frame.first - 1] for frame in frames]


def test_a_torn_last_frame_was_not_acknowledged(tmp_path: Path) -> None:
    text = filled(tmp_path / "s")
    last = (EVENTS - LAST_SYNC - 1) * BLOCK_BYTES
    damaged(tmp_path / "s", last + 200, bytes(BLOCK_BYTES - 200))
    whole(tmp_path / "s", b"".join(text.splitlines(keepends=True)[:-1])).close()


def test_a_gap_between_journal_and_ring_is_said_and_nothing_cut(tmp_path: Path) -> None:
    """Its first frame is gone, and the stream's copy, too."""
    filled(tmp_path / "s")
    before = (tmp_path / "s/journal.jsonl").read_bytes()
    damaged(tmp_path / "s", 0, bytes(BLOCK_BYTES))
    with pytest.raises(CorruptionError, match=r"position 2 is missing; 12 events were committed"):
        FileEventStore(tmp_path / "s")
    assert (tmp_path / "s/journal.jsonl").read_bytes() == before


def test_a_journal_that_has_more_than_the_ring_needs_nothing_of_it(tmp_path: Path) -> None:
    """As after a power cut that came late."""
    text = filled(tmp_path / "s")
    (tmp_path / "s/journal.jsonl").write_bytes(text)
    damaged(tmp_path / "s", 3 * BLOCK_BYTES, bytes(BLOCK_BYTES))
    store = whole(tmp_path / "s", text, but="ring")
    assert store.recovered
    assert store.recovered.joined == 0
    store.close()


def test_a_ring_of_another_store_is_passed_over(tmp_path: Path) -> None:
    filled(tmp_path / "s")
    filled(tmp_path / "other")
    (tmp_path / "s/ring").write_bytes((tmp_path / "other/ring").read_bytes())
    with FileEventStore(tmp_path / "s") as store:
        assert store.get_event_count() == LAST_SYNC


def test_a_ring_of_a_newer_format_is_not_thrown_away(tmp_path: Path) -> None:
    """The message has the two ways on."""
    filled(tmp_path / "s")
    ring = tmp_path / "s/ring"
    frame = decode_frame(ring.read_bytes(), 0)
    assert frame
    newer = encode_frame(frame.store.encode(), 9, 2, 2, frame.text).replace(b'"ring":1', b'"ring":2')
    assert decode_frame(newer, 0) is None  # Its checksum is over the format, too.
    header, _, rest = newer.partition(b',"crc":"')
    signed = header + b',"crc":"%08x"}\n' % zlib.crc32(frame.text, zlib.crc32(header)) + rest.partition(b"\n")[2]
    damaged(tmp_path / "s", 0, signed)
    with pytest.raises(StoreFormatError, match=r"newer version.*or delete"):
        FileEventStore(tmp_path / "s")
    ring.unlink()
    with FileEventStore(tmp_path / "s") as store:
        assert store.get_event_count() == LAST_SYNC


@pytest.mark.parametrize("size", [None, 0, 1000])
def test_a_ring_that_is_lost_is_reported_and_made_anew(tmp_path: Path, size: int | None) -> None:
    """Where the shared state has come through the restart, and says that there was one."""
    with FileEventStore(tmp_path / "s") as store:
        store.append("a:1", [Added(0)], ANY)
    state = memoryview(bytearray((tmp_path / "s/state").read_bytes())).cast("Q")
    state[1] += 1  # Of another boot.
    (tmp_path / "s/state").write_bytes(state.tobytes())
    ring = tmp_path / "s/ring"
    ring.unlink()
    if size is not None:
        ring.write_bytes(bytes(size))
    with FileEventStore(tmp_path / "s") as store:
        assert store.recovered
        assert store.recovered.ring_lost
        store.append("a:1", [Added(1)], 0)
        store.append("a:1", [Added(2)], 1)
        assert ring.stat().st_size == RING_BYTES
        assert decode_frame(ring.read_bytes(), 0)


def test_a_ring_deleted_while_it_is_used_is_made_anew_by_whoever_opens_the_store(tmp_path: Path) -> None:
    """What it had goes into the journal first."""
    with FileEventStore(tmp_path / "s") as store:
        store.append("a:1", [Added(0)], ANY)
        store.append("a:1", [Added(1)], ANY)
        (tmp_path / "s/ring").unlink()
        with FileEventStore(tmp_path / "s") as other:
            other.append("a:1", [Added(2)], ANY)
            store.append("a:1", [Added(3)], ANY)
            assert decode_frame((tmp_path / "s/ring").read_bytes(), 0)
            assert list(verify(store)) == []


def test_lines_cannot_pass_for_frames(tmp_path: Path) -> None:
    """Not even one whose payload has a frame's header at the beginning of a block."""
    with FileEventStore(tmp_path / "s") as store:
        store.append("a:1", [Added(0)], ANY)
        forged = encode_frame(store.meta.store_id.encode(), 99, 1, 99, b"x\n").decode("latin-1")
        store.append("a:1", [Added(1, forged * 9)], ANY)
    (tmp_path / "s/state").unlink()
    with FileEventStore(tmp_path / "s") as store:
        assert [event.number for event in store.read_stream("a:1")] == [0, 1]


class Refusing(FileSystem):
    """Refuses the next write that is to be on the device when it returns."""

    def __init__(self) -> None:
        self.code = 0
        self.through: set[int] = set()

    def open_synced(self, path: str) -> tuple[int, bool]:
        fd, synced = super().open_synced(path)
        if not synced:
            pytest.skip("this file system takes no writes past its cache")
        self.through.add(fd)
        return fd, synced

    def close(self, fd: int) -> None:
        self.through.discard(fd)
        super().close(fd)

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        if fd in self.through and self.code:
            code, self.code = self.code, 0
            raise OSError(code, os.strerror(code))
        super().write_at(fd, data, offset)


def refused(path: Path, code: int) -> tuple[FileEventStore, Refusing]:
    """A store whose next sync through the ring is refused."""
    filesystem = Refusing()
    store = FileEventStore(path, filesystem=filesystem)
    for number in range(3):
        store.append("a:1", [Added(number)], number - 1)
    assert filesystem.through, "the ring is written through"
    filesystem.code = code
    return store, filesystem


def test_a_device_that_fails_in_a_write_through_has_failed_a_sync(tmp_path: Path) -> None:
    """Nobody knows what it has: the next append has the journal written anew first."""
    store, _ = refused(tmp_path / "s", errno.EIO)
    with store:
        with pytest.raises(SyncError):
            store.append("a:1", [Added(3)], 2)
        assert store.append("a:1", [Added(4)], ANY) == 4
        assert store.recovered
        assert [event.number for event in store.read_stream("a:1")] == [0, 1, 2, 3, 4]
        assert list(verify(store)) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSPC, errno.EFBIG])
def test_a_ring_that_cannot_be_written_through_is_done_without(tmp_path: Path, code: int) -> None:
    """A device that wants writes of another size gets them through the cache; without room the journal is synced."""
    store, filesystem = refused(tmp_path / "s", code)
    with store:
        for number in range(3, EVENTS):
            store.append("a:1", [Added(number)], number - 1)
        assert bool(filesystem.through) is (code != errno.EINVAL)
    journal = tmp_path / "s/journal.jsonl"
    text = journal.read_bytes()
    # The sync that was refused has brought the journal to the device; what came later is in the ring alone.
    synced = LAST_SYNC if code == errno.EINVAL else 4
    journal.write_bytes(b"".join(text.splitlines(keepends=True)[:synced]))
    (tmp_path / "s/streams/a/1.jsonl").unlink()
    (tmp_path / "s/state").unlink()
    whole(tmp_path / "s", text).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_writes_frames_from_memory_of_its_own(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s") as store:
        store.append("a:1", [Added(0)], ANY)
        store.append("a:1", [Added(1)], ANY)
        page = commit_ring(store)._page
        if page is None:
            pytest.skip("this file system takes no writes past its cache")
        before = bytes(page)
        child = os.fork()
        if not child:
            try:
                store.append("a:1", [Added(2)], 1)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert bytes(page) == before
        store.append("a:1", [Added(3)], 2)
        assert list(verify(store)) == []


@pytest.mark.parametrize("blocks", [3, 256, 1024])
def test_frames_that_overlap_do_not_count_for_more_than_the_ring(tmp_path: Path, blocks: int) -> None:
    """Each would be whole for itself. Nor does a file count that is larger than a ring can be."""
    with FileEventStore(tmp_path / "s") as store:
        store.append("a:1", [Added(0)], ANY)
        store_id = store.meta.store_id
    content = overlapping(blocks, store_id)
    assert decode_frame(content, BLOCK_BYTES) or blocks > 256
    (tmp_path / "s/ring").write_bytes(content)
    found = read_ring(FileSystem(), str(tmp_path / "s/ring"), store_id)
    assert sum(len(frame.text) for frame in found.frames + found.older) < RING_BYTES
    (tmp_path / "s/state").unlink()
    with FileEventStore(tmp_path / "s") as store:
        assert len([damage for damage in verify(store) if damage.path.endswith("ring")]) <= 2
        store.append("a:1", [Added(1)], ANY)


def test_a_ring_that_has_grown_loses_nothing_that_it_had(tmp_path: Path) -> None:
    """What lies behind a ring's size is none of it."""
    text = filled(tmp_path / "s")
    with open(tmp_path / "s/ring", "ab") as ring:
        ring.truncate(1 << 40)
    whole(tmp_path / "s", text, but="ring").close()


def test_a_generation_that_no_ring_reaches_is_no_frame(tmp_path: Path) -> None:
    """The one after it has no place in the shared state, and the frames of later commits would not count."""
    text = filled(tmp_path / "s")
    frame = decode_frame((tmp_path / "s/ring").read_bytes(), 0)
    assert frame
    forged = encode_frame(frame.store.encode(), 1 << 40, EVENTS + 1, EVENTS + 1, b"x\n")
    damaged(tmp_path / "s", 100 * BLOCK_BYTES, forged)
    whole(tmp_path / "s", text).close()


def test_a_store_gets_a_ring_when_it_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few durable appends sync the journal itself, and nothing is lost with the ring that there is not."""
    monkeypatch.setattr("hangarlog.filestore.group_sync.SYNCS_BEFORE_RING", 64)
    path = tmp_path / "s"
    for number in range(3):
        with FileEventStore(path) as store:
            store.append("a:1", [Added(number)], ANY)
            assert store.durable_position == number + 1
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 50_000
    with FileEventStore(path) as store:
        assert store.recovered
        assert not store.recovered.ring_lost
        for number in range(3, 68):
            assert not (path / "ring").exists(), number
            store.append("a:1", [Added(number)], ANY)
        assert (path / "ring").stat().st_size == RING_BYTES
        assert list(verify(store)) == []
    with FileEventStore(path) as store:  # Who opens it later uses the ring at once.
        store.append("a:1", [Added(68)], ANY)
        assert len(store.read_stream("a:1")) == 69
