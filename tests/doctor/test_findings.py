"""Each finding comes of the real condition, and what it advises ends that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT
from examined import (
    Watched,
    ago,
    elsewhere,
    everything,
    examined,
    has,
    made,
    nobody,
    numbered,
    of_kind,
    only,
    reachable,
    treat,
)
from store_files import change, flip

from hangarlog import ANY, FileEventStore, SyncError, UntypedEvent
from hangarlog.doctor import files, followers, running, walk
from hangarlog.doctor.examination import examine
from hangarlog.doctor.finding import KINDS, Finding
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import repair
from hangarlog.system.filesystem import FileSystem


def program(path: Path, code: str) -> list[Finding]:
    """The findings of another process, which runs `code` first."""
    import msgspec

    text = f"import sys, msgspec, os\nfrom hangarlog.doctor.examination import examine\nimport ctypes, zlib\n{code}\n"
    text += f"found = list(examine({str(path)!r}))\nsys.stdout.buffer.write(msgspec.json.encode(found))\n"
    done = subprocess.run(
        [sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    return msgspec.json.decode(done.stdout, type=list[Finding])


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
    path.chmod(0o777)
    finding = only(path, "rights-too-open")
    assert finding.severity == "problem"
    treat(finding)
    assert path.stat().st_mode & 0o777 == 0o755
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


# Followers


def test_followers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind; abandoned, if it has not moved for a day and there were events for it; and back again."""
    path = tmp_path / "s"
    with FileEventStore.untyped(path) as store:
        store.append("a:1", numbered(10, recorded=[ago(200_000)]), ANY)
        store.cursor("mailer").advance(10)
        assert only(path, "followers").facts == {"cursors": 1, "behind": 0}
        store.append("a:1", numbered(5, recorded=[ago(200_000)]), ANY)
        finding = only(path, "follower-behind")
        assert (finding.severity, finding.facts["lag"], finding.facts["owner"]) == ("note", 5, None)
        assert finding.facts["lag_seconds"] > 199_000
        monkeypatch.setattr("hangarlog.filestore.cursors.now", lambda: ago(100_000).isoformat()[:26].encode() + b"Z")
        store.cursor("mailer").reset(9)
        finding = only(path, "follower-abandoned")
        assert (finding.severity, finding.where, finding.facts["lag"]) == ("warning", "mailer", 6)
        with store.subscribe(name="mailer", timeout=0) as subscription:
            next(subscription)
            finding = only(path, "follower-behind")
            assert finding.facts["owner"] == os.getpid()
    finding = only(path, "follower-abandoned")
    _, _, command = finding.next.partition("no longer used: ")
    treat(Finding(finding.severity, finding.kind, "", "", command.replace("python3", sys.executable)))
    assert only(path, "followers").facts["cursors"] == 0


def test_a_projection_that_is_behind(tmp_path: Path) -> None:
    """By the cursor of its name; the one who runs it is known."""
    from hangarlog.projections import Projection

    path = made(tmp_path / "s")
    with FileEventStore.untyped(path) as store:
        totals = Projection("totals", lambda state, record: {"count": record.position})
        totals.run(store, timeout=0)
        store.append("a:1", numbered(3), ANY)
        finding = only(path, "follower-behind")
        assert finding.what.startswith("projection 'totals' has 3 events to process")


def test_parked_events(tmp_path: Path) -> None:
    path = made(tmp_path / "s")

    def fail(record: object) -> None:
        raise ValueError("no")

    with FileEventStore.untyped(path) as store:
        with store.subscribe(name="mailer", timeout=0) as subscription:
            subscription.run(fail, on_failure="park")
        finding = only(path, "events-parked")
        assert (finding.severity, finding.facts) == ("warning", {"name": "mailer", "count": 10})
        assert '"cause":"ValueError: no"' in treat(finding)
        store.replay("mailer", lambda record: None)
        assert not has(path, "events-parked")


def test_more_followers_than_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "_MOST_FOLLOWERS", 2)
    path = made(tmp_path / "s")
    with FileEventStore.untyped(path) as store:
        for name in ("a", "b", "c"):
            store.cursor(name).advance(10)
    assert only(path, "skipped").facts["folders"] == [str(path / "cursors.jsonl")]


# Segments and other files


def test_segments_of_unusual_size(tmp_path: Path) -> None:
    path = made(tmp_path / "s", 30, segment_bytes=1000)
    assert not has(path, "segment-odd-size")
    assert only(path, "segments").facts["streams"] == 3
    sealed = sorted(path.glob("journal.0*.jsonl"))[1]
    sealed.write_bytes(b"".join(sealed.read_bytes().splitlines(keepends=True)[:1]))
    finding = only(path, "segment-odd-size")
    assert (finding.severity, finding.where, finding.facts["count"]) == ("note", str(sealed), 1)


def test_a_huge_active_segment(tmp_path: Path) -> None:
    """The next append seals it."""
    path = tmp_path / "s"
    with FileEventStore.untyped(path, segment_bytes=1000) as store:
        store.append("a:1", numbered(50), ANY)
        assert only(path, "segment-huge").severity == "note"
        store.append("a:1", numbered(1), ANY)
    assert not has(path, "segment-huge")


