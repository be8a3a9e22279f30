"""The command line as a shell sees it: output, exit codes, errors, pipes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import click
import pytest
from conftest import DATABASE, ROOT, Command, tool

import hangarlog.cli.append as append_command
from hangarlog import FileEventStore, UntypedEvent


def lines(output: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


def append(hangarlog: Command, *arguments: object, **more: object) -> bytes:
    done = hangarlog("append", "s", *arguments, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_append_prints_the_new_version_and_makes_the_store(hangarlog: Command, tmp_path: Path) -> None:
    assert append(hangarlog, "a:1", "--type", "T", "--expected-version", "none", "--data", '{"x":1}') == b"0\n"
    assert append(hangarlog, "a:1", "--type", "T", "--expected-version", "0") == b"1\n"
    assert append(hangarlog, "a:1", "--type", "T", "--expected-version", "exists") == b"2\n"
    assert append(hangarlog, "a:1", "--type", "T", "--metadata", '{"correlation_id":"c"}') == b"3\n"
    stored = lines((tmp_path / "s/streams/a/1.jsonl").read_bytes())
    assert [line["data"] for line in stored] == [{"_version": 1, "x": 1}] + [{"_version": 1}] * 3
    assert stored[3]["metadata"] == {"correlation_id": "c"}


def test_standard_input_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append_command, "MAX_LINE_BYTES", 10)
    for text, fits in ((b'{"x": 111}', True), (b'{"x": 1111}', False)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        if fits:
            assert len(append_command._events("T", "-")) == 1
        else:
            with pytest.raises(click.BadParameter, match="longer than 10 bytes; append it in parts"):
                append_command._events("T", "-")


def test_append_reads_standard_input_one_object_or_one_a_line(hangarlog: Command) -> None:
    assert append(hangarlog, "a:1", "--type", "T", "--data", "-", stdin=b'{\n  "x": 1\n}\n') == b"0\n"
    assert append(hangarlog, "a:1", "--type", "T", "--data", "-", stdin=b'{"x":2}\n{"x":3,"_version":2}\n') == b"2\n"
    read = lines(hangarlog("read", "s").stdout)
    assert [line["data"] for line in read] == [
        {"_version": 1, "x": 1},
        {"_version": 1, "x": 2},
        {"_version": 2, "x": 3},
    ]
    assert read[1]["batch_end"] == read[2]["batch_end"] == 3


def test_an_event_id_in_the_payload_makes_an_append_repeatable(hangarlog: Command) -> None:
    for _ in range(2):
        assert (
            append(hangarlog, "a:1", "--type", "T", "--data", '{"event_id":"x"}', "--expected-version", "-1") == b"0\n"
        )
    assert len(hangarlog("read", "s").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["append", "s", "a:1", "--type", "T", "--expected-version", "7"], 1, "conflict on stream 'a:1'"),
        (["append", "s", "a:1", "--type", "T", "--expected-version", "x"], 2, "neither a version nor"),
        (["append", "s", "a:1", "--type", "T", "--data", "{"], 2, "not a JSON object"),
        (["append", "s", "a:1", "--type", "T", "--data", "[]"], 2, "not a JSON object"),
        (["append", "s", "a:1", "--type", "T", "--data", '{"x":NaN}'], 2, "not a JSON object"),
        (["append", "s", "a:1", "--type", "T", "--data", '{"_version":0}'], 2, "_version"),
        (["append", "s", "a:1", "--type", "T", "--data", '{"event_id":7}'], 1, "event_id"),
        (["append", "s", "a:1", "--type", ""], 2, "empty"),
        (["append", "s", "a:1"], 2, "Missing option '--type'"),
        (["append", "s", "--type", "T"], 2, "Missing argument 'STREAM'"),
        (["append", "s", "../x", "--type", "T"], 2, "bad stream id"),
        (["read", "s", "none:1"], 1, "stream not found: 'none:1'"),
        (["read", "nowhere"], 1, "no such folder"),
        (["read"], 2, "Missing argument 'STORE'"),
        (["read", "s", "--from", "x"], 2, "--from"),
        (["read", "s", "--nonsense"], 2, "--nonsense"),
        (["nonsense"], 2, "nonsense"),
        (["tail", "s", "none:1"], 1, "stream not found"),
        (["streams", "nowhere"], 1, "no such folder"),
        (["stats", "."], 1, "neither a store nor empty"),
        (["verify", "nowhere"], 1, "no such folder"),
        (["import", "s", "nowhere.db"], 1, "no such file"),
        (["import", "s"], 2, "Missing argument 'SOURCE'"),
        (["export", "s", "x.txt"], 2, "names no format"),
        (["export", "s", "-", "--format", "db"], 2, "standard output"),
        (["export", "s", "s/hangarlog.json", "--format", "jsonl"], 1, "exists"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    hangarlog: Command, arguments: list[str], code: int, message: str
) -> None:
    append(hangarlog, "a:1", "--type", "T")
    done = hangarlog(*arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_the_store_may_come_from_the_environment(hangarlog: Command, tmp_path: Path) -> None:
    """For every form of the arguments; a store that is named wins."""
    store = str(tmp_path / "s")
    assert hangarlog("append", "a:1", "--type", "T", HANGARLOG_STORE=store).stdout == b"0\n"
    assert hangarlog("append", "other", "a:1", "--type", "T", HANGARLOG_STORE=store).stdout == b"0\n"
    for arguments, count in (
        (["read"], 1),
        (["read", "a:1"], 1),
        (["read", "other"], 1),
        (["read", "other", "a:1"], 1),
    ):
        assert len(hangarlog(*arguments, HANGARLOG_STORE=store).stdout.splitlines()) == count
    assert lines(hangarlog("streams", HANGARLOG_STORE=store).stdout) == [{"stream_id": "a:1"}]
    assert hangarlog("import", str(DATABASE), HANGARLOG_STORE=store).returncode == 0
    assert hangarlog("export", "out.jsonl", HANGARLOG_STORE=store).returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes().count(b"\n") == 759


@pytest.fixture
def imported(hangarlog: Command) -> Command:
    done = hangarlog("import", "s", DATABASE)
    assert json.loads(done.stdout) == {"taken": 758, "already": 0, "streams": 4, "snapshots": 0}
    return hangarlog


def test_read_in_a_pipe_is_the_stored_lines(imported: Command, tmp_path: Path) -> None:
    journal = (tmp_path / "s/journal.jsonl").read_bytes()
    assert imported("read", "s").stdout == imported("read", "s", "--raw").stdout == journal
    assert imported("read", "s", "provider:math").stdout == (tmp_path / "s/streams/provider/math.jsonl").read_bytes()
    assert imported("export", "s", "-").stdout == journal


def test_read_selects(imported: Command) -> None:
    def versions(*options: object) -> list[object]:
        return [line["stream_version"] for line in lines(imported("read", "s", *options).stdout)]

    assert versions("provider:math", "--from", 358) == [358, 359, 360]
    assert versions("provider:math", "--reverse", "--limit", 2) == [360, 359]
    assert versions("provider:math", "--reverse", "--from", 1) == [1, 0]
    assert versions("--from", 756) == [360, 93]
    types = [
        line["event_type"]
        for line in lines(imported("read", "s", "--type", "ProviderStarted", "--type", "ProviderStopped").stdout)
    ]
    assert types == ["ProviderStarted", "ProviderStarted", "ProviderStopped", "ProviderStopped"]
    assert versions("--category", "provider", "--limit", 1) == [0]
    assert versions("--category", "none") == []


def test_tail_shows_the_last_ones_and_follows_across_rolls(imported: Command, tmp_path: Path) -> None:
    assert [line["position"] for line in lines(imported("tail", "s", "-n", 2).stdout)] == [757, 758]
    assert len(imported("tail", "s", "provider:math").stdout.splitlines()) == 10
    with FileEventStore(tmp_path / "t", durability="relaxed", segment_bytes=400) as store:
        store.append("a:1", [UntypedEvent("T", {"n": 0})], -1)
        follower = subprocess.Popen(
            [sys.executable, "-m", "hangarlog", "tail", str(tmp_path / "t"), "a:1", "-f"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            assert follower.stdout
            seen = [json.loads(follower.stdout.readline())["data"]["n"]]
            for number in range(1, 30):
                store.append_many(
                    [("a:1", [UntypedEvent("T", {"n": number})], -2), ("b:1", [UntypedEvent("T", {})], -2)]
                )
                if number % 7 == 0:  # Several may come between two looks.
                    seen += [json.loads(follower.stdout.readline())["data"]["n"] for _ in range(7)]
            seen += [json.loads(follower.stdout.readline())["data"]["n"]]
        finally:
            follower.kill()
            follower.communicate()
        assert follower.returncode == -signal.SIGKILL
        assert seen == list(range(30))


def test_an_interrupted_follower_says_so_without_a_traceback(imported: Command, tmp_path: Path) -> None:
    follower = subprocess.Popen(
        [sys.executable, "-m", "hangarlog", "tail", str(tmp_path / "s"), "-n", "1", "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # A shell that runs the tests in its background has them ignore it.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert follower.stdout
    follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    _, errors = follower.communicate()
    assert follower.returncode == 130
    assert b"Traceback" not in errors


def test_a_follower_that_is_interrupted_within_a_finalizer_ends_all_the_same(imported: Command, tmp_path: Path) -> None:
    """There Python drops the exception and goes on."""
    program = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from hangarlog import cli
from hangarlog.log.segment import Segment
close = Segment.__del__
def interrupted(segment):
    Segment.__del__ = close
    signal.raise_signal(signal.SIGINT)
Segment.__del__ = interrupted
sys.argv[1:] = ["tail", sys.argv[1], "-n", "1", "-f"]
cli.run()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "s")],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (130, b"hangarlog: interrupted")


@pytest.mark.parametrize(
    "command", ["read s", "tail s -n 758", "export s -", "streams s", "export s - --format cloudevents"]
)
def test_a_closed_pipe_is_no_error(imported: Command, tmp_path: Path, command: str) -> None:
    """As `| head -n 1` closes it."""
    tool("head")
    shell = f"({sys.executable} -m hangarlog {command}; echo $? >&2) | head -n 1"
    done = subprocess.run(
        ["sh", "-c", shell], cwd=tmp_path, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b"0\n"


def test_streams_and_stats_count(imported: Command) -> None:
    names = ["provider:_system", "provider:broken", "provider:math", "provider:text"]
    assert lines(imported("streams", "s").stdout) == [{"stream_id": name} for name in names]
    assert lines(imported("streams", "s", "--prefix", "provider:m", "--long").stdout) == [
        {"stream_id": "provider:math", "version": 360}
    ]
    (stats,) = lines(imported("stats", "s").stdout)
    assert (stats["events"], stats["streams"], stats["journal_files"], stats["streams_files"]) == (758, 4, 1, 4)
    assert stats["journal_bytes"] == stats["streams_bytes"]
    assert stats["first_recorded_at"] == "2026-11-23T03:24:01.281538Z"
    assert stats["last_recorded_at"] == "2026-11-23T03:24:05.700679Z"


def test_verify_finds_a_line_damaged_by_hand_and_names_its_place(imported: Command, tmp_path: Path) -> None:
    """Path, segment, offset, cause; reading it is exit code 1 too."""
    assert lines(imported("verify", "s").stdout) == [{"events": 758, "streams": 4, "damaged": 0}]
    stream = tmp_path / "s/streams/provider/text.jsonl"
    text = stream.read_bytes()
    stream.write_bytes(text.replace(b"ready", b"reddy", 1))
    done = imported("verify", "s")
    assert done.returncode == 1
    damage, summary = lines(done.stdout)
    offset = text[: text.index(b"ready")].rindex(b"\n") + 1
    assert (damage["path"], damage["segment"], damage["offset"]) == (str(stream), "text.jsonl", offset)
    assert "checksum" in str(damage["cause"])
    assert summary["damaged"] == 1
    read = imported("read", "s", "provider:text")
    assert read.returncode == 0
    assert f"offset {offset}".encode() in read.stderr  # Served from the other copy, and said.
    journal = tmp_path / "s/journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"ready", b"reddy"))
    read = imported("read", "s", "provider:text")
    assert read.returncode == 1
    assert f"offset {offset}".encode() in read.stderr


def test_export_writes_what_others_read(imported: Command, tmp_path: Path) -> None:
    """The same tables, the same lines, CloudEvents; never over a file that is there."""
    assert json.loads(imported("export", "s", "out.db").stdout) == {"events": 758, "target": "out.db"}
    assert json.loads(imported("export", "s", "out.jsonl").stdout) == {"events": 758, "target": "out.jsonl"}
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "s/journal.jsonl").read_bytes()
    assert imported("export", "s", "out.jsonl").returncode == 1
    assert imported("import", "t", "out.db").returncode == 0
    assert imported("read", "t").stdout == imported("read", "s").stdout
    events = lines(imported("export", "s", "-", "--format", "cloudevents").stdout)
    assert len(events) == 758


def test_cloud_events_are_read_by_the_cloudevents_library(hangarlog: Command) -> None:
    http = pytest.importorskip("cloudevents.v1.http", reason="the cloudevents library is not installed")
    append(
        hangarlog, "a:1", "--type", "T", "--data", '{"x":1}', "--metadata", '{"correlation_id":"c","causation_id":"d"}'
    )
    (line,) = hangarlog("export", "s", "-", "--format", "cloudevents").stdout.splitlines()
    event = http.from_json(line)
    assert (event["type"], event["subject"], event["correlationid"], event["causationid"]) == ("T", "a:1", "c", "d")
    assert (event["sequence"], event["streamversion"]) == (f"{1:020d}", 0)
    assert event.data == {"_version": 1, "x": 1}
    assert event["source"].startswith("urn:uuid:")


def test_the_demo_runs_twice_on_one_store(hangarlog: Command, tmp_path: Path) -> None:
    """The README's first command; the shell lines it prints work."""
    for imported in ("758 events imported", "0 events imported, 758 were there already"):
        done = hangarlog("demo", "d")
        assert (done.returncode, done.stderr) == (0, b"")
        text = done.stdout.decode()
        for part in (
            imported,
            "758",
            "ProviderStarted was stored as version 1",
            "refused: conflict on stream",
            "0 damaged",
        ):
            assert part in text
    tool("jq")
    shell_lines = text.splitlines()[-3:]
    for line in shell_lines:
        output = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, check=True).stdout
        assert output.count(b"\n") >= 1


