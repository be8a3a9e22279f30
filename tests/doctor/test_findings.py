"""Each finding comes of the real condition, and what it advises ends that."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from examined import (
    Watched,
    elsewhere,
    everything,
    examined,
    has,
    made,
    nobody,
    numbered,
    of_kind,
    only,
    program,
    reachable,
    treat,
)
from store_files import change, flip

from hangarlog import ANY, FileEventStore, SyncError, UntypedEvent
from hangarlog.doctor import running
from hangarlog.doctor.examination import examine
from hangarlog.doctor.finding import KINDS, Finding
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import repair
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.open_folder import Entry

# No store, damage, rights


def test_what_is_no_store(tmp_path: Path) -> None:
    """A folder that is missing or empty, a file."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name in ("missing", "empty", "file"):
        finding = of_kind(list(examine(tmp_path / name, filesystem=Watched())), "no-store")
        assert finding.severity == "problem"
        treat(finding)
    assert not has(made(tmp_path / "s"), "no-store")


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"format":99}', b"[" * 5000, b'{"format":1,"store_id":"' + b"x" * 70_000]
)
def test_a_damaged_hangarlog_json(tmp_path: Path, content: bytes) -> None:
    path = made(tmp_path / "s")
    (path / "hangarlog.json").write_bytes(content)
    finding = only(path, "damaged")
    assert (finding.severity, finding.where) == ("problem", str(path / "hangarlog.json"))
    if b"99" not in content:
        treat(finding)
        assert not has(path, "damaged")


@pytest.mark.parametrize("name", ["journal.jsonl", "cursors.jsonl", "state", "catalog", "checkpoint.json", "ring"])
def test_a_folder_or_a_fifo_in_the_place_of_a_file(tmp_path: Path, name: str) -> None:
    """It ends no examination."""
    for make in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        path = made(tmp_path / "s")
        (path / name).unlink(missing_ok=True)
        make(path / name)
        kinds = {finding.kind for finding in examined(path)}
        assert "segments" in kinds or "damaged" in kinds
        shutil.rmtree(path)


def test_a_damaged_line_at_the_journals_end(tmp_path: Path) -> None:
    """The doctor leaves the others to `verify`, which it names."""
    with FileEventStore.untyped(tmp_path / "s") as store:
        store.append("a:1", [UntypedEvent("Added", {"number": n, "text": "xxx"}) for n in range(5)], ANY)
    change(tmp_path / "s/journal.jsonl", 4, flip)
    finding = only(tmp_path / "s", "damaged")
    assert (finding.severity, finding.where) == ("problem", str(tmp_path / "s/journal.jsonl"))
    assert "verify --read-only" in finding.next
    list(repair(tmp_path / "s"))
    assert not has(tmp_path / "s", "damaged")
    kept = only(tmp_path / "s", "damaged-kept")
    assert kept.severity == "note"
    treat(kept)
    assert not has(tmp_path / "s", "damaged-kept")


def test_what_another_user_may_not_read(tmp_path: Path) -> None:
    """All of it, or a part."""
    with reachable() as folder:
        path = made(folder / "s")
        shared = made(folder / "shared", mode=0o644)
        (folder / "shared").chmod(0o755)
        with FileEventStore.untyped(shared) as store:
            store.cursor("mailer").advance(1)
        (shared / "cursors.jsonl").chmod(0o600)
        with nobody():
            findings = list(examine(path, filesystem=Watched()))
            partly = list(examine(shared, filesystem=Watched()))
        assert of_kind(findings, "unreadable").severity == "problem"
        assert of_kind(partly, "unreadable").severity == "warning"
        assert of_kind(partly, "unreadable").where == str(shared / "cursors.jsonl")
        assert of_kind(partly, "segments").facts["streams"] == 3
        assert not [finding for finding in findings + partly if finding.kind == "check-failed"]


def test_rights_that_are_too_open(tmp_path: Path) -> None:
    """What is advised takes away exactly these."""
    path = made(tmp_path / "s")
    assert only(path, "rights").severity == "ok"
    for mode, severity in ((0o644, "warning"), (0o640, "warning"), (0o666, "problem"), (0o602, "problem")):
        (path / "journal.jsonl").chmod(mode)
        finding = only(path, "rights-too-open")
        assert (finding.severity, finding.where) == (severity, str(path / "journal.jsonl"))
        treat(finding)
        assert (path / "journal.jsonl").stat().st_mode & 0o777 == 0o600
        assert only(path, "rights").severity == "ok"
    (path / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").touch(0o666)
    path.chmod(0o777)
    finding = only(path, "rights-too-open")
    assert finding.severity == "problem"
    treat(finding)
    assert path.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "outside").stat().st_mode & 0o777 == 0o644
    assert not has(path, "rights-too-open")


