"""What the pages say about a store that is in use: the loop without gaps, the shared words, the locks."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from by_the_page import record
from conftest import ROOT, tool
from test_format_pages import FORMAT, blocks

from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.system.platform import BYTE_LOCKS

linux = pytest.mark.skipif(not BYTE_LOCKS, reason="the page describes the locks of 64-bit Linux")

WRITER = """
import sys
from hangarlog import *
with FileEventStore.untyped(sys.argv[1], durability="relaxed", segment_bytes=3000) as store:
    print("open", flush=True)
    number = 0
    while number < int(sys.argv[2]):
        store.append(f"a:{number % 2}", [UntypedEvent("Added", {"number": number})], ANY)
        number += 1
    print("done", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has the store open, and appends many events at once."""
    arguments = [sys.executable, "-c", WRITER, str(tmp_path / "s"), "1500"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        assert process.stdout.readline() == b"open\n"
        yield process
        assert process.stdin
        process.stdin.close()


def positions(text: bytes) -> list[int]:
    """The positions of the whole lines of a text."""
    return [json.loads(line)["position"] for line in text.split(b"\n")[:-1]]


def test_the_pages_loop_has_no_gaps(tmp_path: Path, writer: subprocess.Popen[bytes]) -> None:
    (loop,) = [program for program in blocks(FORMAT, "sh") if "exec 3<" in program]
    rounds = grown = 0
    while not grown or rounds < 20:
        done = subprocess.run(
            [tool("bash"), "-c", f"log={tmp_path}/s/journal\n{loop}"], capture_output=True, check=True, timeout=60
        )
        found = positions(done.stdout)
        assert found == [*range(1, len(found) + 1)]
        rounds, grown = rounds + 1, grown + (len(found) >= 1500)


@linux
def test_a_store_in_use_is_told_by_its_locks_and_words(tmp_path: Path, writer: subprocess.Popen[bytes]) -> None:
    """As the page says: the session's byte in the folder and in both lock files, then the words."""
    assert writer.stdout
    assert writer.stdout.readline() == b"done\n"
    path = tmp_path / "s"
    words = struct.unpack("=512Q", (path / "state").read_bytes())
    assert words[0] == 0x3545544154534C48
    home = (path / "hangarlog.json").stat()
    number = ((path / "state").stat().st_ino * 0x9E3779B97F4A7C15 & (1 << 64) - 1) ^ home.st_ino ^ home.st_ctime_ns
    assert words[2] == number & (1 << 64) - 1
    assert {held(place) for place in (path, path / "locks/write.lock", path / "locks/sync.lock")} == {words[1]}
    listed = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    inode = f":{path.stat().st_ino}"
    found = [line[-2:] for line in listed if "OFDLCK" in line and any(word.endswith(inode) for word in line)]
    assert found in ([], [[str(words[1])] * 2])  # A container may not show it.
    committed, first, size = words[3:6]
    check = words[0] ^ committed * 0x3C6EF35F ^ first * 0x2545F491 ^ size * 0x27D4EB2F * 16
    assert words[6] == check & (1 << 64) - 1
    assert (committed, size) == (1500, (path / "journal.jsonl").stat().st_size)
    with (path / "journal.jsonl").open("rb") as journal:
        assert record(journal.readline()[:-1])["position"] == first  # type: ignore[index]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    assert words[17] == int(boot[:15] or "0", 16)
    assert words[8] == words[10] == words[11] == words[16] == words[30] == words[31] == 0
    assert not any(words[132:])


def held(path: Path) -> int:
    """The highest byte from 1 on that another process has locked."""
    fd, found, at = os.open(path, os.O_RDONLY), 0, 1
    try:
        while True:
            asked = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, at, 0, 0))
            kind, _, start, _, _ = struct.unpack("hhqqi4x", asked)
            if kind == fcntl.F_UNLCK:
                return found
            found, at = start, start + 1
    finally:
        os.close(fd)


@linux
def test_the_lock_files_are_those_of_the_page(tmp_path: Path) -> None:
    """Nobody who looks takes part; who appends does, until it closes the store; a writer waits for flock."""
    page = (ROOT / "docs/format-binary.md").read_text().partition("## Locks")[2]
    named = {*re.findall(r"`([a-z-]+\.lock)`", page)}
    with FileEventStore.untyped(tmp_path / "s", durability="always") as store:
        assert held(tmp_path / "s") > 0
        store.append("a:1", [UntypedEvent("Added", {})], ANY)
        with open(tmp_path / "s/locks/write.lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            probe = "import sys; from hangarlog import *; store = FileEventStore.untyped(sys.argv[1], lock_timeout=0.2)"
            probe += "; store.append('a:1', [UntypedEvent('Added', {})], ANY)"
            done = subprocess.run(
                [sys.executable, "-c", probe, str(tmp_path / "s")],
                capture_output=True,
                check=False,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            assert b"LockTimeoutError" in done.stderr
    assert held(tmp_path / "s") == 0
    assert {path.name for path in (tmp_path / "s/locks").iterdir()} <= named
