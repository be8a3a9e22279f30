"""Completion in the real shells: what is inserted, that it is inert, and that the store is only looked at."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path
from string import ascii_lowercase, printable

import pytest
from click.shell_completion import get_completion_class
from conftest import ROOT, tool

from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.cli.app import hangarlog
from hangarlog.cli.completing import escaped, inserted, shortened, split
from hangarlog.cli.completion_scripts import SCRIPTS
from hangarlog.cli.completion_values import Word

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="this system has no pseudo-terminals")

HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned;",
    "& touch pwned &",
    "| touch pwned",
    "> pwned",
    "!touch",
    'it\'s "so" \\n',
    "*",
    "~root",
    "{a,b}",
    "[a-z]?",
    "#x",
    "=ls",
    "caf\u00e9 \u4e2d",
    "${IFS}touch${IFS}pwned",
    "$'\\x41'",
    "%1^2=3@4,5:6",
]
ODD = [f"odd:{letter}{name}" for letter, name in zip(ascii_lowercase, HOSTILE, strict=False)]
"""Streams of one category, which their first letter tells apart."""
LEFT_OUT = ["-rf", "--help", "\u202eback", "nul\u200b"]
"""Streams that are not offered: they would be taken for options, or are not what they look like."""
BREAKS = " \t\n\"'@><=;|&(:"
"""Where bash ends words."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stores, and with a `hangarlog` that prints its arguments unless a shell asks it."""
    path = tmp_path_factory.mktemp("completion")
    with FileEventStore(path / "store one", durability="relaxed") as store:
        streams = ["provider:math", "provider:_system", "alone", *LEFT_OUT]
        streams += list(ODD)
        for stream in streams:
            store.append(stream, [UntypedEvent("ProviderStarted", {})], ANY)
        store.append("alone", [UntypedEvent("\x1b[2J", {}), UntypedEvent("$(touch pwned)", {})], ANY)
        for name in ("mailer", "shipper"):
            store.cursor(name).advance(1)
    (path / "folder/inner").mkdir(parents=True)
    shutil.copytree(path / "store one", path / "folder/copy")
    (path / "bad\nname").mkdir()
    (path / "\x1b[2J").mkdir()
    (path / "bin").mkdir()
    (path / "bin/hangarlog").write_text(
        f'#!/bin/sh\n[ -z "$_HANGARLOG_COMPLETE" ] || exec {sys.executable} -m hangarlog "$@"\n'
        f"printf '%s\\0' \"$@\" >{path}/arguments; echo END\n"
    )
    (path / "bin/hangarlog").chmod(0o755)
    for shell, script in SCRIPTS.items():
        (path / f"script.{shell}").write_text(script)
    return path


