"""What reaches a terminal: nothing that acts on it, whoever wrote the store, from any command."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import unicodedata
from pathlib import Path
from zlib import crc32

import pytest
from conftest import ROOT

from hangarlog import FileEventStore, UntypedEvent
from hangarlog.cli.terminal import printable

FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180d\u180f\u2800\u3164\ufe00\ufe0f\uffa0\U000e0100\U000e01ef"
BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202d\u202e\u2066\u2069"
SEPARATORS = "\u0085\u00a0\u2028\u2029\u3000\u2007"
FORMATS = "\u00ad\u180e\u200b\u200d\u2060\ufeff\ufff9\U0001d173\U000e0001\U000e0041\U000e007f"
OTHERS = "\ue000\U000f0000\U0010ffff\u0378\uffff\U000e0fff"
CONTROLS = "\x00\x07\x08\x0b\x0c\x1b\x7f\x80\x9b\x9d\x9f"
WRITABLE = "\x1b]52;c;cm0gLXJmIH4=\x07" + CONTROLS + FILLERS + BIDIRECTIONAL + SEPARATORS + FORMATS + OTHERS
IN_IDS = "".join(c for c in WRITABLE if unicodedata.category(c) != "Cc")
IN_NAMES = "".join(c for c in WRITABLE if c not in "\0/")[:60] + "\x1b[2J\udcff"
IN_ARGUMENTS = WRITABLE.replace("\0", "") + "\udcff\udc9b"
FORBIDDEN = {c for c in WRITABLE if not c.isascii() or c in CONTROLS} | set(map(chr, range(0xDC80, 0xDD00)))

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="this system has no pseudo-terminals")


# The function


@pytest.mark.parametrize("category", ["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"])
def test_no_character_of_a_category_that_acts_or_hides_is_shown(category: str) -> None:
    """All of Unicode, but for the plain blank."""
    found = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) == category and c != " "]
    assert found
    shown = printable("".join(found))
    assert re.fullmatch(r"(\\u[0-9a-f]{4})+", shown)
    assert len(shown) == sum(12 if c > "\uffff" else 6 for c in found)
    assert json.loads(f'"{printable(found[-1])}"') == found[-1]


def test_fillers_joiners_variation_selectors_and_tags_are_shown_as_escapes() -> None:
    """What Unicode calls default-ignorable, and blanks that are no blanks for `isspace`."""
    ranges = [(0xFE00, 0xFE0F), (0xE0100, 0xE01EF), (0xE0000, 0xE007F), (0x180B, 0x180F), (0x17B4, 0x17B5)]
    ranges += [(0x034F, 0x034F), (0x115F, 0x1160), (0x2800, 0x2800), (0x3164, 0x3164), (0xFFA0, 0xFFA0)]
    for code in (code for first, last in ranges for code in range(first, last + 1)):
        assert printable(f"a{chr(code)}b") == "a" + json.dumps(chr(code))[1:-1] + "b"


def test_letters_signs_and_pictures_are_shown_as_they_are() -> None:
    text = "caf\u00e9 \u0434\u0430 \u4e2d\u6587 \u05e9\u05dc\u05d5\u05dd \U0001f600 {\"a\": 'b\\n'} a\u0301"
    assert printable(text) is text


def test_only_one_module_of_the_command_line_writes() -> None:
    """All others go through its functions, which let nothing through. A library's own words go there, too."""
    for path in sorted((ROOT / "hangarlog/cli").glob("*.py")):
        found = {
            ast.unparse(node.func)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and re.search(r"echo|secho|style\b|\bprint\b", ast.unparse(node.func))
        }
        assert path.name == "terminal.py" or not found, f"{path.name}: {found}"


# Every command


def sealed(body: str) -> bytes:
    raw = body.encode()
    return b'%b,"crc":"%08x"}\n' % (raw, crc32(raw))


def hand_made(position: int, recorded_at: str, **fields: object) -> bytes:
    """A line with a right checksum, of which every text is hostile."""
    line = {
        "position": position,
        "stream_id": f"a:{IN_IDS}",
        "stream_version": position - 1,
        "event_type": WRITABLE,
        "event_id": f"{WRITABLE}{position}",
        "recorded_at": recorded_at,
        "metadata": {WRITABLE: WRITABLE},
        "data": {"_version": 1, WRITABLE: WRITABLE},
        **fields,
    }
    return sealed(json.dumps(line, separators=(",", ":"), ensure_ascii=False)[:-1])


TIME = "2026-01-01T00:00:00.000000Z"


