"""Databases to import: of any content, and made to harm."""

from __future__ import annotations

import contextlib
import math
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hangarlog.integrations.mcp_hangar_sqlite import count_events, export_database, import_database
from hangarlog.maintenance.verify import verify

from .database_cases import clear, tries
from .part import Part

SCHEMA = """
CREATE TABLE events (
    global_position INTEGER PRIMARY KEY, stream_id, stream_version, event_type, data, metadata, created_at
);
CREATE TABLE streams (stream_id, version, created_at, updated_at);
CREATE TABLE snapshots (stream_id, version, state_data, created_at);
"""


TIME = "2026-01-01T00:00:00+00:00"
GOOD: list[Any] = [1, "a:1", 0, "T", '{"x":1}', None, TIME]


def wild_values() -> list[Any]:
    """Values of a column."""
    # fmt: off
    return [
        *(
            None, "", "x", "../../x", "\0", "a\x1b[2J", 0, -1, 1, 1.5, 2**63 - 1, -(2**63), b"", b"\xff", b"{}",
            math.inf, "\u202e",
        ),
        *(
            "{", "[]", "NaN", '{"x":NaN}', '{"x":1e999}', '{"x":"\\ud800"}', '{"a":1,"a":2}',
            '{"x":' * 2000 + "1" + "}" * 2000,
        ),
        *(
            "[" * 300_000, '{"x":' + "9" * 400 + "}", '{"event_id":1}', '{"event_id":""}', '{"_version":"x"}',
            '{"_version":-1}', "{}\n{}",
        ),
        *(
            "0000-00-00T00:00:00", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "now", "x" * 5000,
            '{"x":"' + "x" * (8 << 20) + '"}',
        ),
    ]
    # fmt: on


def sources(part: Part) -> None:
    """Databases to import that are none, or hold what no MCP Hangar wrote."""
    wild = wild_values()
    for column in range(1, 7):
        for value in wild:
            row = _put(GOOD, column, value)
            taken(part, f"column {column} is {str(value)[:40]!r}", partial(made, rows=[row]))
    for column, value in ((c, v) for c in range(4) for v in wild):
        snapshot = _put(["a:1", 0, "{}", TIME], column, value)
        taken(part, f"snapshot's {column} is {str(value)[:40]!r}", partial(made, rows=[GOOD], snapshot=snapshot))
    for value in wild:
        taken(part, f"a stream's version is {str(value)[:40]!r}", partial(made, rows=[GOOD], version=value))
    taken(part, "a gap", partial(made, rows=[GOOD, [2, "a:1", 5, "T", "{}", None, TIME]]))
    taken(part, "a version twice", partial(made, rows=[GOOD, [2, "a:1", 0, "T", "{}", None, TIME]]))
    taken(part, "text that is no UTF-8", _no_utf8)
    taken(part, "noise", lambda path: path.write_bytes(part.rng.randbytes(100_000)))
    taken(part, "a header and noise", lambda path: path.write_bytes(b"SQLite format 3\0" + part.rng.randbytes(100_000)))
    taken(part, "nothing", lambda path: path.touch())
    taken(part, "a FIFO", os.mkfifo)
    taken(part, "a folder", lambda path: path.mkdir())
    taken(part, "zeros", lambda path: path.symlink_to("/dev/zero"))
    taken(part, "a symlink to notes", lambda path: path.symlink_to(part.outside / "notes"))
    for at in range(40):
        taken(part, f"damaged {at}", lambda path: _damage(path, part.rng))
    with part.case("export does not go through a symlink"), part.store() as store:
        target = part.folder / "target.db"
        target.symlink_to(part.outside / "notes")
        with contextlib.suppress(FileExistsError):
            raise AssertionError(f"{export_database(store, str(target))} events exported")


def made(path: Path, rows: list[list[Any]], snapshot: list[Any] | None = None, version: Any = 0) -> None:
    """A database as MCP Hangar's are, with these rows."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(SCHEMA)
        database.executemany("INSERT INTO events VALUES (?,?,?,?,?,?,?)", rows)
        database.executemany("INSERT INTO streams VALUES (?,?,?,?)", [(row[1], version, TIME, TIME) for row in rows])
        if snapshot:
            database.execute("INSERT INTO snapshots VALUES (?,?,?,?)", snapshot)
        database.commit()


def taken(part: Part, name: str, make: Callable[[Path], object]) -> None:
    """A case: what `make` makes is imported into a new store, which verifies afterwards."""
    path = part.folder / "source.db"
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    make(path)
    shutil.rmtree(part.path, ignore_errors=True)
    with part.case(f"source: {name}", brings=100 << 20), part.store() as store:
        try:
            count_events(str(path))
            import_database(store, str(path))
        finally:
            list(store.records())
            assert not (damages := list(verify(store))), f"then verify finds {damages}"


def _put(row: list[Any], column: int, value: Any) -> list[Any]:
    return [value if at == column else old for at, old in enumerate(row)]


def _no_utf8(path: Path) -> None:
    made(path, [GOOD])
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE events SET stream_id = CAST(x'ff' AS TEXT)")
        database.commit()


def _damage(path: Path, rng: random.Random) -> None:
    made(path, [[n, "a:1", n, "T", '{"x":"%s"}' % ("x" * 300), None, TIME] for n in range(100)])
    content = bytearray(path.read_bytes())
    for _ in range(20):
        content[rng.randrange(100, len(content))] = rng.randrange(256)
    path.write_bytes(content)


def databases(part: Part) -> None:
    """Databases that compute what they give, or whose pages are named by many, or beside which lies what is no file."""
    path = part.folder / "source.db"
    (part.folder / "somebody's").write_text("somebody's notes\n")
    for name, make in tries(part.rng, part.size):
        clear(path)
        make(path)
        shutil.rmtree(part.path, ignore_errors=True)
        before = {each: each.read_bytes() for each in part.folder.glob("source.db*") if each.is_file()}
        with part.case(f"database: {name}"), part.store() as store:
            try:
                count_events(str(path))
                import_database(store, str(path))
            finally:
                assert {each: each.read_bytes() for each in part.folder.glob("source.db*") if each.is_file()} == before
                assert not (damages := list(verify(store))), f"then verify finds {damages}"
