"""Watching a store, and following it, with the real tail and less and with `hangarlog tail`."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import tool
from recipe_page import SECONDS, desk, fill, journal_lines, next_line, opened, recipe, running, shell, until

from hangarlog import ANY, UntypedEvent

__all__ = ["desk"]
WATCH = "Watch events as they come"


@pytest.mark.parametrize("inotify", [True, False], ids=["inotify", "polling"])
def test_tail_shows_every_event_over_rolls(desk: Path, inotify: bool) -> None:
    """Each event as soon as it is there, over three rolls. Without inotify, as on overlay, with the page's options."""
    tool("tail")
    plain, polling, _ = recipe(WATCH)
    command = plain if inotify else polling.replace("tail ", "tail ---disable-inotify ")
    with opened(segment_bytes=400) as store:
        fill(store, 0, 1)
        with running(command) as tail:
            shown = [next_line(tail)]
            for number in range(1, 9):
                fill(store, number, number + 1)
                shown.append(next_line(tail))
        assert len(store.folder.journal.sealed()) >= 3
    assert shown == journal_lines()


def test_less_shows_every_event_over_rolls(desk: Path) -> None:
    """On a terminal, with the name followed; without, as the page says, it stays on the first segment."""
    tool("less")
    _, _, command = recipe(WATCH)
    with opened(segment_bytes=600) as store:
        store.append("a:1", [UntypedEvent("Added", {"number": 0})], ANY)
        pid, terminal = pty.fork()
        if pid == 0:  # pragma: no cover - another process
            os.execvpe("sh", ["sh", "-ec", command], {**os.environ, "TERM": "dumb", "LESS": "-d"})
        try:
            seen = b""
            for number in range(1, 10):
                while b'{"_version":1,"number":%d}' % (number - 1) not in seen.replace(b"\r\n", b""):
                    assert select.select([terminal], [], [], SECONDS)[0], seen[-500:]
                    seen += os.read(terminal, 65536)
                store.append("a:1", [UntypedEvent("Added", {"number": number})], ANY)
        finally:
            os.killpg(pid, signal.SIGKILL)  # The shell, and what it has started.
            os.waitpid(pid, 0)
            os.close(terminal)
        assert len(store.folder.journal.sealed()) >= 2


@pytest.mark.parametrize("option", ["-f", "-F"])
def test_the_traps_of_tail_are_real(desk: Path, option: str) -> None:
    """`-f` stays on the first segment. `-F` that is held up over two rolls skips the one between.

    tail ends by itself when the process that it is told of has ended, after it has shown all that it will.
    """
    with opened(segment_bytes=600) as store:
        fill(store, 0, 1)
        other = subprocess.Popen([tool("tail"), "-f", "/dev/null"])
        command = f"exec tail -n +1 -s 0.1 --pid={other.pid} {option} mystore/journal.jsonl"
        with running(command) as tail:
            shown = [json.loads(next_line(tail))["position"]]
            os.kill(tail.pid, signal.SIGSTOP)
            fill(store, 1, 12)
            os.kill(tail.pid, signal.SIGCONT)
            while option == "-F" and shown[-1] < 12:
                shown.append(json.loads(next_line(tail))["position"])
            other.kill()
            other.wait()
            assert tail.stdout
            shown += [json.loads(line)["position"] for line in tail.stdout.read().split(b"\n") if line]
        assert len(store.folder.journal.sealed()) >= 3
        assert shown == sorted(set(shown))
        assert len(shown) < 12
        assert (shown[-1] == 12) == (option == "-F")


def test_hangarlog_follows_without_a_gap(desk: Path) -> None:
    """From a position, and again from where the consumer was, also if a roll came between."""
    command, named = recipe("Follow without a gap")
    with opened(segment_bytes=600, durability="always") as store:
        fill(store, 0, 3)
        with running(command) as follower:
            shown = [next_line(follower) for _ in range(3)]
            fill(store, 3, 6)
            shown += [next_line(follower) for _ in range(3)]
        fill(store, 6, 12)
        with running(command.replace("--from 0", f"--from {json.loads(shown[-1])['position']}")) as follower:
            shown += [next_line(follower) for _ in range(6)]
        assert shown == journal_lines()

        with running(named) as follower:
            first = [next_line(follower) for _ in range(4)]
            until(lambda: store.cursor("shipper").position >= 4)
        position = store.cursor("shipper").position
        with running(named) as follower:
            rest = [next_line(follower) for _ in range(12 - position)]
        with running(f"{named.strip().replace('shipper', 'unread')} | tail -f /dev/null"):
            until(lambda: store.cursor("unread").position == 12)  # Nobody has read a line.
        assert first == journal_lines()[:4]
        assert rest == journal_lines()[position:]


def test_a_copy_that_grows_survives_kills_and_torn_lines(desk: Path) -> None:
    """Killed at any moment, cut within a line, within the last newline, and begun anew: the same bytes."""
    tool("jq")
    (script,) = recipe("Keep a copy that grows")
    copy = desk / "copy.jsonl"
    with opened(segment_bytes=600) as store:
        for number, cut in enumerate([0, 1, 30, 10**6]):
            fill(store, 5 * number, 5 * number + 5)
            if copy.exists():
                os.truncate(copy, max(0, copy.stat().st_size - cut))
            with running(script):
                until(lambda: copy.exists() and copy.read_bytes() == b"".join(journal_lines()))


def test_a_copy_that_is_ahead_is_refused(desk: Path) -> None:
    """As after a power cut that has taken events which were not durable."""
    tool("jq")
    (script,) = recipe("Keep a copy that grows")
    with opened() as store:
        fill(store, 0, 3)
    (desk / "copy.jsonl").write_bytes(journal_lines()[-1].replace(b'"position":3', b'"position":7'))
    done = shell(script)
    assert done.returncode == 1
    assert "7" in done.stderr