def make_store(path: Path, lines: list[bytes]) -> Path:
    """A store of these lines, whose every small file and name is hostile."""
    with FileEventStore(path, durability="relaxed") as store:
        log = store.folder.stream(f"a:{IN_IDS}")
    text = b"".join(lines)
    os.makedirs(log.folder)
    for file in (path / "journal.jsonl", Path(log.active_path)):
        file.write_bytes(text)
    meta = json.loads((path / "hangarlog.json").read_text())
    (path / "hangarlog.json").write_text(json.dumps({**meta, "created_at": WRITABLE, WRITABLE: WRITABLE}))
    for folder in (path, path / "streams", path / "streams/a", path / "snapshots/a"):
        folder.mkdir(exist_ok=True, parents=True)
        for suffix in ("", ".jsonl", ".json", ".index"):
            (folder / f"{IN_NAMES}{suffix}").write_bytes(b'{"x":"\x1b[2J"}')
    (path / "snapshots/a/1.json").write_bytes(sealed(json.dumps({"stream_id": WRITABLE, "state": {}})[:-1]))
    (path / "state").unlink(missing_ok=True)
    (path / "catalog").unlink(missing_ok=True)
    return path


DRIVER = """
import contextlib, json, os, pty, sys
from importlib import import_module
from hangarlog.cli import app, main

for name in app._MODULES.values():
    import_module(f"hangarlog.cli.{name}")

LETTERS = os.environ.get("PYTHONIOENCODING", "utf-8")

def shown_by(words):
    child, master = pty.fork()
    if not child:
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", encoding=LETTERS), open(2, "w")
        sys.argv[1:] = words
        try:
            main.main()
        except SystemExit as leaving:
            sys.stdout.flush()
            os._exit(leaving.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(99)
    shown = b""
    with contextlib.suppress(OSError):  # What a terminal says when nobody has it open any more.
        while more := os.read(master, 65536):
            shown += more
    os.close(master)
    return shown.decode("latin-1"), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

json.dump(list(map(shown_by, json.load(sys.stdin))), sys.stdout)
"""