def test_sealed_segments_without_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice makes a store that has them."""
    path = tmp_path / "s"
    with FileEventStore.untyped(path, segment_bytes=70_000, durability="relaxed") as store:
        for _ in range(3):
            store.append("a:1", numbered(300, 100), ANY)
    assert not has(path, "segment-without-index")
    next(path.glob("journal.0*.index")).unlink()
    finding = only(path, "segment-without-index")
    assert finding.severity == "note"
    monkeypatch.chdir(tmp_path)
    text = finding.next.replace("hangarlog ", f"{sys.executable} -m hangarlog ")
    treat(Finding("note", "", "", "", text.replace("-m hangarlog", "-m  hangarlog")))
    assert not has(tmp_path / "COPY", "segment-without-index")


def test_many_small_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MANY_STREAMS", 20)
    path = tmp_path / "s"
    with FileEventStore.untyped(path, durability="relaxed") as store:
        store.append_many([(f"a:{number}", numbered(1), ANY) for number in range(21)])
        assert only(path, "streams-many-small").severity == "note"
        store.append("a:1", numbered(100, 1000), ANY)
        assert not has(path, "streams-many-small")


def test_what_was_put_aside(tmp_path: Path) -> None:
    path = made(tmp_path / "s")
    with FileEventStore.untyped(path) as store:
        store.folder.put_aside([b'{"position":1}'])
    finding = only(path, "put-aside")
    assert finding.severity == "warning"
    assert '{"position":1}' in treat(finding)
    assert not has(path, "put-aside")


def test_files_that_wait_to_replace_others(tmp_path: Path) -> None:
    path = made(tmp_path / "s")
    (path / "journal.jsonl.new").touch()
    assert not has(path, "unfinished")  # A writer may be at it.
    os.utime(path / "journal.jsonl.new", (ago(7200).timestamp(),) * 2)
    finding = only(path, "unfinished")
    assert finding.severity == "note"
    treat(finding)
    (path / "streams/a/0.jsonl.rebuilt").touch()
    finding = only(path, "unfinished")
    assert finding.severity == "warning"
    treat(finding)
    assert not has(path, "unfinished")


def test_a_backup_that_was_cut_short(tmp_path: Path) -> None:
    path = made(tmp_path / "s")

    def interrupt(*progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(path, tmp_path / "copy", interrupt)
    findings = list(examine(tmp_path / "copy", filesystem=Watched()))
    finding = of_kind(findings, "backup-unfinished")
    assert finding.severity == "warning"
    treat(Finding("note", "", "", "", finding.next.replace("SOURCE", str(path))))
    assert not has(tmp_path / "copy", "backup-unfinished")


def test_foreign_files_and_caches_without_a_segment(tmp_path: Path) -> None:
    """With any name; the advice moves them away, or deletes them."""
    path = made(tmp_path / "s")
    assert not has(path, "foreign-files")
    names = ["notes.txt", "-rf", "a'b\n\x1b[2J", ".hidden", "streams/a/x.tmp", "journal.jsonl.gz2"]
    for name in names:
        (path / name).write_text("x")
    finding = only(path, "foreign-files")
    assert (finding.severity, finding.facts["count"]) == ("note", 6)
    treat(finding)
    treat(only(path, "foreign-files"))
    assert not has(path, "foreign-files")
    assert len(list((tmp_path / "s-foreign").iterdir())) == 6
    (path / "journal.00000000000000000001.index").touch()
    (path / "streams/a/7.times").touch()
    finding = only(path, "cache-without-segment")
    assert (finding.severity, finding.facts["count"]) == ("note", 2)
    treat(finding)
    assert not has(path, "cache-without-segment")


def test_more_files_than_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what it has skipped; with --thorough it looks at all."""
    monkeypatch.setattr(walk, "_MOST_ENTRIES", 10)
    path = tmp_path / "s"
    with FileEventStore.untyped(path, durability="relaxed") as store:
        store.append_many([(f"a:{number}", numbered(1), ANY) for number in range(30)])
    for number in range(30):
        (path / f"streams/a/{number}.jsonl").chmod(0o644)
    assert only(path, "skipped").facts["folders"] == [str(path / "streams")]
    assert only(path, "rights-too-open").facts["count"] < 11
    assert only(path, "rights-too-open", thorough=True).facts["count"] == 30
    assert not has(path, "skipped", thorough=True)


# Time


def test_clocks(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FileEventStore.untyped(path) as store:
        store.append("a:1", numbered(10), ANY)
        assert only(path, "clock").severity == "ok"
        store.append("a:1", numbered(1, recorded=[ago(3600)]), ANY)
        finding = only(path, "clock-back")
        assert (finding.severity, finding.facts["position"]) == ("note", 11)
        assert treat(finding).count("\n") == 2
        store.append("a:1", numbered(1, recorded=[ago(-3600)]), ANY)
        finding = only(path, "clock-ahead")
        assert (finding.severity, finding.facts["seconds"] > 3500) == ("warning", True)


def test_files_of_the_future(tmp_path: Path) -> None:
    """As a clock leaves them that is set back."""
    path = made(tmp_path / "s")
    os.utime(path / "streams/a/1.jsonl", (ago(-3600).timestamp(),) * 2)
    finding = only(path, "clock-ahead")
    assert (finding.severity, finding.where) == ("warning", str(path / "streams/a/1.jsonl"))


def test_checksums(tmp_path: Path) -> None:
    path = made(tmp_path / "s")
    pytest.importorskip("isal")
    assert only(path, "checksums").severity == "ok"
    assert of_kind(program(path, "sys.modules['isal'] = None"), "checksums-slow").severity == "note"


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