def environment(place: Path) -> dict[str, str]:
    more = {"PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(place), "TERM": "vt100", "LC_ALL": "C.UTF-8"}
    return {**os.environ, "PYTHONPATH": str(ROOT), "PS1": "READY ", **more}


class Shell:
    """An interactive shell on a terminal."""

    def __init__(self, place: Path, *command: str) -> None:
        import pty

        self._place, self._shown = place, ""
        self._process, self._master = pty.fork()
        if not self._process:
            os.chdir(place)
            os.execvpe(command[0], command, environment(place))

    def until(self, text: str) -> None:
        """Wait until a text is shown."""
        while text not in self._shown:
            assert select.select([self._master], [], [], 60)[0], self._shown
            self._shown += os.read(self._master, 65536).decode(errors="replace")
        self._shown = self._shown.partition(text)[2]

    def type(self, keys: str) -> None:
        """Press some keys, and then Enter."""
        os.write(self._master, f"{keys}\r".encode())

    def run(self, keys: str) -> list[str]:
        """The arguments that hangarlog gets if these keys are pressed."""
        self.type(keys)
        self.until("END\r\n")
        self.until("READY ")
        return (self._place / "arguments").read_text().split("\0")[:-1]

    def close(self) -> None:
        self.type("exit")
        while True:
            try:
                if not os.read(self._master, 65536):
                    break
            except OSError:
                break
        os.close(self._master)
        os.waitpid(self._process, 0)


STARTS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source script.bash"),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit && compinit -D -u; source script.zsh"),
    "fish": (["fish", "--no-config", "-i"], "function fish_prompt; echo -n 'READY '; end; source script.fish"),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_shell_inserts_what_the_person_means_and_nothing_acts(place: Path, name: str) -> None:
    """Each hostile stream is named by its first character, and arrives as one argument."""
    tool(name)
    command, source = STARTS[name]
    shell = Shell(place, *command)
    shell.type(f"{source}; echo LOAD''ED")
    shell.until("LOADED\r\n")
    shell.until("READY ")
    try:
        assert shell.run("hangarlog verif\t ~/folder/c\t") == ["verify", f"{place}/folder/copy"]
        assert shell.run("hangarlog read sto\t prov\tma\t") == ["read", "store one", "provider:math"]
        assert shell.run("hangarlog read 'store one' 'provider:ma\t")[-1] == "provider:math"
        assert shell.run("hangarlog tail folder/copy --type Prov\t")[-2:] == ["--type", "ProviderStarted"]
        assert shell.run("hangarlog tail folder/copy --type=Prov\t")[-1:] == ["--type=ProviderStarted"]
        for stream in ODD[:3]:
            assert shell.run(f"hangarlog read store\\ one {stream[:5]}\t") == ["read", "store one", stream]
    finally:
        shell.close()
    assert not (place / "pwned").exists()


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_a_quoted_word_is_one_word_and_itself(tmp_path: Path, name: str) -> None:
    """Every character of ASCII, at the beginning and within a word, in a shell that expands all it can."""
    tool(name)
    letters = [c for c in printable if c.isprintable()]
    words = [*ODD, *(f"{c}x{c}" for c in letters), "".join(letters), *(f"{word}x" for word in HOSTILE), "="]
    script = "set -o histexpand 2>/dev/null\nprintf '%s\\0' " + " ".join(map(escaped, words))
    done = subprocess.run([name, "-s"], cwd=tmp_path, input=script.encode(), capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words
    assert list(tmp_path.iterdir()) == []


def asked(place: Path, shell: str, *arguments: str, **more: str) -> list[str]:
    """The answer to a request of a shell's script, without a process for it."""
    kind = get_completion_class(shell)
    assert kind
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(place):
        patch.setattr(sys, "argv", ["hangarlog", *arguments])
        for name, value in more.items():
            patch.setenv(name, value)
        return [line for line in kind(hangarlog, {}, "hangarlog", "").complete().split("\n") if line]


def asked_by_a_process(place: Path, shell: str, *arguments: str, **more: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "hangarlog", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env={**environment(place), "_HANGARLOG_COMPLETE": f"{shell}_complete", **more},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_what_is_not_plain_text_is_not_offered(place: Path) -> None:
    """Names that would be options, invisible characters, controls in types and in names of folders."""
    streams = asked(place, "zsh", "hangarlog", "read", "store\\ one", "")
    assert streams == ["podd:", "pprovider:", "walone"]
    assert asked(place, "zsh", "hangarlog", "read", "store\\ one", "--", "") == [
        "podd:",
        "pprovider:",
        "w--help",
        "w-rf",
        "walone",
    ]
    types = asked(place, "zsh", "hangarlog", "read", "store\\ one", "--type", "")
    assert types == ["wProviderStarted", "w\\$\\(touch\\ pwned\\)"]
    assert asked(place, "zsh", "hangarlog", "read", "") == ["pbin/", "pfolder/", "wstore\\ one"]
    assert asked(place, "zsh", "hangarlog", "export", "store\\ one", "") == ["f"]
    assert asked(place, "fish", "hangarlog", "read", "store one", "odd:o") == ["wodd:ocaf\u00e9 \u4e2d"]
    few = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert asked_by_a_process(place, "fish", "hangarlog", "read", "store one", "odd:o", **few) == [""]


def test_a_store_of_the_environment_is_looked_into(place: Path) -> None:
    """The first argument may be a store or what follows it."""
    default = {"HANGARLOG_STORE": str(place / "store one")}
    assert asked(place, "bash", "hangarlog read pro", BREAKS, **default) == ["pprovider:"]
    assert asked(place, "bash", "hangarlog read provider:", BREAKS, **default) == ["w_system", "wmath"]
    assert asked(place, "bash", "hangarlog read --category ", BREAKS, **default) == ["wodd", "wprovider"]
    assert asked(place, "bash", "hangarlog replay ma", BREAKS, **default) == ["wmailer"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [""],
        ["x"],
        ["hangarlog"],
        ["hangarlog read nowhere "],
        ["hangarlog read 'sto", ""],
        ["\udcff \udcff", "\udcff"],
    ],
)
def test_a_request_that_makes_no_sense_has_no_answer(place: Path, arguments: list[str]) -> None:
    """And no traceback; not even where the store has a FIFO or a folder in the place of a file."""
    for shell in SCRIPTS:
        assert asked(place, shell, *arguments) == [] or arguments not in ([], ["x"])
    asked_by_a_process(place, "bash", *arguments)


def test_a_store_that_is_none_is_not_waited_for(tmp_path: Path) -> None:
    store = tmp_path / "s"
    (store / "streams/a").mkdir(parents=True)
    (store / "cursors.jsonl").mkdir()
    (store / "hangarlog.json").touch()
    (store / "streams/a/1.jsonl").touch()
    os.mkfifo(store / "journal.jsonl")
    assert asked(tmp_path, "zsh", "hangarlog", "read", "s", "--type", "") == []
    assert asked(tmp_path, "zsh", "hangarlog", "replay", "s", "") == []
    assert asked(tmp_path, "zsh", "hangarlog", "read", "s", "a:") == ["wa:1"]


def test_completion_changes_nothing_and_takes_no_lock(place: Path) -> None:
    """Not even in a store that a crash left in the middle, and that others have locked."""

    def state() -> list[tuple[str, int, int, bytes]]:
        files = sorted(path for path in (place / "folder/copy").rglob("*") if path.is_file())
        return [(str(p), p.stat().st_mtime_ns, p.stat().st_ctime_ns, p.read_bytes()) for p in files]

    with open(place / "folder/copy/journal.jsonl", "ab") as file:
        file.write(b'{"position":')
    before = state()
    with FileEventStore(place / "store one") as store, store.changing_files():
        for words in (
            ["read", "folder/copy", "prov"],
            ["tail", "store\\ one", "--type", "P"],
            ["replay", "folder/copy", ""],
        ):
            assert asked(place, "zsh", "hangarlog", *words) != []
    assert state() == before


def test_more_streams_than_anybody_reads_are_shortened() -> None:
    """To what they begin with, so that a shell never inserts more than all have in common."""
    words = [Word(f"order:{number}") for number in range(5000)]
    assert shortened(words[:1000], "order:") == words[:1000]
    assert shortened(words, "order:") == [Word(f"order:{digit}", is_part=True) for digit in range(10)]
    words = [Word(f"order:2026-{number:05}") for number in range(5000)]
    assert shortened(words, "o") == [Word(f"order:2026-0{digit}", is_part=True) for digit in range(5)]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("", [""]),
        ("a b", ["a", "b"]),
        ("a ", ["a", ""]),
        (r"a\ b 'c d", ["a b", "c d"]),
        ("""a "b\\"c\\d" e\\""", ["a", 'b"c\\d', "e"]),
        ("a  ''  b", ["a", "", "b"]),
    ],
)
def test_a_line_is_split_as_a_shell_splits_it(line: str, values: list[str]) -> None:
    assert [word.value for word in split(line)] == values


