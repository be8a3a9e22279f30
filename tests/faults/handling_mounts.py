"""What test_handling.py needs file systems for: its jobs, run as root in a mount namespace of their own."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from campaigns.disks import Disk, call
from campaigns.full_or_dead_disks import Broken, cell
from campaigns.jobs import main
from campaigns.power import BYTES, powered, shut_down

from hangarlog import ANY, EventSerializer, FileEventStore, UntypedEvent
from hangarlog.maintenance.verify import verify


def opened(path: Path, **options: Any) -> FileEventStore:
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), **options)


def event(number: int | str) -> UntypedEvent:
    return UntypedEvent("Tried", {"number": number}, event_id=f"id-{number}")


def copied_to_a_fresh_disk(folder: Path, kind: str) -> dict[str, Any]:
    """A copy has the state's inode number, and a state that is newer than its journal: it must not be believed."""
    disks = []
    for name in "ab":
        (folder / name).mkdir()
        disks.append(Disk(kind, folder / name, BYTES.get(kind, 64 << 20)))
        disks[-1].make()
        disks[-1].mount()
    original, copied = (disk.folder / "store" for disk in disks)
    with opened(original) as store:
        for number in range(40):
            store.append("a:1", [event(number)], number - 1)
        early = [(name, os.path.getsize(original / name)) for name in ("journal.jsonl", "streams/a/1.jsonl")]
        for number in range(40, 50):
            store.append("a:1", [event(number)], number - 1)
    copied.mkdir(mode=0o700)
    same = _copy_to_the_same_inode(original / "state", copied / "state")
    call("cp", "-a", f"{original}/.", str(copied))
    for name, size in early:
        os.truncate(copied / name, size)  # As where they were copied first, the ring and the state later.
    with opened(copied) as store:
        held = [record.event_id for record in store.records()]
        assert held == [f"id-{number}" for number in range(50)], f"the copy's ring has all 50, it holds {len(held)}"
        assert store.append("a:1", [event("new")], ANY) == 50
        assert list(verify(store)) == []
    for disk in disks:
        disk.umount()
    return {"same inode": same}


def _copy_to_the_same_inode(source: Path, target: Path) -> bool:
    """Make files until one has the number that the other file system has given; says whether one came."""
    wanted = source.stat().st_ino
    for number in range(1000):
        path = target.with_name(f"file-{number}")
        path.touch(mode=0o600)
        if path.stat().st_ino == wanted:
            path.rename(target)
            break
    for path in target.parent.glob("file-*"):
        path.unlink()
    return target.exists()


def streams_on_another_volume(folder: Path, kind: str) -> dict[str, Any]:
    """A category lies on a volume of its own. Both lose their power after a checkpoint."""
    for name in ("whole", "part"):
        (folder / name).mkdir()
    whole, part = (powered(kind, folder / name) for name in ("whole", "part"))
    whole.make()
    part.make()
    whole.mount()
    path = whole.folder / "store"
    with opened(path, segment_bytes=4000) as store:
        store.append("b:0", [event("first")], ANY)
    part.folder = path / "streams/b"
    shutil.copytree(part.folder, folder / "moved")
    part.mount()
    shutil.copytree(folder / "moved", part.folder, dirs_exist_ok=True)
    call("sync")
    with opened(path) as store:
        for number in range(60):
            store.append("b:1" if number < 10 else "c:0", [event(number)], ANY)
    shut_down(part.folder)
    shut_down(whole.folder)
    part.umount()
    whole.return_power()
    part.mount()
    (path / "state").unlink(missing_ok=True)  # The machine restarts.
    with opened(path) as store:
        assert store.get_event_count() == 61, "the journal has lost events"
        found = [len(store.read_stream(stream_id)) for stream_id in ("b:0", "b:1", "c:0")]
        assert found == [1, 10, 50], f"the streams have {found} events, not 1, 10 and 50"
        assert store.append("b:1", [event("new")], ANY) == 10
        assert list(verify(store)) == []
    part.umount()
    whole.umount()
    return {}


def one_cell(folder: Path, kind: str, how: str, op: str, *, nocow: bool = False) -> dict[str, Any]:
    """One cell of row 18; with `nocow` the shared state is a file that btrfs writes in place."""
    broken = Broken(kind, folder, "")
    if nocow:
        path = Path(broken.store())
        with opened(path) as store:
            store.append("a:1", [event("first")], ANY)
        state = (path / "state").read_bytes()
        (path / "state").unlink()
        (path / "state").touch(mode=0o600)
        call("chattr", "+C", str(path / "state"))
        (path / "state").write_bytes(state)
    counted: Counter[str] = Counter()
    cell(broken, how, op, counted, there={"id-first"} if nocow else set())
    broken.disk.umount()
    return dict(counted)


CELLS = {
    "xfs-shut-down": ("xfs", "shut down", "relaxed append"),
    "ext4-shut-down": ("ext4", "shut down", "relaxed append"),
    "xfs-reflinked-then-full": ("xfs", "full after a reflinked copy", "durable append"),
    "btrfs-full": ("btrfs", "full", "relaxed append"),
    "btrfs-full-opened-anew": ("btrfs", "full", "open anew"),
    "ext4-full": ("ext4", "full", "durable append"),
}

JOBS = {
    "copied-ext4": lambda folder, size, seed: copied_to_a_fresh_disk(folder, "ext4"),
    "copied-tmpfs": lambda folder, size, seed: copied_to_a_fresh_disk(folder, "tmpfs"),
    "copied-btrfs": lambda folder, size, seed: copied_to_a_fresh_disk(folder, "btrfs"),
    "streams-on-another-volume": lambda folder, size, seed: streams_on_another_volume(folder, "ext4"),
    "btrfs-full-nocow": lambda folder, size, seed: one_cell(folder, "btrfs", "full", "relaxed append", nocow=True),
    **{name: lambda folder, size, seed, each=each: one_cell(folder, *each) for name, each in CELLS.items()},
}

if __name__ == "__main__":
    main(JOBS)
