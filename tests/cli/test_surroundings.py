"""Every command in every surrounding: streams that are closed, full or of few letters, no folder, no variables."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, tool
from test_current_folder import APPLICATION, COMMANDS

from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.cli.exit_codes import ExitCode

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="this system has no fork")

MORE = [
    ["append", ".", "b:\u00e9", "--type", "T\u00e9", "--data", '{"x":"\u00e9\u4e2d"}'],
    ["append", ".", "b:1", "--type", "T", "--data", "-"],
    ["completion", "zsh", "--install"],
    ["export", ".", "-"],
    ["read", ".", "--raw"],
    ["schema"],
    ["no-such-command\u00e9"],
]

DRIVER = """
import contextlib, json, os, shutil, sys
from importlib import import_module
from hangarlog import cli
from hangarlog.cli import app, main

for name in app._MODULES.values():
    import_module(f"hangarlog.cli.{name}")
import hangarlog.maintenance.backup, hangarlog.maintenance.repair, hangarlog.maintenance.verify

def closed(number):
    os.close(number)
    setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # As Python does.

def full(number):
    os.dup2(os.open("/dev/full", os.O_WRONLY), number)

def without_reader(number):
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, number)

def without(*names):
    for name in names:
        os.environ.pop(name, None)

SURROUNDINGS = {
    "usual": lambda: None,
    "output closed": lambda: closed(1),
    "output full": lambda: (full(1), closed(0)),
    "nothing has a reader": lambda: (without_reader(1), without_reader(2)),
    "errors closed": lambda: (closed(2), os.environ.update(COLUMNS="0", LINES="0")),
    "errors full": lambda: (full(2), without("HOME", "TERM", "PATH", "LANG"), os.environ.update(COLUMNS="1")),
    "all closed": lambda: (closed(0), closed(1), closed(2)),
    "folder deleted": lambda: shutil.rmtree(os.getcwd()),
}

def run(surrounding, words, folder):
    names = [os.path.join(folder, name) for name in ("stdout", "stderr")]
    child = os.fork()
    if not child:
        os.chdir(os.path.join(folder, "store"))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in enumerate(names, 1):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
        SURROUNDINGS[surrounding]()
        sys.argv[1:] = words
        code = 99
        try:
            cli.run()
        except SystemExit as leaving:
            code = leaving.code
        except BaseException:
            sys.excepthook(*sys.exc_info())
        for stream in (sys.stdout, sys.stderr):  # As Python does at exit.
            try:
                stream.flush()
            except BaseException:
                code = 120
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return [code, *(open(name, "rb").read().decode("latin-1") for name in names)]