@pytest.mark.parametrize("mode", [0o640, 0o660, 0o644])
def test_rights_that_a_store_was_made_with_are_fine(tmp_path: Path, mode: int) -> None:
    path = made(tmp_path / "s", mode=mode)
    path.chmod(0o755)
    with FileEventStore.untyped(path) as store:
        store.append("b:1", [UntypedEvent("Added", {})], ANY)
        store.cursor("mailer").advance(1)
    assert only(path, "rights").severity == "ok"
    (path / "streams/a/0.jsonl").chmod(0o666)
    finding = only(path, "rights-too-open")
    treat(finding)
    assert (path / "streams/a/0.jsonl").stat().st_mode & 0o777 == mode
    assert only(path, "rights").severity == "ok"


def test_rights_that_keep_the_owner_out(tmp_path: Path) -> None:
    path = made(tmp_path / "s")
    (path / "streams/a/1.jsonl").chmod(0o400)
    finding = only(path, "rights-keep-owner-out")
    assert (finding.severity, finding.where) == ("warning", str(path / "streams/a/1.jsonl"))
    treat(finding)
    assert not has(path, "rights-keep-owner-out")
    if os.geteuid() == 0:
        os.chown(path / "catalog", 12345, 12345)
        finding = only(path, "rights-keep-owner-out")
        assert finding.where == str(path / "catalog")
        treat(finding)
        assert not has(path, "rights-keep-owner-out")


def test_live_files_with_a_second_name(tmp_path: Path) -> None:
    """Sealed ones may have one."""
    path = made(tmp_path / "s", 20, segment_bytes=1000)
    os.link(next(path.glob("journal.0*.jsonl")), tmp_path / "other")
    assert not has(path, "linked-files")
    os.link(path / "journal.jsonl", tmp_path / "another")
    finding = only(path, "linked-files")
    assert finding.severity == "warning"
    treat(finding)
    assert not has(path, "linked-files")


def test_a_roll_while_files_are_listed_gives_no_file_a_second_name(tmp_path: Path) -> None:
    path = made(tmp_path / "s", 20)
    sealed = path / "journal.00000000000000000001.jsonl"
    os.link(path / "journal.jsonl", sealed)

    class Early(Watched):
        """The first list of names is from before the roll; each file is looked at within it."""

        late = sealed.name

        def entries(self, path: str) -> Iterator[Entry]:
            late = self.late = "" if path.endswith("streams") else self.late
            return (entry for entry in super().entries(path) if entry.name != late)

    assert "linked-files" not in {finding.kind for finding in examine(path, filesystem=Early())}


# Processes


OPENED = "store = FileEventStore.untyped(sys.argv[1]); store.append('b:1', [UntypedEvent('Added', {})], ANY)\n"


def test_who_has_it_open(tmp_path: Path) -> None:
    path = made(tmp_path / "s")
    assert only(path, "open-in").facts == {}
    with elsewhere(OPENED, path) as process:
        finding = only(path, "open-in")
        assert (finding.severity, finding.where, finding.facts["pid"]) == ("ok", f"process {process.pid}", process.pid)
        assert "FileEventStore" in finding.facts["command"]
        assert only(path, "checkpoint").what.startswith("processes have it open")


def test_who_has_it_open_unseen(tmp_path: Path) -> None:
    """As in a container, or of another user."""
    with reachable() as folder:
        path = made(folder / "s", mode=0o644)
        path.chmod(0o755)
        with elsewhere(OPENED, path), nobody():
            finding = of_kind(list(examine(path, filesystem=Watched())), "open-in")
        assert (finding.severity, finding.where) == ("note", str(path))


def test_a_process_with_files_that_were_replaced(tmp_path: Path) -> None:
    """By a restore over a store that is open."""
    path = made(tmp_path / "s")
    shutil.copytree(path, tmp_path / "backup")
    with elsewhere(OPENED, path) as process:
        assert not has(path, "open-on-deleted")
        shutil.rmtree(path)
        shutil.copytree(tmp_path / "backup", path)
        finding = only(path, "open-on-deleted")
        assert (finding.severity, finding.where) == ("warning", f"process {process.pid}")
        assert str(process.pid) in treat(finding)