def shown_by(folder: Path, commands: list[list[str]], **more: str) -> list[str]:
    """What each command shows on a terminal, less what colours and a progress bar need."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "TERM": "dumb", **more}
    words = json.dumps(commands).encode()
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=words, cwd=folder, capture_output=True, env=environment, check=True
    )
    texts = []
    for command, (shown, code) in zip(commands, json.loads(done.stdout), strict=True):
        text = shown.encode("latin-1").decode("utf-8", "surrogateescape")
        text = re.sub(r"\x1b\[\?25[lh]|\x1b\[[0-9;]*[Km]", "", text)
        assert code in (0, 1, 2, 3), (command, code, text[-1500:])
        texts.append(text)
    return texts


def assert_harmless(text: str, name: str = "") -> None:
    acting = set(text) & FORBIDDEN
    assert not acting, f"{name}: {sorted(map(hex, map(ord, acting)))} reach the terminal: {text[:800]!r}"


COMMANDS = {
    "read": ["read", "{s}"],
    "read raw": ["read", "{s}", "--raw"],
    "read a stream": ["read", "{s}", f"a:{IN_IDS}"],
    "read backwards": ["read", "{s}", "--reverse", "--skip-damaged"],
    "read no stream": ["read", "{s}", f"none:{IN_IDS}"],
    "read a bad id": ["read", "{s}", IN_ARGUMENTS],
    "read by type": ["read", "{s}", "--type", IN_ARGUMENTS, "--category", IN_ARGUMENTS],
    "read indented": ["read", "{s}", "--pretty"],
    "read whole": ["read", "{s}", "--full"],
    "read since no time": ["read", "{s}", "--since", IN_ARGUMENTS],
    "read no category": ["read", "{s}", "a"],
    "tail": ["tail", "{s}"],
    "tail raw": ["tail", "{s}", "--raw"],
    "streams": ["streams", "{s}"],
    "streams long": ["streams", "{s}", "-l", "--path"],
    "stats": ["stats", "{s}"],
    "stats drawn": ["stats", "{s}", "--plot"],
    "stats on a page": ["stats", "{s}", "--html", "{new}.html"],
    "stats on a shown page": ["stats", "{s}", "--html", "-"],
    "metrics": ["metrics", "{s}"],
    "verify": ["verify", "{s}"],
    "verify read-only": ["verify", "{s}", "--read-only"],
    "repair": ["repair", "{s}"],
    "backup": ["backup", "{s}", "{new}"],
    "backup to something": ["backup", "{s}", "{odd}"],
    "bench no folder": ["bench", "{odd}"],
    "bench a bad payload": ["bench", "{s}", "--payload", "{odd}"],
    "export": ["export", "{s}", "{new}.jsonl"],
    "export shown": ["export", "{s}", "-"],
    "export shown as CloudEvents": ["export", "{s}", "-", "--format", "cloudevents"],
    "export a database": ["export", "{s}", "{new}.db"],
    "export to something": ["export", "{s}", "{odd}"],
    "export to what is there": ["export", "{s}", "{odd}", "--format", "jsonl"],
    "import": ["import", "{s}", "{source}"],
    "import nothing": ["import", "{s}", "{new}"],
    "import no lines": ["import", "{s}", "{odd}", "--format", "jsonl"],
    "import lines": ["import", "{s}", "{lines}", "--format", "jsonl"],
    "append": ["append", "{s}", f"a:{IN_IDS}", "--type", "T", "--expected-version", "77"],
    "append to a bad id": ["append", "{s}", IN_ARGUMENTS, "--type", "T"],
    "append bad data": ["append", "{s}", "a:1", "--type", "T", "--data", f'{{"{IN_ARGUMENTS}'],
    "append a key twice": [
        "append",
        "{s}",
        "a:1",
        "--type",
        "T",
        "--data",
        f'{{"\u202e{IN_IDS}":1,"\u202e{IN_IDS}":2}}',
    ],
    "append a version": ["append", "{s}", "a:1", "--type", "T", "--expected-version", IN_ARGUMENTS],
    "schema show": ["schema", "show", "{s}"],
    "schema show as JSON": ["schema", "show", "{s}", "--format", "json"],
    "schema check": ["schema", "check", "{s}", "--events", "events", "--lock", "{lock}"],
    "schema check without a lock": ["schema", "check", "{s}", "--events", "events", "--lock", "{new}"],
    "schema check of no module": ["schema", "check", "--events", IN_ARGUMENTS, "--lock", "{lock}"],
    "schema check of a bad lock": ["schema", "check", "--events", "events", "--lock", "{odd}"],
    "schema lock": ["schema", "lock", "{s}", "--events", "events", "--lock", "{lock}"],
    "demo": ["demo", "{new}", "--source", "{source}"],
    "no store": ["verify", "{odd}"],
    "no folder": ["stats", "{new}"],
    "no command": [IN_ARGUMENTS],
    "no option": ["read", "{s}", f"--{IN_ARGUMENTS}"],
    "no number": ["read", "{s}", "--from", IN_ARGUMENTS],
    "no format": ["export", "{s}", "{new}", "--format", IN_ARGUMENTS],
    "too many": ["stats", "{s}", IN_ARGUMENTS],
}


def lines_of_a_stranger() -> list[bytes]:
    """Two whole ones, one whose time is none, one with a key twice, and a whole one at the end."""
    twice = hand_made(4, TIME, data={WRITABLE: 1, "x": 1, "y": 2})[:-18].replace(b'"y":', b'"x":') + b"}"
    return [
        hand_made(1, TIME),
        hand_made(2, TIME),
        hand_made(3, WRITABLE),
        sealed(twice[:-1].decode()),
        hand_made(5, TIME),
    ]


def make_places(tmp_path: Path) -> dict[str, Path]:
    """A database to import, a schema lock, an application, and a file that is none of these."""
    places = {key: tmp_path / f"{key}{IN_NAMES}" for key in ("new", "odd", "source", "lock", "lines")}
    places["odd"].write_text(IN_IDS)
    places["lines"].write_bytes(hand_made(1, TIME, data={"_version": WRITABLE}))
    with contextlib.closing(sqlite3.connect(os.fsencode(places["source"]))) as database:
        database.executescript(
            "CREATE TABLE events (global_position INTEGER PRIMARY KEY, stream_id, stream_version, event_type, data,"
            "metadata, created_at); CREATE TABLE streams (stream_id, version, created_at, updated_at)"
        )
        database.execute("INSERT INTO streams VALUES (?, 5, '', '')", (f"gone:{IN_IDS}",))
        database.execute("INSERT INTO events VALUES (1, ?, 0, 'T', '{', NULL, ?)", (f"a:{IN_IDS}", WRITABLE))
        database.commit()
    (tmp_path / "events.py").write_text(
        "import msgspec\nfrom hangarlog import EventSerializer, event\n@event(name='E')\nclass E(msgspec.Struct):\n"
        "    n: int\nserializer = EventSerializer(unknown='untyped')\n"
    )
    field = {"type": "object", "properties": {WRITABLE: {"type": WRITABLE}}, "required": [WRITABLE]}
    locked = {kind: {"version": 1, "schemas": {"1": field}} for kind in ("E", WRITABLE)}
    places["lock"].write_text(json.dumps({"format": 1, "events": locked, WRITABLE: WRITABLE}))
    return places


def placed(word: str, places: dict[str, Path]) -> str:
    return re.sub(r"^\{(\w+)\}", lambda found: str(places[found[1]]), word)


def test_nothing_that_acts_on_a_terminal_comes_out_of_any_command(tmp_path: Path) -> None:
    """Whatever the store, its names, a source, a lock and the arguments hold."""
    bad = make_store(tmp_path / "bad", lines_of_a_stranger())
    whole = make_store(tmp_path / "whole", lines_of_a_stranger()[:2])
    places = make_places(tmp_path)
    names, commands = [], []
    for name, words in COMMANDS.items():
        for store in (whole, bad):
            path = tmp_path / f"{len(names)}{IN_NAMES}"
            shutil.copytree(store, path)
            names.append(f"{name}, {store.name}")
            here = {**places, "s": path, "new": tmp_path / f"new{len(names)}{IN_NAMES}"}
            commands.append([placed(word, here) for word in words])
    for name, text in zip(names, shown_by(tmp_path, commands), strict=True):
        assert_harmless(text, name)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_shows_nothing_that_acts_on_a_terminal(tmp_path: Path, shell: str) -> None:
    """Where a store, its streams, folders and arguments are hostile."""
    make_store(tmp_path / f"s{IN_NAMES}", lines_of_a_stranger())
    make_store(tmp_path / "s", lines_of_a_stranger())
    for words in (
        [""],
        ["read", ""],
        [f"{IN_ARGUMENTS}"],
        ["read", "s", ""],
        ["read", "s", "a:"],
        ["read", "s", "--type", ""],
        ["read", "s", f"--{IN_IDS}"],
        ["export", "--format", IN_IDS],
    ):
        arguments = [" ".join(["hangarlog", *words]), ":="] if shell == "bash" else ["hangarlog", *words]
        done = subprocess.run(
            [sys.executable, "-m", "hangarlog", *arguments],
            cwd=tmp_path,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "_HANGARLOG_COMPLETE": f"{shell}_complete"},
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert_harmless(done.stdout.decode("utf-8", "surrogateescape"), str(words))
        assert words != [""] or b"verify" in done.stdout


def test_an_error_that_nobody_foresaw_shows_nothing_that_acts_on_a_terminal(tmp_path: Path) -> None:
    """In the main thread, in another one, and in a finalizer; piped, too."""
    program = f"""
