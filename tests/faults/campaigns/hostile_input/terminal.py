"""What the command line shows on a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import sqlite3
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

from hangarlog import ANY, UntypedEvent

from .databases import SCHEMA
from .part import GUARD, Part

CONTROLS = "\x00\x01\x07\x08\x1b\x7f\x80\x85\x9b\x9d\x9f"
CONTROLS += "\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\U000e0041"
CONTROLS += "\u034f\u115f\u1160\u2800\u3164\uffa0\ufe0f\U000e01ef\u00ad\u180e\ue000\u0378\u00a0\U000e0001"


def terminal(part: Part) -> None:
    """What people see holds no character that acts on their terminal, whatever was stored and whatever goes wrong."""
    controls = CONTROLS
    names = "".join(c for c in controls if unicodedata.category(c) != "Cc")
    shown_name = f"x{names}\x1b]0;title\x07"
    with part.store(segment_bytes=10_000) as store:
        data = {controls: controls + "\x1b]8;;http://x\x07", "plain": "\r\b\v\f"}
        event = UntypedEvent(controls, data, event_id=controls)
        store.append(f"a:{names}", [event], ANY, metadata={controls: controls})
        store.append(names, [event], ANY)
    damaged = part.folder / shown_name
    shutil.copytree(part.path, damaged)
    journal = damaged / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"plain"', b'"pl\x1bin"'))
    odd = part.fence / "odd"
    odd.mkdir()
    (odd / shown_name).touch()
    source = part.folder / f"{shown_name}.db"
    with contextlib.closing(sqlite3.connect(source)) as database:
        database.executescript(SCHEMA)
        database.execute("INSERT INTO streams VALUES (?, 5, '', '')", (f"gone:{controls}",))
        database.execute("INSERT INTO events VALUES (1, ?, 0, 'T', '{', NULL, ?)", (controls, controls))
        database.commit()
    for words in commands(part, names, damaged, odd, source):
        with part.case(f"terminal: {words[0]} {[str(word)[-20:] for word in words[1:]]}"):
            code, shown = on_a_terminal(words)
            assert code in (0, 1, 2), f"it ended with {code}"
            # The progress bar may return to the line's start and hide the cursor; nobody else's characters may.
            text = re.sub(r"\x1b\[\?25[lh]|\x1b\[[0-9;]*[Km]", "", shown.decode("utf-8", "surrogateescape"))
            acting = set(text) & set(controls)
            assert not acting, f"{sorted(map(hex, map(ord, acting)))} reach the terminal: {text[:600]!r}"
            assert "Traceback" not in text, text[-600:]
            part.figures["terminal commands"] += 1


def commands(part: Part, names: str, damaged: Path, odd: Path, source: Path) -> list[list[Any]]:
    """All there are, on the store, a damaged one, a folder that is none; with names that act on terminals."""
    controls, shown_name = CONTROLS, damaged.name
    stream = f"a:{names}"
    # fmt: off
    return [
        *(
            ["read", part.path], ["read", part.path, "--raw"], ["read", part.path, stream, "--reverse"],
            ["tail", part.path],
        ),
        *(["tail", part.path, "--raw"], ["streams", part.path], ["streams", part.path, "-l"], ["stats", part.path]),
        *(
            ["verify", part.path], ["verify", damaged], ["read", damaged], ["stats", damaged], ["tail", damaged],
            ["streams", damaged],
        ),
        *(
            ["read", part.path, f"gone:{names}"], ["read", part.path, controls[1:]], ["read", odd],
            ["append", odd, "a", "--type", "T"],
        ),
        *(
            ["append", part.path, stream, "--type", "T", "--expected-version", "7"],
            ["append", part.path, controls[1:], "--type", "T"],
        ),
        *(["append", part.path, "a:1", "--type", "T", "--data", f'{{"{controls[1:]}'], ["import", part.path, source]),
        *(["import", part.path, part.folder / shown_name], ["export", part.path, part.folder / f"{shown_name}.jsonl"]),
        *(
            ["export", part.path, source], ["export", part.path, part.folder / shown_name], [controls[1:]],
            ["read", part.path, "--" + names],
        ),
        *(
            ["read", part.path, "--type", controls[1:]], ["read", part.path, "--from", controls[1:]],
            ["verify", part.folder / shown_name],
        ),
    ]
    # fmt: on


def on_a_terminal(words: list[Any]) -> tuple[int, bytes]:
    """(exit code, what was shown) of a command whose input and output are a pseudo-terminal."""
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1", "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-m", "hangarlog", *map(str, words)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
    )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # What a terminal says when nobody has it open any more.
        while more := os.read(master, 65536):
            shown += more
    os.close(master)
    return process.wait(GUARD), shown
