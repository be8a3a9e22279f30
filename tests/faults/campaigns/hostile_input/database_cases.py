"""Databases to import of somebody who wishes ill: what they compute, what they repeat, what lies beside them."""

from __future__ import annotations

import os
import random
import socket
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

TIME = "2026-01-01T00:00:00+00:00"
EVENTS = (
    "CREATE TABLE events (global_position INTEGER PRIMARY KEY, stream_id TEXT, stream_version INTEGER, "
    "event_type TEXT, data TEXT, metadata TEXT, created_at TEXT);"
)
STREAMS = "CREATE TABLE streams (stream_id TEXT PRIMARY KEY, version INTEGER);"
SNAPSHOTS = "CREATE TABLE snapshots (stream_id TEXT, version INTEGER, state_data TEXT, created_at TEXT);"
AN_EVENT = f"INSERT INTO events VALUES (1, 'a:1', 0, 'T', '{{}}', NULL, '{TIME}');"
ALL = f"{EVENTS}{STREAMS}{SNAPSHOTS}{AN_EVENT}INSERT INTO streams VALUES ('a:1', 0);"
ALL += f"INSERT INTO snapshots VALUES ('a:1', 0, '{{}}', '{TIME}');"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
COLUMNS = "global_position, stream_id, stream_version, event_type, data, metadata, created_at"

COMPUTED = {
    "an endless view": [
        f"CREATE VIEW events AS {ENDLESS} SELECT i, 'a:1', i, 'T', '{{}}', NULL, '{TIME}' FROM n",
        STREAMS,
    ],
    "an endless view of streams": [EVENTS, f"CREATE VIEW streams AS {ENDLESS} SELECT 's' || i, i FROM n"],
    "an endless view of snapshots": [EVENTS, STREAMS, f"CREATE VIEW snapshots AS {ENDLESS} SELECT i, i, i, i FROM n"],
    "a virtual table": [f"CREATE VIRTUAL TABLE events USING fts4({COLUMNS})", STREAMS],
    "a view in capitals": [f"CREATE VIEW EVENTS AS {ENDLESS} SELECT i AS stream_id FROM n", STREAMS],
}
"""Statements that make what is no ordinary table."""

Make = Callable[[Path], object]


def made(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.executescript(statement)
    return path


# Files


PAGE = 4096


def page(path: Path, number: int) -> bytes:
    return path.read_bytes()[PAGE * (number - 1) : PAGE * number]


def put(path: Path, number: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(PAGE * (number - 1))
        file.write(content)


def root(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as database:
        (number,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return int(number)


def grow(path: Path, table: str, levels: int, count: int = 300) -> None:
    """Put `levels` pages above a table's, each of which names the one below it `count` times."""
    top = root(path, table)
    leaf = page(path, top)
    numbers = [path.stat().st_size // PAGE + 1 + level for level in range(levels)]
    put(path, numbers[0], leaf)
    for above, below in zip([*numbers[1:], top], numbers, strict=True):
        content = PAGE - 5 * count
        header = struct.pack(">BHHHBI", 5, 0, count, content, 0, below)
        pointers = b"".join(struct.pack(">H", content + 5 * at) for at in range(count))
        cells = (struct.pack(">I", below) + b"\x01") * count
        put(path, above, (header + pointers).ljust(content, b"\0") + cells)
    put(path, 1, page(path, 1)[:28] + struct.pack(">I", path.stat().st_size // PAGE) + page(path, 1)[32:])


def bind(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # Names of sockets must be short.
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(here)


KINDS: dict[str, Make] = {
    "a folder": lambda path: path.mkdir(),
    "a FIFO": os.mkfifo,
    "a socket": bind,
    "a symbolic link": lambda path: path.symlink_to(path.parent / "somebody's"),
}
SIDES = ("-wal", "-shm", "-journal")


def clear(path: Path) -> None:
    """Take a database away, with what is beside it."""
    for suffix in ("", *SIDES):
        there = path.with_name(path.name + suffix)
        if there.is_dir():
            there.rmdir()
        else:
            there.unlink(missing_ok=True)


# Cases


def _grown(levels: int, count: int, table: str, path: Path) -> None:
    made(path, ALL)
    grow(path, table, levels, count)


def _beside(kind: str, suffix: str, path: Path) -> None:
    made(path, ALL)
    KINDS[kind](path.with_name(path.name + suffix))


def _with_noise(seed: int, suffix: str, path: Path) -> None:
    """A side file that SQLite did not write, or one that another database had."""
    rng = random.Random(seed)
    made(path, rng.choice(("", "PRAGMA journal_mode = WAL;")), ALL)
    other = path.with_name("other.db")
    with closing(sqlite3.connect(other)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(ALL)
        contents = [path.with_name(other.name + name).read_bytes() for name in ("-wal", "-shm")]
    clear(other)
    noise = bytearray(rng.choice([*contents, rng.randbytes(rng.choice((1, 32, 5000, 40_000))), b""]))
    for _ in range(rng.choice((0, 3, 30)) if noise else 0):
        noise[rng.randrange(len(noise))] = rng.randrange(256)
    path.with_name(path.name + suffix).write_bytes(noise)


def _with_pages_in_place_of_others(seed: int, path: Path) -> None:
    rng = random.Random(seed)
    text = "x" * rng.choice((1, 300, 20_000))
    rows = [f"({n}, 'a:{n % 3}', {n // 3}, 'T', '{{\"x\":\"{text}\"}}', NULL, '{TIME}')" for n in range(2, 60)]
    made(path, ALL, f"INSERT INTO events VALUES {','.join(rows)}")
    pages = path.stat().st_size // PAGE
    for _ in range(rng.choice((1, 2, 5))):
        number = rng.randrange(2, pages + 1)
        kind = rng.randrange(3)
        content = bytearray(page(path, rng.randrange(2, pages + 1) if kind == 0 else number))
        if kind == 1:  # Where the next page of a long value, or the last child, is named.
            at = rng.choice((0, 8))
            content[at : at + 4] = struct.pack(">I", rng.randrange(pages + 2))
        elif kind == 2:
            for _ in range(rng.choice((1, 5, 50))):
                content[rng.randrange(PAGE)] = rng.randrange(256)
        put(path, number, content)


def tries(rng: random.Random, count: int) -> Iterator[tuple[str, Make]]:
    """(name, what makes it): all that were thought of, then `count` that are made by chance."""
    for name, statements in COMPUTED.items():
        yield name, partial(lambda statements, path: made(path, *statements), statements)
    for how in ("VIRTUAL", "STORED"):
        computed = EVENTS.replace("data TEXT", f"data TEXT AS (hex(zeroblob(100000000))) {how}")
        yield f"a {how} column", partial(lambda computed, path: made(path, computed, STREAMS), computed)
    for table in ("events", "streams", "snapshots", "sqlite_autoindex_streams_1"):
        for levels, fanout in ((1, 2), (1, 300), (3, 300), (6, 300), (18, 300), (30, 300)):
            yield f"{table} in {levels} levels of {fanout}", partial(_grown, levels, fanout, table)
    for kind in KINDS:
        yield kind, KINDS[kind]
        for suffix in SIDES:
            yield f"{kind} as {suffix}", partial(_beside, kind, suffix)
    for number in range(count):
        seed = rng.getrandbits(32)
        if number % 4 == 0:
            yield f"noise {seed}", partial(_with_noise, seed, rng.choice(SIDES))
        else:
            yield f"pages {seed}", partial(_with_pages_in_place_of_others, seed)
