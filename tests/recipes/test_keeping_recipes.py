"""Backing up, restoring, moving and sharing a store, and a disk that is full."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaigns.disks import no_mounts
from conftest import tool
from recipe_page import EVENTS, desk, events_in, fill, journal_lines, mystore, opened, output, recipe, section

from hangarlog import ANY, UntypedEvent

__all__ = ["desk", "mystore"]
NIGHT = "Back up every night"
COMPRESS = "Compress old segments"
RETAIN = "Drop old events"
SHARE = "I want one user to read"


def test_a_backup_is_kept_for_each_night(mystore: Path) -> None:
    """Linked before the next one is made, it stays what it was."""
    once, nightly = recipe(NIGHT)
    output(once)
    before = events_in("backup")
    assert before == events_in()
    with opened() as store:
        fill(store, EVENTS, EVENTS + 10)
    output(nightly)
    output(nightly)  # Somebody runs it twice in a day.
    (kept,) = Path().glob("backup-*")
    assert events_in("backup") == events_in()
    assert len(events_in("backup")) == EVENTS + 10
    shutil.copytree(kept, "kept")  # A store of links to another one's files is not written to.
    assert events_in("kept") == before


def test_the_lines_of_cron_and_systemd_run_as_they_would_run_them(mystore: Path) -> None:
    """With an environment as empty as theirs, and no shell for systemd."""
    (cron,) = recipe(NIGHT, "cron")
    service, timer = recipe(NIGHT, "systemd")
    *when, line = cron.strip().split(maxsplit=5)
    assert len(when) == 5
    assert "%" not in line.replace("\\%", "")
    units = configparser.ConfigParser()
    units.optionxform = str  # type: ignore[assignment, method-assign]
    units.read_string(service + timer)
    assert set(units) == {"DEFAULT", "Service", "Timer", "Install"}
    Path("backup").mkdir()
    for command in (["sh", "-c", line], shlex.split(units["Service"]["ExecStart"])):
        paths = {"/usr/local/bin/hangarlog": shutil.which("hangarlog"), "/srv/mystore": "mystore", "/backup": "backup"}
        for path, mine in paths.items():
            command = [word.replace(path, str(mine)) for word in command]
        done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert events_in("backup/mystore") == events_in()
        shutil.rmtree("backup/mystore")
    if shutil.which("systemd-analyze"):
        for name, unit in (("service", service), ("timer", timer)):
            ours = unit.replace("/usr/local/bin/hangarlog", "/bin/true").replace("User=myuser\n", "")
            Path(f"hangarlog-backup.{name}").write_text(ours)
        assert output("systemd-analyze verify ./hangarlog-backup.service ./hangarlog-backup.timer") == ""


def test_compressed_segments_are_read(mystore: Path) -> None:
    """Each command finds in compressed and plain segments together what the store has; the timer's command works."""
    for name in ("zstdcat", "zstdgrep", "duckdb", "jq"):
        tool(name)
    (commands,) = recipe(COMPRESS)
    compress, count, search, query = commands.splitlines()
    before = events_in()
    sealed = journal_lines(sealed=True)
    paid = [line for line in journal_lines() if b'"event_type":"Paid"' in line]
    output(compress)
    assert not [*mystore.glob("journal.0*.jsonl")]
    assert sum(int(line.split()[0]) for line in output(count).splitlines()) == len(sealed)
    assert sorted(output(search).encode().splitlines(keepends=True)) == sorted(paid)
    assert output(query).split() == ["n", str(len(before))]
    assert events_in() == before
    (cron,) = recipe(COMPRESS, "cron")
    service, _ = recipe(COMPRESS, "systemd")
    command = service.rpartition("ExecStart=")[2].strip()
    assert cron.strip().split(maxsplit=5)[5] == f"{command} > /dev/null"
    output(command.replace("/usr/local/bin/", "").replace("/srv/", ""))


def test_old_events_are_dropped(mystore: Path) -> None:
    """The dry run changes nothing; then the newest ones are left. The timer's command works."""
    (commands,) = recipe(RETAIN)
    dry, run = commands.splitlines()
    before = events_in()
    output(dry)
    assert events_in() == before
    output(run)
    left = len(events_in())
    assert 20 <= left < EVENTS
    assert events_in() == before[-left:]
    (cron,) = recipe(RETAIN, "cron")
    service, _ = recipe(RETAIN, "systemd")
    command = service.rpartition("ExecStart=")[2].strip()
    assert cron.strip().split(maxsplit=5)[5] == f"{command} > /dev/null"
    output(command.replace("/usr/local/bin/", "").replace("/srv/", ""))
    assert len(events_in()) == left


