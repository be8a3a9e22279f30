"""`hangarlog doctor` as people and cron call it, and its page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from conftest import ROOT, Command
from examined import made

from hangarlog.cli.app import hangarlog as group
from hangarlog.doctor.finding import KINDS, SEVERITIES, Finding, duration, found, size

PAGE = ROOT / "docs" / "doctor.md"
MEMORY = ("--ignore", "file-system-in-memory")


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(group, ["doctor", *map(str, arguments)], standalone_mode=False)


def test_the_exit_code_is_for_cron(hangarlog: Command, tmp_path: Path) -> None:
    """0 if nothing is above a note, 1 for warnings and problems, 2 for wrong usage."""
    path = made(tmp_path / "s")
    done = hangarlog("doctor", path, *MEMORY)
    assert done.returncode == 0, done.stdout
    *findings, counts = map(json.loads, done.stdout.splitlines())
    assert list(findings[0]) == ["severity", "kind", "what", "where", "next", "facts"]
    assert list(counts) == list(SEVERITIES)
    assert sum(counts.values()) == len(findings)
    (path / "put-aside.jsonl").touch(0o600)
    for arguments, printed in (((), True), (("--least", "warning"), True), (("--least", "problem"), False)):
        done = doctor(path, *MEMORY, *arguments)
        assert (done.return_value, "put-aside" in done.stdout) == (1, printed)
    assert doctor(path, *MEMORY, "--ignore", "put-aside").return_value == 0
    assert doctor(tmp_path / "nowhere").return_value == 1
    for arguments in ((), (path, "--least", "x"), (path, "--ignore", "x"), (path, "more")):
        assert isinstance(doctor(*arguments).exception, click.UsageError)
    assert hangarlog("doctor").returncode == 2


def test_cron_has_nothing_to_mail_of_a_healthy_store(hangarlog: Command, tmp_path: Path) -> None:
    done = hangarlog("doctor", made(tmp_path / "s"), *MEMORY, "--least", "warning")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no pseudo-terminals")
def test_a_terminal_gets_lines_for_people_escaped(tmp_path: Path) -> None:
    path = made(tmp_path / "s")
    (path / "x\x1b[2Jy").touch()
    script = shutil.which("script")
    if script is None:
        pytest.skip("script is not installed")
    command = f"{sys.executable} -m hangarlog doctor {path}"
    for more in ("", " --json"):
        done = subprocess.run(
            [script, "-qec", command + more, "/dev/null"],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        shown = done.stdout.decode()
        assert "[2Jy" in shown
        assert "x\x1b[2Jy" not in shown
        if more:
            assert '"kind":"foreign-files"' in shown
        else:
            assert re.search(r"^note +foreign-files: 1 file", shown, re.MULTILINE)
            assert "next: sh -c 'mkdir" in shown
            assert re.search(r"^problem: 0, warning: [01], note: \d+, ok: \d+", shown, re.MULTILINE)


def test_the_table_of_the_page_is_the_code() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (.+) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [
        (kind, ", ".join(severities), meaning, advice or "-") for kind, (severities, meaning, advice) in KINDS.items()
    ]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_pages_cron_line_and_units_run(tmp_path: Path) -> None:
    """Their commands, with the store and the program of this machine; systemd itself checks the units where it is."""
    path = made(tmp_path / "mystore")
    (cron,) = blocks("cron")
    units = blocks("systemd")
    assert [unit.split("\n")[0] for unit in units] == ["[Unit]", "[Timer]", "[Service]"]
    assert "OnFailure=hangarlog-doctor-mail.service" in units[0]
    assert "OnCalendar=" in units[1]
    run = units[0].partition("ExecStart=")[2].splitlines()[0]
    for command in (cron.split(maxsplit=5)[5], run):
        assert command.startswith("/usr/local/bin/hangarlog doctor /srv/mystore")
        shown = command.replace("/usr/local/bin/hangarlog", f"{sys.executable} -m hangarlog")
        shown = shown.replace("/srv/mystore", f"{path} --ignore file-system-in-memory")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, env=environment, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        (path / "put-aside.jsonl").touch(0o600)
        done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, env=environment, check=False)
        assert (done.returncode, "put-aside" in done.stdout) == (1, True)
        (path / "put-aside.jsonl").unlink()
    verify = shutil.which("systemd-analyze")
    if verify:
        names = ("hangarlog-doctor.service", "hangarlog-doctor.timer", "hangarlog-doctor-mail.service")
        for name, unit in zip(names, units, strict=True):
            (tmp_path / name).write_text(unit.replace("/usr/local/bin/hangarlog", "/bin/true"))
        done = subprocess.run(
            [verify, "verify", "--man=no", *(str(tmp_path / name) for name in names)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Unknown" not in done.stderr, done.stderr


def test_a_finding_has_a_kind_and_a_severity_of_it() -> None:
    assert found("space", "ok", "a", "b", free=1) == Finding("ok", "space", "a", "b", "", {"free": 1})
    with pytest.raises(ValueError, match="never"):
        found("space", "note", "", "")
    with pytest.raises(KeyError):
        found("nothing", "note", "", "")


def test_numbers_are_for_people() -> None:
    assert [size(1), size(2048), size(3 << 30), size(5 << 40)] == ["1 bytes", "2.0 KiB", "3.0 GiB", "5.0 TiB"]
    assert [duration(3), duration(3600), duration(7200), duration(864_000)] == [
        "3 seconds",
        "60 minutes",
        "2.0 hours",
        "10 days",
    ]
