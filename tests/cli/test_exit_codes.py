"""Every row of the table of exit codes in docs/cli.md, and a message of its own for every bad input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, Command

from hangarlog.cli.exit_codes import ExitCode

ROWS = {
    ExitCode.SUCCESS: "{h} append s a:1 --type T; {h} read s",
    ExitCode.FAILED: "{h} read nowhere",
    ExitCode.USAGE: "{h} read s --from x",
    ExitCode.UNCHECKED: "echo 1/0 > events.py; {h} schema check --events events",
    ExitCode.UNTOLD: "{h} append s a:1 --type T >&-",
}


@pytest.mark.parametrize("code", ROWS)
def test_a_command_ends_with_each_code_of_the_table(tmp_path: Path, code: ExitCode) -> None:
    script = ROWS[code].replace("{h}", f"{sys.executable} -m hangarlog")
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == code, done.stderr
    assert f"| {code.value} | {code.meaning} |" in (ROOT / "docs/cli.md").read_text()


def test_the_rows_are_all_but_that_of_an_interrupt(tmp_path: Path) -> None:
    """Which is tried here."""
    assert {*ExitCode} - {*ROWS} == {ExitCode.INTERRUPTED}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "hangarlog", "append", "s", "a:1", "--type", "T"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    follower = subprocess.Popen(
        [sys.executable, "-m", "hangarlog", "tail", "s", "-f"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        # A shell that runs the tests in its background has them ignore it.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert follower.stdout
    follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    follower.communicate()
    assert follower.returncode == ExitCode.INTERRUPTED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lock-timeout", "nan", "stats", "s"], "it is not a number"),
        (["append", "", "a:1", "--type", "T"], "STORE is empty"),
        (["backup", "s", ""], "TARGET is empty"),
        (["read", "s", ""], "STREAM is empty"),
        (["append", "s", "a:1", "--type", "\udcff"], "Invalid value for --type: it is not text in UTF-8"),
        (["append", "s", "a:1", "--type", "T", "--event-id", "\udcff"], "--event-id: it is not text in UTF-8"),
        (["completion", "tcsh"], "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    ],
)
def test_wrong_usage_has_a_message_of_its_own_and_changes_nothing(
    hangarlog: Command, tmp_path: Path, words: list[str], said: str
) -> None:
    done = hangarlog(*words)
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert list(tmp_path.iterdir()) == []


def test_a_wait_for_ever_is_as_long_as_a_wait_can_be(hangarlog: Command) -> None:
    done = hangarlog("--lock-timeout", "inf", "append", "s", "a:1", "--type", "T")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["ls", "s"], "Did you mean 'streams'?"),
        (["cat"], "Did you mean 'read'?"),
        (["follow"], "Did you mean 'tail -f'?"),
        (["check"], "Did you mean 'verify'?"),
        (["veryfi"], "Did you mean 'verify'?"),
        (["Append"], "Did you mean 'append'?"),
        (["schema", "chekc"], "Did you mean 'check'?"),
        (["zzz"], "The commands are append, archive, backup,"),
        (["read", "s", "--revrese"], "--reverse"),
    ],
)
def test_a_word_that_is_no_command_is_answered_with_one_that_is(
    hangarlog: Command, words: list[str], meant: str
) -> None:
    done = hangarlog(*words)
    assert done.returncode == 2
    assert meant in done.stderr.decode()


def test_a_word_of_another_tool_stands_for_a_command_that_exists() -> None:
    import click

    from hangarlog.cli.app import hangarlog as group
    from hangarlog.cli.suggestions import _KNOWN_ELSEWHERE as known

    names = group.list_commands(click.Context(group))
    assert {meant.split()[0] for meant in known.values()} <= set(names)
    assert not known.keys() & set(names)
