"""A call that fails undoes the append whole, and says so; the store goes on when the cause is gone."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Added

from hangarlog import (
    ANY,
    CorruptionError,
    EncodedEvent,
    FileEventStore,
    HangarlogError,
    OutcomeUnknownError,
    StorageError,
    SyncError,
)
from hangarlog.filestore import event_ids
from hangarlog.filestore.open_streams import OpenStreams
from hangarlog.filestore.turns import Turns
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.platform import BYTE_LOCKS

pytestmark = pytest.mark.usefixtures("ring_at_once")


class FailingFileSystem(FileSystem):
    """Fails in the calls of one name, the first `after` of them left out, until it is mended."""

    def __init__(self) -> None:
        self.name, self.after, self.error = "", 0, OSError(errno.ENOSPC, "No space left on device")

    def fail(self, name: str, after: int = 0, code: int = errno.ENOSPC) -> None:
        self.name, self.after, self.error = name, after, OSError(code, os.strerror(code))

    def mend(self) -> None:
        self.name = ""

    def _step(self, name: str) -> None:
        if name == self.name:
            self.after -= 1
            if self.after < 0:
                raise self.error

    def write(self, fd: int, data: bytes) -> None:
        if self.name == "write" and self.after <= 0:
            super().write(fd, data[: len(data) // 2])  # A full disk takes what it can.
        self._step("write")
        super().write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        self._step("truncate")
        super().truncate(fd, size)

    def open_append(self, path: str, *, create: bool = False) -> int:
        self._step("open_append")
        return super().open_append(path, create=create)

    def sync_data(self, fd: int) -> None:
        self._step("sync_data")
        super().sync_data(fd)

    def roll(self, live: str, sealed: str) -> None:
        self._step("roll")
        super().roll(live, sealed)

    def replace_file(self, path: str, content: bytes, *, sync: bool = True) -> None:
        self._step("replace_file")
        super().replace_file(path, content, sync=sync)


BATCH = [("a:1", [Added(1), Added(2)], ANY), ("b:1", [Added(3)], ANY), ("c:1", [Added(4)], ANY)]


@pytest.mark.parametrize("after", range(4))
def test_a_full_disk_fails_the_append_whole(tmp_path: Path, after: int) -> None:
    """At the journal's write and at each stream's; another process sees nothing of it; then it works again."""
    filesystem = FailingFileSystem()
    with FileEventStore(tmp_path / "s", durability="relaxed", filesystem=filesystem) as store:
        store.append("a:1", [Added(0)], ANY)
        filesystem.fail("write", after)
        with pytest.raises(StorageError, match=r"No space left.*nothing was written") as caught:
            store.append_many(BATCH)
        assert caught.value.errno == errno.ENOSPC
        with FileEventStore(tmp_path / "s") as other:
            assert other.get_event_count() == 1
            assert other.list_streams() == ["a:1"]
            assert list(verify(other)) == []
        filesystem.mend()
        assert store.append_many(BATCH) == {"a:1": 2, "b:1": 0, "c:1": 0}
        assert list(verify(store)) == []


@pytest.mark.parametrize("name", ["open_append", "roll"])
@pytest.mark.parametrize("after", range(3))
def test_no_file_to_be_had_fails_the_append_whole(tmp_path: Path, name: str, after: int) -> None:
    filesystem = FailingFileSystem()
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=200, filesystem=filesystem) as store:
        for _ in range(3):
            store.append_many([("a:1", [Added(0)], ANY), ("b:1", [Added(0)], ANY)])
        filesystem.fail(name, after, errno.EMFILE)
        with pytest.raises(HangarlogError):
            store.append_many([*BATCH[:2], ("new:1", [Added(5)], ANY)])
        filesystem.mend()
        assert store.append_many(BATCH) == {"a:1": 4, "b:1": 3, "c:1": 0}
        assert list(verify(store)) == []


def test_what_cannot_be_taken_back_is_settled_by_the_next_writer(tmp_path: Path) -> None:
    """The journal has the batch whole, so it counts; a retry by event id does not write it twice."""
    filesystem = FailingFileSystem()
    store = FileEventStore(tmp_path / "s", durability="relaxed", filesystem=filesystem)
    store.append("a:1", [Added(0)], ANY)

    filesystem.fail("truncate")
    write = filesystem.write
    count = 0

    def failing_write(fd: int, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise OSError(errno.EIO, "Input/output error")
        write(fd, data)

    filesystem.write = failing_write  # type: ignore[method-assign]
    from hangarlog import UntypedEvent

    events = [UntypedEvent("Added", {"number": 7}, event_id="seven")]
    with pytest.raises(OutcomeUnknownError, match="same event ids"):
        store.append("a:1", events, 0)
    filesystem.mend()
    assert store.append("a:1", events, 0) == 1
    assert store.get_event_count() == 2
    assert list(verify(store)) == []
    store.close()


def test_a_sync_that_cannot_read_the_state_leaves_the_outcome_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was acknowledged is there: the message does not say that nothing was written."""
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        store.append("a:1", [Added(0)], ANY)
        with monkeypatch.context() as failing:

            def refuse(*_: object) -> bytes:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

            failing.setattr("hangarlog.filestore.shared_state.SharedState.look", refuse)
            with pytest.raises(OutcomeUnknownError, match=r"it is written, but could not be synced.*Input/output"):
                store.sync()
        store.sync()
        assert store.durable_position == 1


