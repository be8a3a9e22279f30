"""`hangarlog stats --watch`: true figures, a terminal that is given back, and output that any reader can use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import termios
import unicodedata
from pathlib import Path

import pytest
from conftest import ROOT, Added, Command, tool
from terminals import ENTER, LEAVE, STYLE, Terminal, lines_of, terminal, watching
from watched_stores import snapshot

from hangarlog import ANY, FileEventStore, StoreOpenError, UntypedEvent
from hangarlog.watching.activity import Tally
from hangarlog.watching.watcher import Watcher

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="this system has no pseudo-terminals")

NEVER = 100_000
HOSTILE = "a:\u202e\u200b\u3164\u2028caf\u00e9 \u4e2d\u6587"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        for number in range(60):
            store.append(f"a:{number % 4}", [UntypedEvent("Even" if number % 3 else "Third", {"n": number})], ANY)
        store.append(HOSTILE, [UntypedEvent("\x1b[2J\x9b31m\x07Evil", {})] * 100, ANY)
        store.cursor("mailer").advance(10)
    return tmp_path / "s"


# The figures


def test_rates_are_what_has_happened_between_two_looks(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s", segment_bytes=3000) as store:
        watcher = Watcher(str(tmp_path / "s"), 1.0)
        store.append("a:1", [Added(1)], ANY)
        assert watcher.look().rates is None
        before = sum(file.stat().st_size for file in (tmp_path / "s").glob("journal*.jsonl"))
        for number in range(40):
            store.append(f"b:{number % 2}", [Added(number)], ANY)
        after = sum(file.stat().st_size for file in (tmp_path / "s").glob("journal*.jsonl"))
        look = watcher.look()
        rates = look.rates
        assert rates
        assert rates.events_per_second
        assert rates.events_per_second * rates.seconds == pytest.approx(40)
        assert rates.bytes_per_second
        assert rates.bytes_per_second * rates.seconds == pytest.approx(after - before)
        assert rates.syncs_per_second
        assert rates.syncs_per_second * rates.seconds == pytest.approx(40)
        assert rates.sync_p50
        assert rates.sync_p99
        assert 0 < rates.sync_p50 <= rates.sync_p99
        assert [share.name for share in look.streams] == ["b:0", "b:1", "a:1"]
        assert [(share.name, share.share) for share in look.types] == [("Added", 1.0)]
        assert look.vitals.files
        assert look.vitals.files.streams == 3
        assert watcher.look().rates is not None
        watcher.close()


def test_a_writer_that_comes_later_is_seen(path: Path) -> None:
    watcher = Watcher(str(path), 1.0)
    assert watcher.look().vitals.committed == 160
    assert watcher.look().streams[0].name == HOSTILE
    with FileEventStore.untyped(path, durability="relaxed") as store:
        store.append("late:1", [UntypedEvent("Late", {})] * 5000, ANY)
        look = watcher.look()
        assert (look.vitals.committed, look.streams[0].name, look.problems) == (5160, "late:1", ())
    store = FileEventStore.untyped(path, durability="relaxed")
    store.append("later:1", [UntypedEvent("Late", {})] * 60_000, ANY)
    store.close()
    look = watcher.look()
    assert (look.vitals.committed, look.streams[0].name) == (65160, "later:1")
    watcher.close()


def test_watching_changes_nothing(path: Path) -> None:
    before = snapshot(path)
    watcher = Watcher(str(path), 1.0)
    for _ in range(3):
        watcher.look()
    watcher.close()
    assert snapshot(path) == before


def test_more_events_than_can_be_counted_are_sampled(path: Path) -> None:
    watcher = Watcher(str(path), 0.0)  # No time to count.
    watcher.look()
    with FileEventStore.untyped(path, durability="relaxed") as store:
        for _ in range(5):
            store.append("b:1", [UntypedEvent("Late", {"x": "x" * 100})] * 2000, ANY)
        look = watcher.look()
        assert look.is_sample
        assert look.rates
        assert look.rates.events_per_second
        assert look.rates.events_per_second * look.rates.seconds == pytest.approx(10_000)
    watcher.close()


def test_the_memory_of_names_is_bounded_and_keeps_the_frequent_ones() -> None:
    tally = Tally()
    for start in range(0, 300_000, 1000):
        tally.add([f"rare:{number}" for number in range(start, start + 1000)] + ["often:1"] * 300)
        assert len(tally._scores) <= 8192
    most = tally.most(3)
    assert most[0].name == "often:1"
    assert most[0].share == pytest.approx(300 / 1300, rel=0.05)


def test_an_older_store_in_its_place_begins_anew(tmp_path: Path, path: Path) -> None:
    watcher = Watcher(str(path), 1.0)
    watcher.look()
    path.rename(tmp_path / "gone")
    with pytest.raises(StoreOpenError):
        watcher.look()
    with FileEventStore.untyped(path, durability="relaxed") as store:
        store.append("new:1", [UntypedEvent("New", {})], ANY)
    watcher.look()
    look = watcher.look()
    assert look.vitals.committed == 1
    assert look.problems == ()
    watcher.close()


# In a pipe


def test_in_a_pipe_each_look_is_a_line_of_json(path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "hangarlog", "stats", "--watch", "0.1", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert (process.returncode, errors.strip()) == (130, b"hangarlog: interrupted")
    assert (first["events"], first["events_per_second"], first["open"]) == (160, None, False)
    assert (second["events"], second["events_per_second"], second["streams"]) == (160, 0.0, 5)
    assert second["busy_streams"][0]["stream_id"] == HOSTILE
    assert {kind["event_type"] for kind in second["types"]} == {"Even", "Third", "\x1b[2J\x9b31m\x07Evil"}
    assert [(each["name"], each["lag"]) for each in second["subscribers"]] == [("mailer", 150)]
    assert second["problems"] == []


def test_it_ends_when_its_reader_goes(path: Path) -> None:
    """Also long before the next line is due."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "hangarlog", "stats", path, "--watch", str(NEVER)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


