"""Ordinary handling loses nothing: a disk that comes back, a backup put back, a copy, a clock, a full disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from campaigns.disks import no_loop_mounts, no_mounts
from campaigns.jobs import run_in_a_process
from campaigns.proofs import check_streams, evidence, stored, write_in_place
from conftest import ROOT, Command, tool

from hangarlog import ANY, CorruptionError, CorruptionWarning, EventSerializer, FileEventStore, UntypedEvent
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem

pytestmark = pytest.mark.usefixtures("ring_at_once")


def opened(path: Path, **options: Any) -> FileEventStore:
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), **options)


def event(number: int | str, size: int = 0) -> UntypedEvent:
    return UntypedEvent("Tried", {"number": number, "text": "x" * size}, event_id=f"id-{number}")


def append_each(store: FileEventStore, numbers: Iterable[int | str]) -> None:
    for number in numbers:
        store.append("a:1", [event(number)], ANY)


class Device(FileSystem):
    """Knows what is on the device for certain: contents as of each file's last sync; the shared state at every sync."""

    def __init__(self, store: Path) -> None:
        self.has: dict[str, bytes] = {}
        self.states: list[bytes] = []
        self._state = store / "state"

    def sync_data(self, fd: int) -> None:
        super().sync_data(fd)
        path = os.readlink(f"/proc/self/fd/{fd}").removesuffix(".new")
        self.has[os.path.basename(path)] = os.pread(fd, os.fstat(fd).st_size, 0)
        if self._state.exists():
            self.states.append(self._state.read_bytes())

    def in_background(self, work: Callable[[], None], name: str) -> None:
        work()  # So that nothing of it is left to chance.


def appended(path: Path, count: int, name: str) -> tuple[Device, list[str]]:
    """So many durable appends; what the device has then, and the ids."""
    device = Device(path)
    ids = [f"{name}-{number}" for number in range(count)]
    with opened(path, filesystem=device) as store:
        for each in ids:
            store.append("a:1", [UntypedEvent("Tried", {}, event_id=each)], ANY)
    return device, ids


def come_back(path: Path, device: Device, *, stream: bytes, state: bytes | None) -> None:
    """The file system went down and came back: it has what was synced, in the files that are there."""
    write_in_place(path / "journal.jsonl", device.has["journal.jsonl"])
    write_in_place(path / "ring", device.has["ring"])
    write_in_place(path / "streams/a/1.jsonl", stream)
    if state is None:
        (path / "state").unlink()
    else:
        write_in_place(path / "state", state)


def holds(path: Path, ids: list[str]) -> None:
    """All of these and nothing else, in journal and stream; nothing is damaged; the next version is the next one."""
    with opened(path) as store:
        assert [record.event_id for record in store.records()] == ids
        assert [record.event_id for record in store.records("a:1")] == ids
        assert list(verify(store)) == []


@pytest.mark.parametrize("stream", ["kept", "lost"])
@pytest.mark.parametrize("state", [0, 0.3, 0.7, 1.0, None])
def test_a_disk_that_went_down_and_came_back_within_one_boot_has_lost_nothing(
    tmp_path: Path, stream: str, state: float | None
) -> None:
    """Whatever moment's shared state it has: the ring and the journal prove what was acknowledged."""
    path = tmp_path / "s"
    device, ids = appended(path, 300, "id")
    text = (path / "streams/a/1.jsonl").read_bytes() if stream == "kept" else b""
    came_back_with = None if state is None else device.states[round(state * (len(device.states) - 1))]
    come_back(path, device, stream=text, state=came_back_with)
    holds(path, ids)
    with opened(path) as store:
        assert store.append("a:1", [event("new")], ANY) == 300
    (path / "state").unlink()
    holds(path, [*ids, "id-new"])


@pytest.mark.parametrize(("first", "later"), [(300, 20), (200, 20), (300, 60)])
def test_the_ring_goes_on_after_a_disk_came_back_so_that_a_restart_loses_nothing(
    tmp_path: Path, first: int, later: int
) -> None:
    """Its generations do not run backwards: later frames are not taken for older ones."""
    path = tmp_path / "s"
    device, ids = appended(path, first, "id")
    come_back(path, device, stream=b"", state=device.states[-1])
    again, more = appended(path, later, "later")
    again.has = device.has | again.has
    come_back(path, again, stream=b"", state=None)
    holds(path, [*ids, *more])