def test_the_demo_refuses_a_store_with_other_events(hangarlog: Command, tmp_path: Path) -> None:
    """As one that `HANGARLOG_STORE` names: what is imported cannot be taken out again."""
    assert hangarlog("append", "s", "a:1", "--type", "T").returncode == 0
    before = (tmp_path / "s/journal.jsonl").read_bytes()
    done = hangarlog("demo", "s")
    assert (done.returncode, (tmp_path / "s/journal.jsonl").read_bytes()) == (2, before)
    assert b"s has other events, such as those of the stream 'a:1'; name a new folder" in done.stderr


def test_every_command_has_help_and_is_in_the_reference(hangarlog: Command) -> None:
    """docs/cli.md is what `tools/cli_reference.py` prints."""
    reference = subprocess.run(
        [sys.executable, str(ROOT / "tools/cli_reference.py")],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    ).stdout
    assert (ROOT / "docs/cli.md").read_bytes() == reference
    text = hangarlog("--help").stdout.decode()
    commands = [line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line.strip()]
    assert commands == [
        "append",
        "archive",
        "backup",
        "bench",
        "completion",
        "compress",
        "copy",
        "demo",
        "doctor",
        "export",
        "import",
        "metrics",
        "project",
        "read",
        "repair",
        "replay",
        "retain",
        "schema",
        "stats",
        "streams",
        "subscribers",
        "tail",
        "verify",
    ]
    for command in commands:
        assert f"## hangarlog {command}\n" in reference.decode()
        assert hangarlog(command, "--help").returncode == 0
    assert hangarlog("--version").stdout.startswith(b"hangarlog, version ")


