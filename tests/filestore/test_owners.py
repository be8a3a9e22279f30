"""Who may use a store's files: what root makes there is its owner's, and a mode reaches all that is made later."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Added, tool

from hangarlog import ANY, CorruptionError, FileEventStore, HangarlogError, StoreFormatError, StoreOpenError
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem

pytestmark = pytest.mark.skipif(not hasattr(os, "fchown"), reason="this system has no owners")

OWNER, OTHER, GROUP = 65534, 65533, 65532
As = Callable[..., str]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can get to and write to."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def as_user(folder: Path) -> As:
    """Run Python as another user, and get what it prints; with `fails` the last line of its error."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    setpriv = tool("setpriv")

    def run(
        user: int, program: str, *arguments: object, group: int = GROUP, groups: int = 0, fails: bool = False
    ) -> str:
        start = """
import os, sys
from hangarlog import ANY, EventSerializer, FileEventStore, UntypedEvent
event = UntypedEvent("Added", {"number": 1})
def opened(path, **options):
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), **options)
"""
        done = subprocess.run(
            [
                setpriv,
                f"--groups={groups or group}",
                f"--reuid={user}",
                f"--regid={group}",
                sys.executable,
                "-c",
                start + program,
                *map(str, arguments),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if fails:
            assert done.returncode, done.stdout
            return done.stderr.splitlines()[-1]
        assert done.stderr == ""
        return done.stdout

    try:
        run(OWNER, "")
    except AssertionError as error:
        pytest.skip(f"another user cannot run Python here: {error}")
    return run


CREATE = 'with opened("s", segment_bytes=400) as store: store.append("a:1", [event], ANY)'
APPEND = """
with opened("s") as store:
    for stream_id in sys.argv[1:]:
        print(store.append(stream_id, [event] * 3, ANY))
"""


def owners(path: Path) -> set[tuple[int, int]]:
    """Of everything in a folder, and of itself."""
    found = [os.lstat(each) for each in (path, *path.rglob("*"))]
    return {(each.st_uid, each.st_gid) for each in found}


def modes(path: Path) -> dict[str, int]:
    return {str(each.relative_to(path)): stat.S_IMODE(each.lstat().st_mode) for each in path.rglob("*")}


# What root makes


def test_root_locks_nobody_out_of_a_service_s_store(folder: Path, as_user: As) -> None:
    """Whatever it does there: without the caches, in new categories, over rolls, compactions, checkpoints, repairs."""
    as_user(OWNER, CREATE)
    path = folder / "s"

    def root(*arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "hangarlog", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "HANGARLOG_STORE": str(path)},
            check=True,
            capture_output=True,
        )

    for cache in ("state", "ring", "checkpoint.json"):
        (path / cache).unlink(missing_ok=True)
    shutil.rmtree(path / "locks")
    root("stats")
    assert owners(path) == {(OWNER, GROUP)}
    for _ in range(4):
        root("append", "z:1", "--type", "Added")
        root("append", "plain", "--type", "Added")
    with FileEventStore(path) as store:
        for number in range(8):
            store.append("a:1", [Added(number)], ANY)
        store.save_snapshot("a:1", 3, {"n": 1})
        store.compact_stream("a:1")
    assert (path / "snapshots/a/1.json").exists()
    stream = path / "streams/z/1.jsonl"
    content = stream.read_bytes()
    stream.write_bytes(content.replace(b"Added", b"Addle"))
    root("repair")
    assert list(path.rglob("*.damaged"))
    with FileEventStore(path) as store:
        store.folder.put_aside([b"{}"])
    assert (path / "put-aside.jsonl").exists()
    assert owners(path) == {(OWNER, GROUP)}
    assert as_user(OWNER, APPEND, "a:1", "z:1", "plain", "y:1").count("\n") == 4
    with FileEventStore(path) as store:
        assert list(verify(store)) == []


@pytest.mark.parametrize("missing", ["", "state", "locks", "catalog"])
@pytest.mark.parametrize("torn", [False, True])
def test_a_reading_command_of_root_s_changes_nothing_in_a_service_s_store(
    folder: Path, as_user: As, missing: str, torn: bool
) -> None:
    """Whether its caches are there or not, and whether there is something to recover; it takes no lock either."""
    as_user(OWNER, CREATE)
    as_user(OWNER, APPEND, "b:1")
    path = folder / "s"
    if missing:
        shutil.rmtree(path / missing) if missing == "locks" else (path / missing).unlink()
    if torn:
        with (path / "journal.jsonl").open("ab") as file:
            file.write(b'{"position":5,"st')
    before = everything(path)
    for command in ("stats", "streams", "read", "tail", "verify", "verify --read-only", "schema show", "export"):
        done = subprocess.run(
            [sys.executable, "-m", "hangarlog", *command.split(), str(path), *["-"] * (command == "export")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{command}: {done.stdout} {done.stderr}"
        if command == "stats":
            assert json.loads(done.stdout)["events"] == 4
        assert everything(path) == before, command
    assert as_user(OWNER, APPEND, "b:1") == "5\n"


def test_a_backup_of_root_s_changes_nothing_in_a_service_s_store(folder: Path, as_user: As) -> None:
    as_user(OWNER, CREATE)
    as_user(OWNER, APPEND, "b:1", "a:1")
    before = everything(folder / "s")
    backup(folder / "s", folder / "backup")
    assert everything(folder / "s") == before
    with FileEventStore(folder / "backup") as copy:
        assert copy.get_event_count() == 7
    assert owners(folder / "backup") == {(os.geteuid(), os.getegid())}


@pytest.mark.parametrize("name", ["streams/a/1.jsonl", "journal.jsonl", "journal.00000000000000000009.jsonl", "ring"])
def test_what_is_root_s_in_a_service_s_store_is_given_to_nobody(folder: Path, as_user: As, name: str) -> None:
    """Who owns the folder has moved root's private file there: a repair would hand its copies over."""
    as_user(OWNER, CREATE)
    path, secret = folder / "s", folder / "secret"
    secret.write_text('{"position":9}\nsecret\n')
    secret.chmod(0o600)
    secret.replace(path / name)
    with contextlib.suppress(HangarlogError, OSError):
        list(repair(path))
    for each in path.rglob("*"):
        if each.is_file() and b"secret" in each.read_bytes():
            assert each.stat().st_uid == 0, each


def test_a_folder_that_was_put_in_the_place_of_a_new_one_is_not_given_away(
    folder: Path, as_user: As, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the making of `snapshots` and the change of its owner."""
    as_user(OWNER, CREATE)
    roots, made = folder / "s/roots", os.mkdir
    roots.mkdir()
    (roots / "file").touch()

    def exchanged(name: str, *args: Any, **options: Any) -> None:
        made(name, *args, **options)
        if name == "snapshots":
            (folder / "s/snapshots").rmdir()
            roots.rename(folder / "s/snapshots")

    with FileEventStore(folder / "s", durability="relaxed") as store:
        monkeypatch.setattr(os, "mkdir", exchanged)
        with pytest.raises(HangarlogError, match="not empty"):
            store.save_snapshot("a:1", 0, {})
    assert owners(folder / "s/snapshots") == {(os.geteuid(), os.getegid())}


def everything(path: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Kind and mode, owner, time of the last change and content of all that is in a folder, and of itself."""
    found = {}
    for each in (path, *path.rglob("*")):
        its = each.lstat()
        found[str(each)] = (its.st_mode, its.st_uid, its.st_ctime_ns, each.read_bytes() if each.is_file() else b"")
    return found


def test_no_store_is_made_in_a_folder_of_somebody_else_s(folder: Path, as_user: As) -> None:
    """Its owner could change all that is in it later. Who owns the folder makes the store."""
    (folder / "s").mkdir()
    (folder / "s").chmod(0o777)
    os.chown(folder / "s", OWNER, GROUP)
    with pytest.raises(StoreOpenError, match="belongs to another user"):
        FileEventStore(folder / "s")
    assert "belongs to another user" in as_user(OTHER, CREATE, fails=True)
    assert list((folder / "s").iterdir()) == []
    as_user(OWNER, CREATE)
    assert as_user(OWNER, APPEND, "a:1") == "3\n"


def test_a_new_store_belongs_to_its_maker(folder: Path, as_user: As) -> None:
    """Also in a folder of somebody else's."""
    os.chown(folder, OWNER, GROUP)
    with FileEventStore(folder / "s") as store:
        store.append("a:1", [Added(1)], ANY)
    assert owners(folder / "s") == {(os.geteuid(), os.getegid())}


def test_nothing_is_written_where_a_folder_of_the_store_leads_elsewhere(
    folder: Path, as_user: As, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who owns the store puts a link to a folder of root's in the place of a category, just after it was looked at."""
    as_user(OWNER, CREATE)
    roots = folder / "roots"
    roots.mkdir()
    link = folder / "s/streams/cron"
    with FileEventStore(folder / "s", durability="relaxed") as store:
        link.symlink_to(roots)
        monkeypatch.setattr(FileSystem, "is_link", lambda self, path: False)
        with pytest.raises(CorruptionError, match=r"cron/1\.jsonl.*Not a directory"):
            store.append("cron:1", [Added(1)], ANY)
        assert store.append("a:1", [Added(1)], ANY) == 1
    assert list(roots.iterdir()) == []


# Modes


@pytest.mark.usefixtures("ring_at_once")
@pytest.mark.parametrize(
    ("mode", "folders", "locks"), [(0o640, 0o750, 0o600), (0o660, 0o770, 0o660), (0o644, 0o755, 0o600)]
)
def test_a_mode_reaches_every_file_that_is_made_later(tmp_path: Path, mode: int, folders: int, locks: int) -> None:
    """By whatever store, whatever the umask: rolls, indexes, categories, snapshots, caches."""
    path = tmp_path / "s"
    umask = os.umask(0o077)
    try:
        FileEventStore(path, mode=mode, segment_bytes=70_000).close()
        with FileEventStore(path) as store:
            for number in range(4):
                store.append_many([("a:1", [Added(number, "x" * 40_000)], ANY), (f"c{number}:1", [Added(number)], ANY)])
            store.save_snapshot("a:1", 2, {"n": 1})
            store.compact_stream("a:1")
        (path / "state").unlink()
        FileEventStore(path).close()
    finally:
        os.umask(umask)
    found = modes(path)
    assert {"state", "ring", "snapshots/a/1.json", "checkpoint.json", "streams/a/1.jsonl"} <= found.keys()
    assert any(name.endswith(".index") for name in found)
    assert any(name.startswith("journal.0") for name in found)
    for name, its in found.items():
        in_locks = name.startswith("locks")
        if (path / name).is_dir():
            assert its == (folders if not in_locks else 0o770 if locks == 0o660 else 0o700), name
        else:
            assert its == (locks if in_locks else mode), name
    assert stat.S_IMODE(path.stat().st_mode) == folders
    assert json.loads((path / "hangarlog.json").read_text())["mode"] == f"{mode:04o}"


def test_without_a_mode_files_are_private_and_nothing_is_written_about_it(tmp_path: Path) -> None:
    """Also in a folder that is not."""
    path = tmp_path / "s"
    path.mkdir(0o755)
    umask = os.umask(0)
    try:
        with FileEventStore(path, mode=0o600) as store:
            store.append("a:1", [Added(1)], ANY)
        with FileEventStore(path, mode=0o640) as store:
            store.append("b:1", [Added(1)], ANY)  # It was fixed when the store was made.
    finally:
        os.umask(umask)
    assert set(modes(path).values()) == {0o600, 0o700}
    assert "mode" not in json.loads((path / "hangarlog.json").read_text())


@pytest.mark.parametrize(
    "mode", [0o602, 0o662, 0o666, 0o400, 0o440, 0o060, 0, 0o750, 0o700, 0o620, 0o4640, -1, 1 << 20]
)
def test_a_mode_that_lets_everybody_write_or_shuts_the_owner_out_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ValueError, match="mode must be 0o600, plus read or write for the group, or read for others"):
        FileEventStore(tmp_path / "s", mode=mode)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("mode", ["0640", True, 416.0])
def test_a_mode_is_a_number(tmp_path: Path, mode: object) -> None:
    with pytest.raises(ValueError, match="mode must be"):
        FileEventStore(tmp_path / "s", mode=mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["0666", "640", "", "rw", "0o640"])
def test_a_damaged_mode_is_refused(tmp_path: Path, mode: str) -> None:
    FileEventStore(tmp_path / "s").close()
    meta = tmp_path / "s/hangarlog.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "mode": mode}))
    with pytest.raises(StoreFormatError, match="mode is"):
        FileEventStore(tmp_path / "s")


def test_who_may_only_read_reads_on_over_rolls_and_in_new_categories(folder: Path, as_user: As) -> None:
    as_user(OWNER, CREATE.replace("opened(", "opened(mode=0o640, path="))
    as_user(OWNER, APPEND, "a:1", "a:1", "new:1")
    assert list((folder / "s/streams/a").glob("1.0*"))
    read = 'store = opened("s"); print(len(store.read_stream("a:1")), store.list_streams(), store.get_event_count())'
    assert as_user(OTHER, read) == "7 ['a:1', 'new:1'] 10\n"
    refused = as_user(OTHER, APPEND, "a:1", fails=True)
    assert refused.startswith("hangarlog.errors.StoreOpenError")
    assert "no permission to write" in refused
    assert as_user(OTHER, 'print(opened("s").stats().events)') == "10\n"
    refused = as_user(OTHER, 'opened("s").execute("a:1", lambda events, version: [])', fails=True)
    assert refused.startswith("hangarlog.errors.StoreOpenError")
    assert as_user(OTHER, 'opened("s")', group=OTHER, fails=True).startswith("hangarlog.errors.StoreOpenError")
    assert as_user(OWNER, APPEND, "a:1") == "9\n"


def test_two_users_of_a_group_share_a_store_that_the_group_may_write(folder: Path, as_user: As) -> None:
    """Whatever group they have first: files get the store's."""
    as_user(OWNER, CREATE.replace("opened(", "opened(mode=0o660, path="))
    for number in range(3):
        for user in (OTHER, OWNER):
            done = as_user(user, APPEND, "a:1", f"{user}:{number}", group=user, groups=GROUP)
            assert done.count("\n") == 2
    assert {group for _, group in owners(folder / "s")} == {GROUP}
    with FileEventStore(folder / "s") as store:
        assert store.get_event_count() == 37
        assert list(verify(store)) == []


def test_one_file_system_may_serve_stores_of_different_modes(tmp_path: Path) -> None:
    filesystem = FileSystem()
    with (
        FileEventStore(tmp_path / "a", mode=0o640, filesystem=filesystem) as shared,
        FileEventStore(tmp_path / "b", filesystem=filesystem) as private,
    ):
        for store in (private, shared):
            store.append("a:1", [Added(1)], ANY)
    assert set(modes(tmp_path / "b").values()) == {0o600, 0o700}
    assert modes(tmp_path / "a")["streams/a/1.jsonl"] == 0o640


def test_a_store_of_one_s_own_costs_no_look_at_owners(tmp_path: Path) -> None:
    filesystem = FileSystem()
    with FileEventStore(tmp_path / "s", filesystem=filesystem):
        assert filesystem._rights == {}