BACK = {
    "cp": "cp -r backup/. store/",
    "tar": "tar cf - -C backup . | tar xf - -C store",
    "rsync --inplace": "rsync -a --inplace backup/ store/",
    "cp of the journal": "cp backup/journal.jsonl store/journal.jsonl",
    "cp of the state": "cp backup/state store/state",
    "cp of the ring": "cp backup/ring store/ring",
    "cp of a stream": "cp backup/streams/a/1.jsonl store/streams/a/1.jsonl",
}


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")  # An older stream is mended at once, or when used.
@pytest.mark.parametrize("way", BACK)
@pytest.mark.parametrize("segment_bytes", [64 << 20, 3000])
def test_a_backup_put_back_in_place_loses_nothing_that_the_files_prove(
    tmp_path: Path, way: str, segment_bytes: int
) -> None:
    """Whole or in part; what came later is left lying, as these tools do."""
    tool(BACK[way].split()[0])
    path = tmp_path / "store"
    with opened(path, segment_bytes=segment_bytes) as store:
        for number in range(25):
            store.append("a:1", [event(number)], ANY)
        store.append("b:1", [event("b")], ANY)
    shutil.copytree(path, tmp_path / "backup")
    with opened(path) as store:
        for number in range(25, 50):
            store.append("a:1", [event(number)], ANY)
    subprocess.run(["bash", "-c", BACK[way]], cwd=tmp_path, check=True)
    proofs = evidence(path)
    if proofs.gap:
        with pytest.raises(CorruptionError, match="position"):
            opened(path).get_event_count()
        list(repair(path))
    with opened(path) as store:
        held = stored(store.records())
        assert len(held) >= proofs.through()
        check_streams(store, held, {})
        assert store.append("a:1", [event("new")], ANY) == len(held) - 1
        assert list(verify(store)) == []
    (path / "state").unlink()
    with opened(path) as store:
        assert stored(store.records())[:-1] == held
        assert list(verify(store)) == []


@pytest.mark.parametrize("which", [0, 1], ids=["of the same version", "of a later version"])
def test_a_sealed_segment_left_over_from_later_is_kept_aside_before_it_is_read(tmp_path: Path, which: int) -> None:
    """As after files of one older moment, the shared state among them, were put back: no recovery has a reason to look.

    Here it comes while the store is open.
    """
    with opened(tmp_path / "later", segment_bytes=3000) as store:
        append_each(store, range(60))
    later = sorted((tmp_path / "later/streams/a").glob("1.*.jsonl"))[which]
    left = tmp_path / "store/streams/a" / later.name
    with opened(tmp_path / "store", segment_bytes=3000) as store:
        store.append("a:1", [event("base")], ANY)
        shutil.copy(later, left)
        with pytest.warns(CorruptionWarning, match="left over"):
            append_each(store, [f"new-{number}" for number in range(60)])
        check_streams(store, stored(store.records()), {})
        assert len(store.read_stream("a:1")) == 61
        assert list(verify(store)) == []
    assert left.with_name(f"{left.name}.damaged").read_bytes() == later.read_bytes()