def test_limits_on_open_files(tmp_path: Path) -> None:
    """Of a process that has it open, and here."""
    path = made(tmp_path / "s")
    many = (
        "from resource import *; setrlimit(RLIMIT_NOFILE, (100, 100)); files = [open('/dev/null') for _ in range(75)]\n"
    )
    with elsewhere(OPENED + many, path) as process:
        here, there = [finding for finding in examined(path) if finding.kind == "open-files"][::-1]
        assert (there.severity, there.where, there.facts["allowed"]) == ("warning", f"process {process.pid}", 100)
        assert here.severity == "ok"
    low = "from resource import *; setrlimit(RLIMIT_NOFILE, (100, getrlimit(RLIMIT_NOFILE)[1]))"
    assert of_kind(program(path, low), "open-files").severity == "note"


def test_a_check_that_fails_is_a_finding(tmp_path: Path) -> None:
    """As where no file can be opened any more; the others are made."""
    path = made(tmp_path / "s")
    none = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\nlook = list(examine('/'))\n"
    none += "try:\n    while True: files = os.dup(0)\nexcept OSError: pass\n"
    findings = program(path, none)
    failed = [finding for finding in findings if finding.kind == "check-failed"]
    assert failed
    assert {finding.severity for finding in failed} == {"warning"}
    assert "Too many open files" in failed[0].what


def test_a_store_that_is_held(tmp_path: Path) -> None:
    path = made(tmp_path / "s")
    with FileEventStore.untyped(path, exclusive=True):
        finding = only(path, "held-exclusively")
        assert (finding.severity, finding.facts["pid"]) == ("note", os.getpid())
    assert not has(path, "held-exclusively")


def test_a_writer_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_WAITED_SECONDS", 0.0)
    path = made(tmp_path / "s")
    with FileEventStore.untyped(path) as holder, FileEventStore.untyped(path) as writer:
        assert not has(path, "waiting")
        with holder.changing_files():
            thread = threading.Thread(target=writer.append, args=("b:1", [UntypedEvent("Added", {})], ANY))
            thread.start()
            found: list[Finding] = []
            while not found:
                found = [finding for finding in examine(path, filesystem=Watched()) if finding.kind == "waiting"]
        thread.join()
    assert (found[0].severity, found[0].facts["pid"]) == ("warning", os.getpid())
    assert found[0].next == f"ps -fp {os.getpid()}"


def test_lock_files_that_were_deleted(tmp_path: Path) -> None:
    """The advice is that of the store: an append of a process that has it open makes them anew."""
    path = made(tmp_path / "s")
    with FileEventStore.untyped(path) as store:
        store.append("b:1", [UntypedEvent("Added", {})], ANY)
        assert not has(path, "locks-gone")
        (path / "locks/write.lock").unlink()
        assert only(path, "locks-gone").severity == "warning"
        store.append("b:1", [UntypedEvent("Added", {})], ANY)
        assert not has(path, "locks-gone")


# Syncs and recovery


def test_what_is_not_on_the_device_yet(tmp_path: Path) -> None:
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        store.append("a:1", numbered(5), ANY)
        finding = only(tmp_path / "s", "durability")
        assert (finding.severity, finding.facts["committed"] - finding.facts["durable"]) == ("note", 5)
    with FileEventStore.untyped(tmp_path / "s") as store:
        store.append("a:1", numbered(5), ANY)
        assert only(tmp_path / "s", "durability").severity == "ok"


class Refusing(FileSystem):
    """A device that refuses one sync."""

    refuses = False

    def sync_data(self, fd: int) -> None:
        if self.refuses:
            self.refuses = False
            raise OSError(5, "Input/output error")
        super().sync_data(fd)