def test_a_backup_is_restored(mystore: Path) -> None:
    """And appended to, without a change of the backup."""
    (restore,) = recipe("Restore a backup")
    before = events_in()
    output("hangarlog backup mystore backup && rm -r mystore/streams mystore/journal.jsonl")
    output(restore)
    assert events_in() == before
    with opened() as store:
        fill(store, EVENTS, EVENTS + 1)
    assert events_in("backup") == before


def test_a_store_goes_to_another_machine(mystore: Path) -> None:
    """`ssh` is a stand-in that runs the command in another folder."""
    (move,) = recipe("I need it on another machine")
    Path("other").mkdir()
    Path("bin/ssh").write_text('#!/bin/sh\ncd "$1" && shift && exec sh -c "$*"\n')
    Path("bin/ssh").chmod(0o755)
    output(move)
    assert events_in("other/mystore") == events_in()


READER, GROUP = 65533, 65532


@pytest.fixture
def reachable(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder that every user can get to."""
    if os.geteuid():
        pytest.skip("only root can give files to a group and become another user")
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    monkeypatch.chdir(path)
    yield path
    shutil.rmtree(path)


def as_reader(command: str) -> str:
    user = f"{tool('setpriv')} --reuid={READER} --regid={READER} --groups={GROUP}"
    return output(f"{user} {command}")


@pytest.mark.parametrize("existing", [False, True])
def test_one_user_may_read(reachable: Path, existing: bool) -> None:
    """Also what is made later, in new folders and over rolls; nothing may be changed."""
    tool("jq")
    assert 'FileEventStore("mystore", mode=0o640)' in section(SHARE)
    new, old = recipe(SHARE)
    with opened(**({} if existing else {"mode": 0o640})) as store:
        fill(store, 0, 20)
    output((old if existing else new).replace("readers", str(GROUP)))
    with opened() as store:
        fill(store, 20, 40)
        store.append("new:1", [UntypedEvent("Noted", {})], ANY)
    lines = as_reader("cat mystore/journal.0*.jsonl mystore/journal.jsonl | wc -l; cat mystore/streams/new/1.jsonl")
    assert lines.startswith("41\n{")
    for path in [Path("mystore"), *Path("mystore").rglob("*")]:
        assert path.stat().st_gid == GROUP
        mode = stat.S_IMODE(path.stat().st_mode)
        assert not mode & 0o027
        assert (mode & 0o050 == 0) == ("locks" in path.parts), path


def test_a_full_disk_is_lived_with(desk: Path) -> None:
    """On a real one: what was stored stays, the move to a larger one is a store, and it goes on there."""
    if reason := no_mounts():
        if os.environ.get("HANGARLOG_REQUIRE_TOOLS"):
            pytest.fail(reason)
        pytest.skip(reason)
    look, clear, move = recipe("My disk is full")
    big = '{"text":"' + "x" * 60_000 + '"}'
    script = f"""
        mkdir small && mount -t tmpfs -o size=1600k none small
        mkdir small/bigger && mount -t tmpfs none small/bigger && cd small
        printf '%s' '{big}' > big.json
        while hangarlog append mystore a:1 --type Big --data - < big.json; do :; done > /dev/null 2> ../error
        touch mystore/journal.jsonl.damaged mystore/journal.times mystore/event-ids
        {look} {clear}
        hangarlog verify mystore
        {move}
        hangarlog append mystore a:1 --type Big --data - < big.json > /dev/null
        hangarlog verify mystore; hangarlog read mystore --limit 1
        ls mystore-before
    """
    done = subprocess.run(["unshare", "-m", "sh", "-ec", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "No space left on device; nothing was written" in Path("error").read_text()
    before, after = re.findall(r'^\{"events":(\d+),.*"damaged":0\}$', done.stdout, re.MULTILINE)
    assert int(after) == int(before) + 1 > 1
    assert done.stdout.count("x" * 60_000) == 1
    assert not {"journal.jsonl.damaged", "journal.times", "event-ids"} & set(done.stdout.split())