import sys, threading
from hangarlog.cli import main

class Odd:
    def __del__(self):
        raise ValueError("finalizer " + {IN_IDS!r} + "\\x1b[2J")

def fail(where):
    raise ValueError(where + {IN_IDS!r} + "\\x1b[2J")

def commands(**options):
    thread = threading.Thread(target=fail, args=["thread "])
    thread.start()
    thread.join()
    Odd()
    fail("main ")

main.hangarlog.main = commands
main.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    text = done.stderr.decode("utf-8", "surrogateescape")
    assert_harmless(text)
    for where in ("main ", "thread ", "finalizer "):
        assert f"ValueError: {where}" in text


def run(*words: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "hangarlog", *map(str, words)]
    return subprocess.run(command, capture_output=True, env=environment, check=False)


def test_warnings_and_errors_are_harmless_in_a_pipe_too(tmp_path: Path) -> None:
    """And the lines for programs there are the stored bytes."""
    lines = lines_of_a_stranger()
    done = run("read", make_store(tmp_path / f"s{IN_NAMES}", lines), "--skip-damaged")
    assert done.stdout == lines[0] + lines[1] + lines[4]
    assert done.stderr.count(b"passed over") == 2
    assert_harmless(done.stderr.decode("utf-8", "surrogateescape"))


def test_a_terminal_of_few_letters_gets_escapes_for_the_others(tmp_path: Path) -> None:
    """Eight-bit terminals act on bytes from 0x80 on, of which the UTF-8 form of letters has many."""
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("T", {"x": "\u00db\u4e2d"})], -1)
    commands = [["read", "s"], ["read", "s", "--raw"], ["export", "s", "-"]]
    for text in shown_by(tmp_path, commands, PYTHONIOENCODING="latin-1", PYTHONUTF8="0"):
        assert "\udcdb\\u4e2d" in text  # One byte, that of the letter.


def test_a_file_name_that_is_no_text_is_told_in_a_pipe(tmp_path: Path) -> None:
    """JSON has no form for it but Python's."""
    path = tmp_path / "s\udcff"
    with FileEventStore(path, durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("T", {})], -1)
    for words in (["backup", path, tmp_path / "b\udcff"], ["export", path, tmp_path / "e\udcff.db"]):
        done = run(*words)
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout)["target"] == str(words[2])
    with open(path / "journal.jsonl", "ab") as file:
        file.write(b"x\n")
    done = run("verify", path, "--read-only")
    assert (done.returncode, done.stderr) == (1, b"")
    assert json.loads(done.stdout.splitlines()[0])["path"] == str(path / "journal.jsonl")