json.dump([run(*each) for each in json.load(sys.stdin)], sys.stdout)
"""


def commands() -> list[list[str]]:
    return [*COMMANDS, *MORE]


def made(template: Path, folder: Path, words: list[str]) -> list[str]:
    """A folder with a store for one command, and its words."""
    shutil.copytree(template, folder)
    (folder / "out").mkdir()
    return [word.replace("{out}", str(folder / "out")) for word in words]


def template(path: Path) -> Path:
    with FileEventStore(path / "store", durability="relaxed") as store:
        events = [UntypedEvent("T", {"x": "\u00e9\u4e2d\U0001f600"}, event_id=key) for key in ("known", "other")]
        store.append("a:1", events, ANY)
        store.append("b:\u00e9", [UntypedEvent("T", {})], ANY)
        store.cursor("mailer").advance(1)
    (path / "home").mkdir()
    return path


def results(
    path: Path, surroundings: list[str], each: list[list[str]], name: str = "", **environment: str
) -> dict[tuple[str, str], tuple[int, str, str]]:
    """{(surrounding, command): (exit code, standard output, standard error)}, from one process and its forks."""
    (path / "application").mkdir(exist_ok=True)
    (path / "application/application.py").write_text(APPLICATION)
    origin = template(path / "origin")
    requests, keys = [], []
    for surrounding in surroundings:
        for words in each:
            folder = path / f"{len(requests)}{name}"
            requests.append([surrounding, made(origin, folder, words), str(folder)])
            keys.append((surrounding, " ".join(words)))
    paths = os.pathsep.join([str(ROOT), str(path / "application")])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(requests).encode(),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": paths, "HOME": str(path), "COLUMNS": "80", **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return {key: tuple(found) for key, found in zip(keys, json.loads(done.stdout), strict=True)}


NAMES = ["usual", "output closed", "output full", "nothing has a reader", "errors closed", "errors full", "all closed"]
NAMES += ["folder deleted"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[int, str, str]]:
    return results(tmp_path_factory.mktemp("surroundings"), NAMES, commands())


@pytest.mark.parametrize("command", sorted({" ".join(words) for words in commands()}))
def test_no_surrounding_makes_a_command_fail_unforeseen(
    found: dict[tuple[str, str], tuple[int, str, str]], command: str
) -> None:
    """Standard error and input change nothing; an output that fails has the codes of the table."""
    usual, output, _ = found["usual", command]
    for surrounding in NAMES:
        code, _, errors = found[surrounding, command]
        assert "Traceback" not in errors, (surrounding, errors)
        assert "Exception ignored" not in errors, (surrounding, errors)
        assert code in list(ExitCode), (surrounding, code, errors)
    for surrounding in ("errors closed", "errors full"):
        code, text, _ = found[surrounding, command]
        if "--install" in command and surrounding == "errors full":
            assert code == 2  # There is no HOME.
            continue
        assert (code, bool(text)) == (usual, bool(output)), (surrounding, found[surrounding, command])
    assert found["nothing has a reader", command][0] in (0, usual)
    for surrounding in ("output closed", "output full", "all closed") if output else ():
        code, _, errors = found[surrounding, command]
        if code != 1 or "standard input is closed" not in errors:
            assert code == code_without_output(command), (surrounding, errors)
            cause = "cannot be written: No space left on device" if "full" in surrounding else "is closed"
            assert surrounding == "all closed" or errors.endswith(f"standard output {cause}\n")


def code_without_output(command: str) -> int:
    """1 for what reads, 4 for what changes a store or a file. The demonstration has not begun when it fails."""
    words = command.split()
    if "schema check" in command:
        return 3
    changing = (
        "append",
        "archive",
        "backup",
        "compress",
        "copy",
        "export",
        "import",
        "project",
        "repair",
        "retain",
        "schema lock",
    )
    changes = command.startswith(changing) or any(f"--{word}" in words for word in ("handler", "html", "install"))
    return 4 if changes and command != "export . -" else 1


ENCODINGS = {
    "ASCII": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1:strict"},
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_command_works_without_utf_8(tmp_path: Path, name: str) -> None:
    """In a folder whose name is no text, with an argument that is none; JSON is UTF-8 all the same."""
    odd = [
        ["append", ".", "x:\udcff", "--type", "T"],
        ["append", ".", "x:1", "--type", "\udcff"],
        ["append", ".", "x:1", "--type", "T", "--event-id", "\udcff"],
        ["append", ".", "x:1", "--type", "T", "--data", '{"x":"\udcff"}'],
        ["append", ".", "x:1", "--type", "T", "--metadata", '{"x":"\udcff"}'],
        ["read", ".", "\udcff"],
        ["read", ".", "--type", "\udcff", "--category", "\udcff"],
        ["tail", ".", "--type", "\udcff", "--category", "\udcff"],
        ["replay", ".", "\udcff"],
        ["streams", ".", "--prefix", "\udcff"],
        ["stats", "\udcff"],
        ["\udcff"],
        ["read", "--\udcff"],
    ]
    usable = [words for words in commands() if words[0] != "demo"]  # One of them is enough for its text.
    folder = tmp_path / "\udcff"
    folder.mkdir()
    for (_, command), (code, output, errors) in results(folder, ["usual"], [*usable, *odd], **ENCODINGS[name]).items():
        assert "Traceback" not in errors, (command, errors)
        assert code in list(ExitCode), (command, code, errors)
        assert code == 0 or errors or output, command
        if command.startswith(("read . --raw", "export . -")):
            assert "\u00e9\u4e2d\U0001f600" in output.encode("latin-1").decode(), command


def test_standard_output_that_fails_is_told_by_the_real_program(tmp_path: Path) -> None:
    """An append is stored, and says so; a read fails; a journal never gets a closed stream's number."""
    tool("sh")
    script = f"""
        hangarlog() {{ {sys.executable} -m hangarlog "$@"; }}
        hangarlog append L b:1 --type T >&-; echo "exit $?"
        hangarlog append L b:1 --type T >/dev/full; echo "exit $?"
        hangarlog read L >&-; echo "exit $?"
        hangarlog append L b:1 --type T --data - <&- ; echo "exit $?"
        hangarlog nonsense 2>&- ; echo "exit $?"
        hangarlog append L b:1 --type T <&- >&- 2>&-; echo "exit $?"
        cat L/journal.jsonl | wc -l
    """
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.split("\n") == ["exit 4", "exit 4", "exit 1", "exit 1", "exit 2", "exit 4", "3", ""]
    stored = "hangarlog: stored up to version {} of the stream (position {}), but this answer could not be written: "
    assert done.stderr.splitlines() == [
        stored.format(0, 1) + "standard output is closed",
        stored.format(1, 2) + "standard output cannot be written: No space left on device",
        "hangarlog: standard output is closed",
        "hangarlog: standard input is closed",
    ]


def test_an_output_that_does_not_block_is_waited_for(tmp_path: Path) -> None:
    """As a terminal is after another program made it so."""
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("T", {"x": "x" * 1000}) for _ in range(300)], ANY)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    command = [sys.executable, "-m", "hangarlog", "read", str(tmp_path / "s")]
    process = subprocess.Popen(
        command, stdout=writer, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    os.close(writer)
    with open(reader, "rb") as file:
        assert file.read() == (tmp_path / "s/journal.jsonl").read_bytes()
    _, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"")