def test_a_sync_that_failed(tmp_path: Path) -> None:
    """A problem until the journal was written anew; a warning until the machine restarts."""
    filesystem = Refusing()
    with FileEventStore.untyped(tmp_path / "s", filesystem=filesystem) as store:
        store.append("a:1", numbered(1), ANY)
        assert not has(tmp_path / "s", "sync-failed")
        filesystem.refuses = True
        with pytest.raises(SyncError):
            store.append("a:1", numbered(1), ANY)
        assert only(tmp_path / "s", "sync-failed").severity == "problem"
        store.append("a:1", numbered(1), ANY)
        finding = only(tmp_path / "s", "sync-failed")
        assert (finding.severity, finding.facts["count"]) == ("warning", 1)
    assert only(tmp_path / "s", "sync-failed").severity == "warning"


def test_what_the_next_opening_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a writer was killed; the advice makes a checkpoint."""
    path = tmp_path / "s"
    code = "store = FileEventStore.untyped(sys.argv[1], durability='relaxed')\nfor n in range(20):\n"
    code += "    store.append('a:1', [UntypedEvent('Added', {'text': 'x' * 100_000})], ANY)\n"
    code += "print('ready', flush=True); os._exit(0)\n"
    with elsewhere(code, path):
        pass
    finding = only(path, "checkpoint")
    assert (finding.severity, finding.facts["bytes"] > 1 << 20) == ("note", True)
    monkeypatch.setattr(running, "_VERY_MUCH_BYTES", 1 << 20)
    assert only(path, "checkpoint").severity == "warning"
    treat(finding)
    assert only(path, "checkpoint").severity == "ok"
    (path / "checkpoint.json").write_bytes(b"{}")
    assert "no checkpoint that fits" in only(path, "checkpoint").what


def test_a_writer_that_died(tmp_path: Path) -> None:
    """Within a compaction, which leaves a mark in the shared state."""
    path = made(tmp_path / "s")
    with FileEventStore.untyped(path) as store:
        store.append("b:1", numbered(1), ANY)
        assert not has(path, "writer-died")
        with elsewhere(OPENED + "store._state.begin(os.getpid())\nprint('ready', flush=True); os._exit(0)\n", path):
            pass
        assert only(path, "writer-died").severity == "note"
        store.append("b:1", numbered(1), ANY)
        assert not has(path, "writer-died")


def test_a_torn_end(tmp_path: Path) -> None:
    path = made(tmp_path / "s")
    with (path / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"position":11,"str')
    assert only(path, "torn-end").severity == "note"
    made(path, 1)
    assert not has(path, "torn-end")


def test_a_copy(tmp_path: Path) -> None:
    """Beside its original, it has the same id; two that go on by themselves are two histories."""
    path = made(tmp_path / "s")
    assert not has(path, "copied")
    shutil.copytree(path, tmp_path / "copy")
    assert only(tmp_path / "copy", "copied").severity == "note"
    made(tmp_path / "copy", 1)
    assert not has(tmp_path / "copy", "copied")
    assert only(path, "store-id-shared").severity == "note"
    made(path, 1)
    finding = only(path, "store-id-shared")
    assert (finding.severity, finding.where, finding.facts["position"]) == ("warning", str(tmp_path / "copy"), 11)
    subprocess.run(["rm", "-r", tmp_path / "copy"], check=True)
    backup(path, tmp_path / "copy")
    assert only(path, "store-id-shared").severity == "note"


def test_every_kind_is_tried() -> None:
    """With each of its severities."""
    texts = [file.read_text() for file in sorted(Path(__file__).parent.glob("test_*.py"))]
    for kind, (severities, _, _) in KINDS.items():
        assert any(f'"{kind}"' in text for text in texts), kind
        for severity in severities:
            assert any(f'"{severity}"' in text for text in texts if f'"{kind}"' in text), (kind, severity)


def test_an_examination_while_processes_write(tmp_path: Path) -> None:
    """Nothing is above a note, but for what the machine has; and it holds up nobody."""
    path = tmp_path / "s"
    code = "import threading\nstore = FileEventStore.untyped(sys.argv[1], durability='relaxed', segment_bytes=5000)\n"
    code += "def write():\n    while True: store.append('a:1', [UntypedEvent('Added', {'text': 'x' * 100})], ANY)\n"
    code += "threading.Thread(target=write, daemon=True).start()\n"
    with elsewhere(code, path):
        for _ in range(5):
            findings = list(examine(path, filesystem=Watched()))
            kinds = {finding.kind for finding in findings if finding.severity not in ("ok", "note")}
            assert kinds <= {"file-system-in-memory", "space", "inodes", "quota", "disk-full-soon"}, findings
    assert everything(path)