def test_what_is_inserted_goes_on_from_what_was_typed() -> None:
    """Behind a colon for bash; within a quote only what is itself there."""
    assert inserted("a:b c", split("x a:b", breaks=BREAKS)[-1]) == r"b\ c"
    assert inserted("a:b c", split("x a:b")[-1]) == r"a:b\ c"
    assert inserted("a:b c", split("x 'a:b", breaks=BREAKS)[-1]) == "a:b c"
    assert inserted("it's", split("x 'it")[-1]) is None
    assert inserted("a$x", split('x "a')[-1]) is None
    assert inserted("ab", split("x a'")[-1]) is None


def test_a_script_is_installed_by_one_command(tmp_path: Path) -> None:
    """Twice is once; what the start file had stays; the new shell completes."""

    def installed(shell: str, **more: str) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-m", "hangarlog", "completion", shell, "--install"],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), **more},
            check=True,
        )
        return dict(json.loads(done.stdout))

    (tmp_path / ".bashrc").write_text("alias x=y")
    script = tmp_path / ".local/share/bash-completion/completions/hangarlog"
    assert installed("bash") == {"script": str(script), "added_to": str(tmp_path / ".bashrc")}
    assert installed("bash") == {"script": str(script), "added_to": None}
    assert (tmp_path / ".bashrc").read_text() == f"alias x=y\n[ -r {script} ] && . {script}\n"
    assert script.read_text() == SCRIPTS["bash"]
    assert installed("zsh", ZDOTDIR=str(tmp_path / "z"))["added_to"] == str(tmp_path / "z/.zshrc")
    odd = tmp_path / "odd $(touch pwned) '"
    assert installed("fish", XDG_CONFIG_HOME=str(odd))["script"] == str(odd / "fish/completions/hangarlog.fish")
    assert installed("bash", XDG_DATA_HOME=str(odd))["added_to"]
    shown = subprocess.run(
        [tool("bash"), "--norc", "-c", f". {tmp_path}/.bashrc; complete -p hangarlog"],
        cwd=tmp_path,
        capture_output=True,
    )
    assert (shown.stdout, shown.stderr) == (b"complete -F _hangarlog hangarlog\n", b"")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("home", ["", "nowhere"])
def test_without_a_home_nothing_is_installed(tmp_path: Path, home: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hangarlog", "completion", "zsh", "--install"],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": home},
        check=False,
    )
    assert done.returncode == 2
    assert b"there is no place for the script; print it without --install" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_program_in_the_current_folder_is_not_run_to_complete(place: Path, tmp_path: Path) -> None:
    """The folder may belong to somebody else, who has put a `hangarlog` into it."""
    (tmp_path / "hangarlog").write_text("#!/bin/sh\ntouch ran\n")
    (tmp_path / "hangarlog").chmod(0o755)
    script = (
        f"source {place}/script.bash; COMP_LINE='./hangarlog verif' COMP_POINT=17; "
        "_hangarlog ./hangarlog verif ./hangarlog; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run([tool("bash"), "-c", script], cwd=tmp_path, capture_output=True, env=environment(place))
    assert (done.stdout, (tmp_path / "ran").exists()) == (b"verify\n", False)