def test_a_command_is_imported_when_it_is_asked_for() -> None:
    """None for --version, only its own for a command; and the table of them has all that their modules register."""
    from hangarlog.cli.app import _MODULES
    from hangarlog.cli.app import hangarlog as group

    program = (
        "import sys; sys.argv = ['hangarlog', *sys.argv[1:]]; import atexit; "
        "atexit.register(lambda: print(*[name for name in sys.modules if name.startswith('hangarlog.cli.')])); "
        "from hangarlog.cli import run; run()"
    )

    def imported_by(*arguments: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )
        return set(done.stdout.splitlines()[-1].split()) - {
            f"hangarlog.cli.{name}"
            for name in ("app", "exit_codes", "main", "progress", "standard_streams", "suggestions", "terminal")
        }

    assert imported_by("--version") == set()
    assert imported_by("read", "--help") == {"hangarlog.cli.read"}
    with click.Context(group) as context:
        commands = {name: group.get_command(context, name) for name in group.list_commands(context)}
    assert commands == group.commands
    assert list(commands) == sorted(_MODULES)
    assert all(
        command and command.callback.__module__ == f"hangarlog.cli.{_MODULES[name]}"
        for name, command in commands.items()
    )


def test_without_its_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ImportError('no click')")
    done = subprocess.run(
        [sys.executable, "-m", "hangarlog", "--version"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        check=False,
    )
    assert done.returncode == 1
    assert b"pip install 'hangarlog[cli]'" in done.stderr


HOSTILE = "\x1b[2J \x07 \x9b31m \x7f \u202e \u2028 \u200f \u2066 \U000e0041 caf\u00e9 \U0001f600"


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no pseudo-terminals")
def test_no_control_character_of_the_data_reaches_a_terminal_raw(tmp_path: Path) -> None:
    """In ids, types, payloads, metadata and errors, pretty and --raw; letters and pictures do."""
    import pty

    stream = HOSTILE.translate(dict.fromkeys((27, 7, 155, 127)))
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        store.append(
            f"a:{stream}", [UntypedEvent(HOSTILE, {"x": HOSTILE}, event_id=HOSTILE)], -1, metadata={"y": HOSTILE}
        )
    for arguments in (
        ["read", "s"],
        ["read", "s", "--raw"],
        ["tail", "s"],
        ["streams", "s", "-l"],
        ["read", "s", HOSTILE],
        ["stats", "s"],
    ):
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "hangarlog", *arguments],
            cwd=tmp_path,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "300"},
        )
        os.close(slave)
        shown = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
        assert process.wait() == (2 if HOSTILE in arguments else 0), arguments
        os.close(master)
        text = shown.decode().replace("\r\n", "\n")
        assert not set(text) & set("\x1b\x07\x9b\x7f\u202e\u2028\u200f\u2066\U000e0041"), (arguments, text)
        if arguments[0] in ("read", "tail") and len(arguments) < 3:
            assert "caf\u00e9 \U0001f600" in text
            assert "\\u001b[2J" in text


def test_without_a_command_the_help_is_shown(hangarlog: Command) -> None:
    done = hangarlog()
    assert done.returncode == 2
    assert "Commands:\n  append" in done.stderr.decode()


def test_what_a_recovery_did_is_said_once(imported: Command, tmp_path: Path) -> None:
    """On standard error, where nothing but a crash puts anything."""
    journal = tmp_path / "s/journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"position":759,"str')
    (tmp_path / "s/state").unlink()
    assert b"recovered after a crash, from position 758 on: journal cut 20\n" in imported("stats", "s").stderr
    assert imported("stats", "s").stderr == b""