@pytest.mark.filterwarnings("ignore:.*no whole history leads to:hangarlog.CorruptionWarning")
def test_a_clock_that_was_fast_at_a_checkpoint_brings_back_nothing_that_the_journal_has_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams that were written to since are known otherwise than by their time."""
    path = tmp_path / "s"
    device = Device(path)
    with monkeypatch.context() as patch, opened(path, filesystem=device, segment_bytes=2000) as store:
        real = time.time
        patch.setattr(time, "time", lambda: real() + 3600)
        while (count := store.get_event_count()) < 30 or (path / "journal.jsonl").stat().st_size > 800:
            store.append("a:1", [event(count)], ANY, durability="relaxed")  # Until what follows brings no roll.
    with opened(path, filesystem=device) as store:
        store.append("b:1", [event("base")], ANY, durability="relaxed")
        store.sync()
        synced = (path / "journal.jsonl").read_bytes()
        count = store.get_event_count()
        ring = device.has["ring"]
        store.append("c:1", [event("never 1")], ANY, durability="relaxed")
        store.append("b:1", [event("never 2")], ANY, durability="relaxed")
    assert (path / "journal.jsonl").read_bytes().startswith(synced)
    write_in_place(path / "journal.jsonl", synced)  # The power was cut: only this was on the device.
    write_in_place(path / "ring", ring)
    (path / "state").unlink()
    with opened(path) as store:
        assert store.get_event_count() == count
        for number in ("new 1", "new 2"):
            store.append("a:1", [event(number)], ANY)
        assert store.list_streams() == ["a:1", "b:1"]
        assert store.get_stream_version("c:1") == -1
        assert [record.event_id for record in store.records("b:1")] == ["id-base"]
        assert list(verify(store)) == []


def copy_files(names: list[str], source: Path, target: Path) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # What has gone since it was listed, such as `NAME.new`.
            shutil.copy2(source / name, target / name)


@pytest.mark.parametrize("order", ["streams first", "streams last"])
@pytest.mark.filterwarnings("ignore:.*no whole history leads to:hangarlog.CorruptionWarning")
def test_a_copy_that_spans_a_roll_opens_with_what_was_committed_before_it(
    tmp_path: Path, order: str, hangarlog: Command
) -> None:
    """It was listed before the roll, and the journal copied after it. The command line works on it, too."""
    source, target = tmp_path / "A", tmp_path / "B"
    with opened(source, segment_bytes=4096, durability="relaxed") as store:

        def more(first: int) -> None:
            for number in range(first, first + 30):
                store.append(f"s:{number % 3}", [event(number, 100)], ANY)

        more(0)
        listing = [os.path.relpath(file, source) for file in source.rglob("*") if file.is_file()]
        streams = [name for name in listing if name.startswith("streams")]
        others = [name for name in listing if not name.startswith("streams")]
        if order == "streams first":
            copy_files(streams, source, target)
            more(30)
            copy_files(others, source, target)
        else:
            more(30)
            copy_files([*others, *streams], source, target)
    least = min(30, evidence(target).through())
    assert least == 30 or order == "streams last"
    with opened(target) as store:
        held = stored(store.records())
        assert len(held) >= least
        check_streams(store, held, {})
        assert store.recovered
        assert store.recovered.put_aside > 0 or len(held) == 60
    for command in ("stats B", "repair B", "verify B", "read B", "export B out.jsonl"):
        done = hangarlog(*command.split())
        assert done.returncode == 0, (command, done.stderr)
    done = hangarlog("append", "B", "s:1", "--type", "T", stdin=b"{}")
    assert done.returncode == 0, done.stderr
    with opened(target) as store:
        assert stored(store.records())[:-1] == held


def test_a_copy_of_hard_links_is_read_and_repaired_and_the_original_stays_as_it_was(tmp_path: Path) -> None:
    """Nothing is written to a file that has another name."""
    with opened(tmp_path / "A", segment_bytes=3000) as store:
        for number in range(40):
            store.append(f"s:{number % 3}", [event(number, 50)], ANY)
    subprocess.run([tool("cp"), "-al", "A", "B"], cwd=tmp_path, check=True)
    original = {file: file.read_bytes() for file in (tmp_path / "A").rglob("*.jsonl")}
    with opened(tmp_path / "B") as store:
        held = stored(store.records())
        assert len(held) == 40
        assert len(store.read_stream("s:0")) == store.get_stream_version("s:0") + 1 == 14
        assert list(verify(store)) == []
        for _ in range(2):
            with pytest.raises(CorruptionError, match=r"another name.*hangarlog repair"):
                store.append("s:0", [event("refused")], ANY)
            assert stored(store.records()) == held
        list(repair(tmp_path / "B"))
        assert stored(store.records()) == held
        assert store.append("s:1", [event("after")], ANY) == 13
        assert store.get_event_count() == 41
        held = stored(store.records())
    with opened(tmp_path / "B") as store:
        assert stored(store.records()) == held
        assert store.append("s:0", [event("new")], ANY) == 14
        assert list(verify(store)) == []
    assert {file: file.read_bytes() for file in (tmp_path / "A").rglob("*.jsonl")} == original


VICTIM = """
import os, sys
from hangarlog import ANY, CorruptionError, EventSerializer, FileEventStore, HangarlogError, UntypedEvent
store = FileEventStore(sys.argv[1], serializer=EventSerializer(unknown="untyped"), durability="relaxed")
store.append("a:1", [UntypedEvent("Tried", {}, event_id="id-first")], ANY)
os.truncate(sys.argv[1] + "/state", int(sys.argv[2]))
for work in (lambda: store.read_stream("a:1"), lambda: store.append("a:1", [UntypedEvent("Tried", {})], ANY)):
    try:
        work()
    except HangarlogError as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize("size", [0, 100])
def test_a_shared_state_that_is_cut_while_the_store_is_open_kills_nobody(tmp_path: Path, size: int) -> None:
    """Somebody copies a backup over it. It is a cache, and no reason to die by SIGBUS."""
    path = str(tmp_path / "s")
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, path, str(size)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
    with opened(tmp_path / "s") as store:
        assert next(iter(store.records())).event_id == "id-first"
        assert list(verify(store)) == []


def on_file_systems(job: str, folder: Path, *kinds: str) -> dict[str, Any]:
    """Run a job of handling_mounts.py; skips, or fails where CI says that nothing may be missing."""
    reason = no_mounts() or next((reason for kind in kinds if (reason := no_loop_mounts(kind))), None)
    if reason:
        if os.environ.get("HANGARLOG_REQUIRE_TOOLS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return run_in_a_process(f"handling_mounts:{job}", folder, 0, 0, mounts=True)


@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "btrfs"])
def test_a_copy_on_a_fresh_disk_is_not_believed_for_its_inode_number(tmp_path: Path, kind: str) -> None:
    kinds = () if kind == "tmpfs" else (kind,)
    assert on_file_systems(f"copied-{kind}", tmp_path, *kinds)["same inode"], "blind: the inodes differ"


def test_a_checkpoint_covers_every_volume_below_the_store(tmp_path: Path) -> None:
    on_file_systems("streams-on-another-volume", tmp_path, "ext4")


@pytest.mark.parametrize(
    "job",
    [
        "xfs-shut-down",
        "ext4-shut-down",
        "xfs-reflinked-then-full",
        "btrfs-full",
        "btrfs-full-opened-anew",
        "btrfs-full-nocow",
        "ext4-full",
    ],
)
def test_a_full_or_dead_disk_gives_an_error_and_no_signal(tmp_path: Path, job: str) -> None:
    """The most telling cells of row 18."""
    on_file_systems(job, tmp_path, job.partition("-")[0])
