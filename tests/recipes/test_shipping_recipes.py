"""Copying sealed segments, with the real rsync, rsyslog and syslog-ng as plain processes, and history in git."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import tool
from recipe_page import (
    EVENTS,
    desk,
    events_in,
    fill,
    journal_lines,
    mystore,
    opened,
    output,
    recipe,
    running,
    section,
    shell,
    until,
)

from hangarlog import ANY, UntypedEvent

__all__ = ["desk", "mystore"]


def test_rsync_ships_sealed_segments_once(mystore: Path) -> None:
    """Again and again while the store grows: every sealed event stands once at the other end."""
    tool("rsync")
    (command,) = recipe("Ship sealed segments")
    for last in (EVENTS, EVENTS + 20):
        if last > EVENTS:
            with opened() as store:
                fill(store, EVENTS, last)
        output(command)
        shipped = [line for path in sorted(Path("outgoing").iterdir()) for line in path.read_bytes().split(b"\n")[:-1]]
        assert [line + b"\n" for line in shipped] == journal_lines(sealed=True)


DAEMONS = {
    "rsyslog": ("rsyslogd", "exec {0} -n -f {1}/conf -i {1}/pid"),
    "syslog-ng": ("syslog-ng", "exec {0} -F --no-caps -f {1}/conf -p {1}/pid -c {1}/control -R {1}/persist"),
}


@pytest.mark.parametrize("name", DAEMONS)
def test_a_daemon_ships_every_sealed_event_once(desk: Path, name: str) -> None:
    """With the page's configuration, without root: long lines too, over a restart, and what is sealed meanwhile.

    After it was killed, everything comes, perhaps twice.
    """
    program, command = DAEMONS[name]
    program = tool(program)
    (configuration,) = recipe(name, name)
    folder, shipped = desk / "work", desk / "events.jsonl"
    folder.mkdir()
    for path, mine in (("/srv/", f"{desk}/"), ("/var/spool/rsyslog", str(folder)), ("/var/log/", f"{desk}/")):
        configuration = configuration.replace(path, mine)
    if version := re.match(r"@version: (\S+)", configuration):
        own = re.search(r"Config version: (\S+)", output(f"{program} --version"))
        assert own
        configuration = configuration.replace(version[1], own[1])
    (folder / "conf").write_text(configuration)

    def has_shipped_all() -> bool:
        return shipped.exists() and sorted(shipped.read_bytes().splitlines(True)) == sorted(journal_lines(sealed=True))

    with opened() as store:
        fill(store, 0, 20)
        store.append("long:1", [UntypedEvent("Long", {"text": "x" * 100_000})], ANY)
        fill(store, 20, 40)
        with running(command.format(program, folder)) as daemon:
            until(has_shipped_all)
            fill(store, 40, EVENTS)
            until(has_shipped_all)
            daemon.terminate()
            daemon.wait()
        fill(store, EVENTS, EVENTS + 20)
        with running(command.format(program, folder)) as daemon:
            until(has_shipped_all)
            daemon.terminate()
            daemon.wait()
            assert has_shipped_all()
        fill(store, EVENTS + 20, EVENTS + 40)  # Not while it starts: syslog-ng may miss what is sealed then.
        with running(command.format(program, folder)):
            until(has_shipped_all)
        (folder / "pid").unlink(missing_ok=True)  # It was killed.
        fill(store, EVENTS + 40, EVENTS + 60)
        with running(command.format(program, folder)):
            until(lambda: set(shipped.read_bytes().splitlines(True)) == set(journal_lines(sealed=True)))


def test_git_keeps_the_history_of_a_store(mystore: Path) -> None:
    """A clone, made by a git that changes line ends, is the store as it was then; without the attributes it is not."""
    tool("git")
    begin, commit, look = recipe("Git")
    for name in ("AUTHOR", "COMMITTER"):
        commit = f"export GIT_{name}_NAME=me GIT_{name}_EMAIL=me@example.org\n{commit}"
    output(f"git config --global core.autocrlf true\n{begin}{commit}")
    before = events_in()
    with opened() as store:
        fill(store, EVENTS, EVENTS + 5)
    output(commit)
    output(look)
    assert events_in("look/mystore") == events_in()
    output("git clone -q history then && git -C then checkout -q HEAD~1")
    assert events_in("then/mystore") == before
    assert output("git -C look status --porcelain") == ""
    output("git -C look checkout -q HEAD~1")
    assert shell("hangarlog verify look/mystore").returncode == 1
    assert shell("hangarlog repair look/mystore").returncode == 1  # It says which events are no longer there.
    assert events_in("look/mystore") == before

    output("git clone -q history without && rm -r without/mystore && echo '* !text' > without/.git/info/attributes")
    output("git -C without -c core.autocrlf=true checkout HEAD -- mystore")
    assert b"\r\n" in Path("without/mystore/journal.jsonl").read_bytes()
    assert shell("hangarlog verify --read-only without/mystore").returncode == 1
    assert shell("hangarlog read without/mystore").returncode == 1  # No line of it is whole.
    output("rm -r without/mystore && git -C without -c core.autocrlf=false checkout HEAD -- mystore")
    assert events_in("without/mystore") == events_in()
    assert "core.autocrlf false" in section("Git")