def test_a_failed_sync_is_final(tmp_path: Path) -> None:
    """No process appends while the device refuses; then the journal is written anew before anything is believed."""
    filesystem = FailingFileSystem()
    store = FileEventStore(tmp_path / "s", filesystem=filesystem)
    other = FileEventStore(tmp_path / "s", filesystem=filesystem)
    store.append("a:1", [Added(0)], ANY)
    before = (tmp_path / "s/journal.jsonl").stat().st_ino
    filesystem.fail("sync_data", code=errno.EIO)
    with pytest.raises(SyncError, match="outcome is unknown"):
        store.append("a:1", [Added(1)], 0)
    for each in (store, other):
        with pytest.raises(SyncError, match="still refuses"):
            each.append("a:1", [Added(2)], ANY)
        assert len(each.read_stream("a:1")) == 2
    filesystem.mend()
    assert other.append("a:1", [Added(2)], 1) == 2
    assert (tmp_path / "s/journal.jsonl").stat().st_ino != before
    assert store.append("a:1", [Added(3)], 2) == 3
    assert list(verify(store)) == []
    store.close()
    other.close()


def test_an_index_or_a_checkpoint_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    """They are caches."""
    filesystem = FailingFileSystem()
    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=150_000, filesystem=filesystem) as store:
        filesystem.fail("replace_file")
        for number in range(2000):
            store.append("a:1", [Added(number)], ANY)
        assert list(verify(store)) == []


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no limit of file sizes")
def test_a_real_limit_of_file_sizes_is_met_at_every_byte(tmp_path: Path) -> None:
    """The kernel writes what fits, then refuses: RLIMIT_FSIZE over two records' worth of limits.

    They are above the size of the catalog, which would otherwise be what is refused.
    """
    program = """
import resource, signal, sys
from hangarlog import ANY, FileEventStore, StorageError, UntypedEvent
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, start, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
refused = 0
with FileEventStore(path, durability="relaxed") as store:
    event = UntypedEvent("Added", {"number": 1})
    store.append("a:1", [event], ANY)
    for limit in range(start, stop):
        before = store.get_event_count()
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(limit, 4096), hard))
        try:
            while True:
                store.append_many([("a:1", [event, event], ANY), ("b:1", [event], ANY)])
        except StorageError as error:
            assert error.errno == 27, error
            refused += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert (store.get_event_count() - 1) % 3 == 0
        assert store.get_event_count() == len(list(store.envelopes()) and [e for b in store.envelopes() for e in b])
print(refused)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "s"), "17000", "17400"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("400\n", "", 0)
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        assert list(verify(store)) == []


def test_no_reader_sees_a_commit_before_it_is_published(tmp_path: Path) -> None:
    """Looked at from another store after every single write of an append, and in the middle of it."""

    class Peeking(FileSystem):
        """Calls `peek` after each write of lines, and when half of it is done."""

        peek = staticmethod(lambda: None)

        def write(self, fd: int, data: bytes) -> None:
            if b',"stream_id":' not in data:
                super().write(fd, data)
                return
            super().write(fd, data[: len(data) // 2])
            self.peek()
            super().write(fd, data[len(data) // 2 :])
            self.peek()

    filesystem = Peeking()
    with (
        FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=2_000, filesystem=filesystem) as store,
        FileEventStore(tmp_path / "s", durability="relaxed") as reader,
    ):
        looks = rounds = 0

        def peek() -> None:
            nonlocal looks
            looks += 1
            known = [(1, "a:1"), (2, "a:1"), (3, "b:1"), (4, "c:1")] * 100
            positions = [(position, stream_id) for position, stream_id, _ in reader.read_all()]
            assert [stream_id for _, stream_id in positions] == [stream_id for _, stream_id in known][: 4 * rounds]
            assert [position for position, _ in positions] == list(range(1, 4 * rounds + 1))
            assert len(list(reader.records(reverse=True))) == reader.get_event_count() == 4 * rounds
            for stream_id, each in (("a:1", 2), ("b:1", 1), ("c:1", 1)):
                assert len(reader.read_stream(stream_id)) == each * rounds
                assert len(list(reader.records(stream_id, reverse=True))) == each * rounds
                assert reader.get_stream_version(stream_id) == each * rounds - 1

        filesystem.peek = peek  # type: ignore[method-assign]
        for _ in range(8):
            store.append_many(BATCH)
            rounds += 1
        assert looks > 50


def test_a_damaged_end_of_a_stream_is_an_error_at_every_try(tmp_path: Path) -> None:
    """The second must not go by what was known before."""
    with (
        FileEventStore(tmp_path / "s", durability="relaxed") as one,
        FileEventStore(tmp_path / "s", durability="relaxed") as two,
    ):
        one.append("a:1", [Added(0), Added(1), Added(2)], ANY)
        two.append("a:1", [Added(3), Added(4)], 2)
        stream = tmp_path / "s/streams/a/1.jsonl"
        stream.write_bytes(stream.read_bytes().replace(b'"number":4', b'"number":5'))
        for _ in range(3):
            with pytest.raises(CorruptionError, match="checksum"):
                one.append("a:1", [Added(9)], 2)
        assert one.get_event_count() == 5


def test_an_interrupt_after_the_commit_leaves_nothing_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch counts, though its caller was not told; the next append sees it."""
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        store.append("a:1", [Added(0)], ANY)
        with monkeypatch.context() as patch:
            patch.setattr(OpenStreams, "keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                store.append_many([("b:1", [Added(1)], -1), ("a:1", [Added(1)], 0)])
        assert store.append_many([("a:1", [Added(2)], 1), ("b:1", [Added(2)], 0)]) == {"a:1": 2, "b:1": 1}
        assert list(verify(store)) == []


@pytest.mark.parametrize("call", ["link", "replace"])
def test_a_process_that_dies_between_the_two_names_of_a_roll_is_finished_by_the_next(tmp_path: Path, call: str) -> None:
    """`cat` of the segments shows no event twice; appends, rolls and compaction go on."""
    program = """
import os, sys
from hangarlog import ANY, FileEventStore, UntypedEvent
real = getattr(os, sys.argv[2])
store = FileEventStore(sys.argv[1], durability="relaxed", segment_bytes=900)
def dying(source, target, **options):
    if sys.argv[2] == "link" and sys.argv[3] in source:
        real(source, target, **options)
        os._exit(9)
    if sys.argv[2] == "replace" and sys.argv[3] in target and source.endswith("jsonl.new"):
        os._exit(9)
    return real(source, target, **options)
setattr(os, sys.argv[2], dying)
while True:
    store.append("a:1", [UntypedEvent("Added", {"number": 1})], ANY)
"""
    for log in ("journal.jsonl", "1.jsonl"):
        path = tmp_path / log
        done = subprocess.run(
            [sys.executable, "-c", program, str(path), call, log],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert done.returncode == 9
        with FileEventStore(path, durability="relaxed") as store:
            store.append("other:1", [Added(0)], ANY)
            count = store.get_stream_version("a:1") + 1
            text = b"".join(p.read_bytes() for p in (path / "streams/a").glob("*.jsonl"))
            assert text.count(b"\n") == count
            store.save_snapshot("a:1", count - 2, {})
            store.compact_stream("a:1")
            for number in range(10):
                store.append("a:1", [Added(number)], ANY)
            assert list(verify(store)) == []
        assert not list(path.rglob("*.new"))  # Closed: a checkpoint may have been under way.


def test_a_batch_may_span_more_streams_than_files_may_be_open(tmp_path: Path) -> None:
    """With a limit of 64 files."""
    pytest.importorskip("resource")
    program = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.maintenance.verify import verify
with FileEventStore(sys.argv[1], durability="relaxed", segment_bytes=400) as store:
    event = UntypedEvent("Added", {"number": 1})
    for _ in range(4):
        store.append_many([(f"s:{number}", [event], ANY) for number in range(500)])
    for number in range(500):
        store.append(f"s:{number}", [event], 3)
    assert store.get_event_count() == 2500
    assert list(verify(store)) == []
"""
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "s")], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )


def test_a_store_opened_by_a_relative_path_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with FileEventStore("s", durability="relaxed") as store:
        store.append("a:1", [Added(0)], ANY)
        monkeypatch.chdir("/")
        store.append("b:1", [Added(1)], ANY)
        assert store.list_streams() == ["a:1", "b:1"]
        assert store.read_stream("a:1") == [Added(0)]


def test_a_read_that_is_refused_does_not_speak_of_writing(tmp_path: Path) -> None:
    class Refusing(FileSystem):
        refuse = False

        def read(self, fd: int, size: int, offset: int) -> bytes:
            if self.refuse:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(fd, size, offset)

    filesystem = Refusing()
    with FileEventStore(tmp_path / "s", durability="relaxed", filesystem=filesystem) as store:
        store.append("a:1", [Added(1)], ANY)
        filesystem.refuse = True
        with pytest.raises(StorageError, match="while reading the store") as caught:
            store.read_stream("a:1")
        assert caught.value.reading
        assert "written" not in str(caught.value)
        filesystem.refuse = False


def test_an_idempotent_append_that_cannot_read_the_state_is_refused_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it fails before the lock is taken, while the table of ids is looked after."""
    monkeypatch.setattr(event_ids, "_WORTH", 1)

    class Unreadable(FileSystem):
        refuses = False

        def pread(self, fd: int, size: int, offset: int) -> bytes:
            if self.refuses:
                raise OSError(errno.EIO, "Input/output error")
            return super().pread(fd, size, offset)

    filesystem = Unreadable()
    event = EncodedEvent("Noted", b"{}", event_id="one")
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed", filesystem=filesystem) as store:
        store.append("a:1", [EncodedEvent("Noted", b"{}")], ANY)
        filesystem.refuses = True
        with pytest.raises(StorageError):
            store.append("a:1", [event], ANY, idempotent=True)
        filesystem.refuses = False
        assert store.append("a:1", [event], ANY, idempotent=True).written


@pytest.mark.skipif(not BYTE_LOCKS, reason="turns need locks on bytes, which only Linux has")
@pytest.mark.parametrize("name", ["hold_byte", "leave_byte"])
def test_a_turn_that_the_system_refuses_fails_no_decision(tmp_path: Path, name: str) -> None:
    """A turn is a courtesy: without it, or if it cannot be given back, the append is what it is."""

    class Refusing(FileSystem):
        pass

    def refuse(this: FileSystem, fd: int, at: int, *, alone: bool = False) -> None:
        if alone or name == "leave_byte":
            raise OSError(errno.EIO, "Input/output error")
        FileSystem.hold_byte(this, fd, at)

    setattr(Refusing, name, refuse)
    with FileEventStore(tmp_path / "s", durability="relaxed", filesystem=Refusing()) as store:

        def decide(events: list[Added], version: int) -> list[Added]:
            if not events:
                store.append("a:1", [Added(0)], ANY)
            return [Added(1)]

        assert store.execute("a:1", decide) == 1
        assert store.execute("a:1", decide) == 2
    with FileEventStore(tmp_path / "s", lock_timeout=0.0) as store:
        assert store.execute("a:1", decide) == 3


@pytest.mark.skipif(not BYTE_LOCKS, reason="turns need locks on bytes, which only Linux has")
def test_a_turn_is_given_back(tmp_path: Path) -> None:
    """Also while the file stays open, as in a forked child."""
    turns = Turns(FileSystem(), str(tmp_path / "turns.lock"), 0.0)
    with turns.taken("a:1"):
        inherited = [os.dup(int(fd)) for fd in os.listdir("/proc/self/fd") if _leads_to(fd, tmp_path / "turns.lock")]
    try:
        assert inherited
        turns.wait("a:1")
    finally:
        for fd in inherited:
            os.close(fd)


def _leads_to(fd: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == str(path)
    except OSError:
        return False