@pytest.mark.parametrize("words", [["--watch", "0"], ["--watch", "nan"], ["--watch", "-1"], ["--watch=x"]])
def test_a_wrong_interval_is_wrong_usage(path: Path, hangarlog: Command, words: list[str]) -> None:
    assert hangarlog("stats", path, *words).returncode == 2


def test_a_store_that_is_not_there_is_an_error(tmp_path: Path, hangarlog: Command) -> None:
    done = hangarlog("stats", "--watch", tmp_path / "missing")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1


# On a terminal


def columns_of(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


SIZES = [(120, 40), (80, 24), (75, 14), (40, 10), (20, 5), (9, 3), (2, 2), (1, 1), (100, 30)]


def test_frames_fit_every_screen_from_its_resize_on(path: Path) -> None:
    """None waits for the next look. Nothing of a hostile name acts on the screen."""
    with terminal(*watching(path, NEVER)) as shown:
        shown.read_until(b"\x1b[J")
        for columns, rows in SIZES:
            before = shown.shown.count(b"\x1b[J")
            shown.resize(columns, rows)  # The kernel tells the program.
            shown.read_until(b"\x1b[J", before + 1)
            lines = lines_of(shown.frames()[-1])
            assert len(lines) <= rows
            for line in lines:
                assert columns_of(line) < columns or not line
                assert not any(unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp", "Cn") for each in line)
            text = "\n".join(lines)
            for word in (
                ("160 events", "appends", "p99", "busy streams", "types", "\\u202e", "\\u001b") if columns >= 75 else ()
            ):
                assert word in text
            assert ("mailer" in text) == (rows >= 24)


def test_a_frame_is_one_write(path: Path) -> None:
    """Seen from outside: half a frame would flicker."""
    strace = tool("strace")
    trace = path.parent / "trace"
    with terminal(strace, "-f", "-e", "trace=write", "-s", "12", "-o", trace, *watching(path, "0.1")) as shown:
        shown.read_until(b"\x1b[J", 4)
        shown.type(b"q")
        shown.end()
    writes = [line for line in trace.read_text().splitlines() if "write(1," in line]
    frames = [line for line in writes if r'write(1, "\33[H' in line]
    assert len(frames) == len(shown.frames()) >= 4
    assert len(writes) == len(frames) + 2, writes  # The beginning and the end.


def is_given_back(shown: Terminal) -> bool:
    """True if the screen was left once more than entered, or as often, and the settings are those of before."""
    last = max(shown.shown.rfind(ENTER), shown.shown.rfind(LEAVE))
    return shown.shown.startswith(LEAVE, last) and termios.tcgetattr(shown.slave) == shown.settings


ENDING = ["SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1"]


@pytest.mark.parametrize("name", ENDING)
def test_a_signal_that_ends_it_gives_the_terminal_back(path: Path, name: str) -> None:
    with terminal(*watching(path, NEVER)) as shown:
        shown.read_until(b"\x1b[J")
        assert not is_given_back(shown)
        number = getattr(signal, name)
        shown.signal(number)
        code = shown.end()
        assert is_given_back(shown)
        assert shown.shown.count(ENTER) == shown.shown.count(LEAVE) == 1
        if name in ("SIGINT", "SIGTERM", "SIGHUP"):
            assert (code, shown.shown.partition(LEAVE)[2].strip()) == (130, b"hangarlog: interrupted")
        else:
            assert (code, shown.shown.partition(LEAVE)[2]) == (-number, b"")


@pytest.mark.parametrize("keys", [b"q", b"\x1b"], ids=repr)
def test_keys_that_quit(path: Path, keys: bytes) -> None:
    with terminal(*watching(path, NEVER)) as shown:
        shown.read_until(b"\x1b[J")
        shown.type(keys)
        assert shown.end() == 0
        assert is_given_back(shown)
        assert shown.shown.endswith(LEAVE)


def test_other_keys_are_not_shown_and_do_nothing(path: Path) -> None:
    with terminal(*watching(path, NEVER)) as shown:
        shown.read_until(b"\x1b[J")
        shown.type(b"zzz\x1b[A")
        shown.read_until(b"\x1b[J", 2)
        assert b"zzz" not in shown.shown
        shown.type(b"q")
        assert shown.end() == 0


def test_a_stop_gives_the_terminal_back_and_going_on_takes_it_again(path: Path) -> None:
    with terminal(*watching(path, NEVER)) as shown:
        shown.read_until(b"\x1b[J")
        shown.signal(signal.SIGTSTP)
        shown.read_until(b"[stopped]")
        assert is_given_back(shown)
        frames = shown.shown.count(b"\x1b[J")
        shown.signal(signal.SIGCONT)
        shown.read_until(b"\x1b[J", frames + 1)
        assert not is_given_back(shown)
        shown.signal(signal.SIGTERM)
        assert shown.end() == 130
        assert is_given_back(shown)


def test_a_store_that_goes_ends_it_with_an_error_below_the_screen(path: Path) -> None:
    with terminal(*watching(path, "0.1")) as shown:
        shown.read_until(b"\x1b[J")
        path.rename(path.parent / "gone")
        assert shown.end() == 1
        assert is_given_back(shown)
        assert b"there is no such folder" in shown.shown.partition(LEAVE)[2]


def test_without_colours(path: Path) -> None:
    with terminal(*watching(path, NEVER), NO_COLOR="1") as shown:
        shown.read_until(b"\x1b[J")
        assert not STYLE.search(shown.frames()[0])


def test_a_terminal_without_a_cursor_gets_lines(path: Path) -> None:
    with terminal(*watching(path, "0.1"), TERM="dumb") as shown:
        shown.read_until(b"\n", 3)
        shown.signal(signal.SIGTERM)
        assert shown.end() == 130
    assert b"\x1b" not in shown.shown
    for line in shown.shown.splitlines()[:3]:
        assert b"160 events" in line


def test_an_encoding_without_blocks_gets_ascii(path: Path) -> None:
    with terminal(*watching(path, "0.1"), PYTHONIOENCODING="ascii") as shown:
        shown.read_until(b"\x1b[J", 3)
    assert shown.shown.isascii()
    assert b"#" in shown.shown
