"""Hostile input: ids, payloads, lines, files and databases of somebody who wishes the store ill.

Each part runs in a process of its own (`python -m … PART FOLDER SIZE SEED`), which tells every case before
it begins, watches its own memory, and ends with the stacks if a case hangs. A fence of files around the store is
compared before and after every case.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import math
import os
import random
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from hangarlog import ANY, EventSerializer, FileEventStore, HangarlogError, StreamIdError, UntypedEvent
from hangarlog.integrations.export import journal_lines
from hangarlog.integrations.mcp_hangar_sqlite import count_events, export_database, import_database
from hangarlog.maintenance.verify import verify, verify_folder
from hangarlog.testing import Unsynced

from .co_users import co_users
from .harness import Campaign, Figures
from .hostile_sizes import counts, sizes

GUARD = 60.0
"""Seconds after which a case hangs."""
MEMORY = 300 << 20
"""Bytes that no case may need beyond what there was before, but for those that say how much they bring."""
REFUSALS = (HangarlogError, ValueError, TypeError)

# What a part runs in


class Part:
    """The cases of one part: each on a store within a fence; what a case may not do is written down."""

    def __init__(self, folder: Path, size: int, seed: int) -> None:
        self.folder, self.size, self.rng = folder, size, random.Random(seed)
        self.fence = folder / "fence"
        self.path = self.fence / "store"
        self.outside = self.fence / "outside"
        self.outside.mkdir(parents=True)
        self.figures: Counter[str] = Counter()
        with opened(self.outside / "other") as other:
            other.append("shared:1", [UntypedEvent("T", {}, event_id="outside")], ANY)
        (self.outside / "notes").write_text("somebody's notes\n")
        (self.outside / "empty").touch()
        (self.fence / "etc").mkdir()
        (self.fence / "etc/passwd").write_text("root\n")
        (self.fence / "1.jsonl").write_text("not ours\n")

    def around(self) -> dict[str, str]:
        """Everything in the fence but the store: kinds, modes, contents."""
        found = {}
        for path in sorted(self.fence.rglob("*")):
            if path != self.path and not path.is_relative_to(self.path):
                state = path.lstat()
                content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(state.st_mode) else ""
                found[str(path.relative_to(self.fence))] = f"{state.st_mode:o} {state.st_size} {content}"
        return found

    @contextlib.contextmanager
    def case(self, name: str, *, brings: int = 0, refusable: bool = True) -> Iterator[None]:
        """One case. What comes out of it must be an error of the library's, if anything."""
        name = name.encode("ascii", "backslashreplace").decode()
        say("case", name[:300])
        faulthandler.dump_traceback_later(GUARD, exit=True)
        before, memory = self.around(), most_memory()
        self.figures["cases"] += 1
        try:
            yield
        except REFUSALS as error:
            self.figures["refused"] += 1
            if not refusable:
                say("broken", f"{name}: {error!r} at {where(error)}"[:1500])
        except AssertionError as error:
            say("broken", f"{name}: {error}"[:1500])
        except BaseException as error:
            say("broken", f"{name}: {type(error).__name__}: {str(error)[:300]} at {where(error)}")
        if (after := self.around()) != before:
            say("broken", f"{name}: written outside the store: {sorted(dict(after.items() ^ before.items()))}")
        if (more := most_memory() - memory) > MEMORY + brings:
            say("broken", f"{name}: takes {more >> 20} MiB of memory")
        faulthandler.cancel_dump_traceback_later()

    def states(self) -> tuple[bool, ...]:
        """Whether the shared state is lost: in a large run both, in a small one by turns."""
        return (False, True) if self.size >= 1000 else (self.rng.random() < 0.5,)

    def store(self, **options: Any) -> FileEventStore:
        return opened(self.path, **options)

    def made_anew(self, base: Path, *, lost: bool) -> None:
        """A copy of the base, with a shared state that is its own and valid, or with none."""
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(base, self.path, symlinks=True)
        (self.path / "state").unlink()
        if not lost:
            self.store().close()


def say(word: str, text: str) -> None:
    print(word, text.replace("\n", " ").encode("ascii", "backslashreplace").decode(), flush=True)


def where(error: BaseException) -> str:
    trace, place = error.__traceback__, ""
    while trace:
        path = trace.tb_frame.f_code.co_filename
        if "/hangarlog/" in path:
            place = f"{os.path.basename(path)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def most_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def opened(path: Path, **options: Any) -> FileEventStore:
    options = {"durability": "relaxed", "filesystem": Unsynced(), **options}
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), **options)


def sealed(body: str | bytes) -> bytes:
    """A line or a small file with the checksum that belongs to it: it is not by accident that it is as it is."""
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    return b'%b,"crc":"%08x"}' % (raw, crc32(raw))


def use(part: Part, *, ids: bool = True) -> None:
    """Whatever a store can be asked for. The first refusal of each call is noted, and the next call made."""

    def step(call: Callable[[], object]) -> None:
        try:
            call()
        except REFUSALS:
            part.figures["refusals"] += 1

    try:
        store = part.store()
    except REFUSALS:
        part.figures["refusals"] += 1
        return
    found: list[str] = []
    with store:
        step(lambda: found.extend(record.event_id for record in store.records()))
        step(lambda: found.extend(record.event_id for record in store.records(reverse=True)))
        for stream_id in ("a:1", "b:1", "plain"):
            step(lambda: found.extend(r.event_id for r in store.records(stream_id)))  # noqa: B023 - called at once
            step(lambda: found.extend(r.event_id for r in store.records(stream_id, reverse=True)))  # noqa: B023
            step(lambda: store.load_snapshot(stream_id))  # noqa: B023
            step(lambda: store.append(stream_id, [UntypedEvent("T", {})], ANY))  # noqa: B023
        step(lambda: store.list_streams())
        step(lambda: store.save_snapshot("a:1", 1, {"n": 1}))
        step(lambda: store.compact_stream("a:1"))
        for _ in range(4):  # Over a roll.
            event = UntypedEvent("T", {"text": "x" * 20_000})
            step(lambda: store.append_many([(s, [event], ANY) for s in ("a:1", "b:1")]))  # noqa: B023
        step(lambda: store.sync())
        step(lambda: list(verify(store)))
    assert not ids or "outside" not in found, "an event of a file outside was read"


def make_base(path: Path) -> None:
    """A store with everything: sealed segments, indexes, a snapshot, a compacted stream, a checkpoint."""
    with opened(path, segment_bytes=70_000) as store:
        for _ in range(5):
            events = [UntypedEvent("T", {"text": "x" * 2000}) for _ in range(12)]
            store.append_many([("a:1", events, ANY), ("plain", events[:6], ANY)])
        store.append("b:1", [UntypedEvent("T", {})], ANY)
        store.save_snapshot("a:1", 30, {"n": 1})
        store.save_snapshot("b:1", 0, {"n": 1})
        store.compact_stream("a:1")


# Stream ids

# fmt: off
BY_HAND = [
    *(
        "..", ".", "../x", "../../etc/passwd", "a/../../x", "a:../x", "..:x", "x:..", "a/..", "..\\x", "a\\..\\b", "/",
        "\\",
    ),
    *(
        "/etc/passwd", "\\\\server\\share", "C:\\x", "c:/x", "C:x", "file:///etc/passwd", "//x", "~", "~root", "~/x",
        "$x", "$",
    ),
    *(
        "%2e%2e", "%2e%2e%2fx", "%2E", "%", "%%", "%00", "%zz", "a%2Fb", "a:%2e%2e", "..%2f", "%252e", "&#46;",
        "\u2025", "\uff0e\uff0e",
    ),
    *(
        "", " ", "\t", "\n", "\r\n", "a\nb", "a\rb", "a\0b", "\0", "\x7f", "\x1b[2J", "\x80", "\x9b31m", "\u2028",
        "\u2029", "\u0085",
    ),
    *(
        "\ud800", "a\udfffb", "\udc80", "\ud83d\ude00", "\U0001f600", "\U0010ffff", "\ufeff", "\ufffe", "\uffff",
        "\u200b", "\u00ad",
    ),
    *(
        "\u202egnp", "\u2066x", "\u0645", "a\u0301", "\u00e1", "\u212b", "\u00c5", "A\u030a", "\ufb01", "fi", "\u017f",
        "s", "\u0130", "i", "I", "\u0131",
    ),
    *(
        "con", "CON", "prn", "aux", "nul", "NUL", "com1", "com9", "lpt1", "con.txt", "con:con", "a:con", "conin$",
        "clock$", "com\u00b9",
    ),
    *(
        "a", "A", "a.", "a..", "a ", " a", "a. ", ".a", "a:b", "A:b", "a:B", "a:b:c", "a:b:", ":", ":a", "a:", "::",
        "a::b", "a: ", " :a", "a:.", "a:b.",
    ),
    *(
        "journal", "journal.jsonl", "state", "locks", "streams", "snapshots", "hangarlog.json", "checkpoint.json",
        "ring", ".hangarlog",
    ),
    *(
        "journal.00000000000000000001", "a:1.00000000000000000000", "1.jsonl", "x.jsonl.new", "x.new", "x.index",
        "streams:x", "locks:write",
    ),
    *(
        "a:1.jsonl", "a:1.00000000000000000000.jsonl", "snapshots:a", "write.lock", "locks/write.lock", "..:..", "a~b",
        "~" + "0" * 64,
    ),
    *(
        "-rf", "--help", "-", "*", "?", "[a]", "{a,b}", "`id`", "$(id)", ";id", "|id", "&", "'", '"', "a'b\"c", "<x>",
        "${jndi:x}", "%s%n", "{0}",
    ),
    *("a" * n for n in (120, 121, 199, 200, 201, 255, 256, 1023, 1024, 1025, 100_000)),
    *("A" * n for n in (66, 67, 120, 341, 1024)),
    *("\u00e9" * n for n in (33, 34, 200, 512, 513)),
    *(f"{'c' * n}:{'d' * n}" for n in (100, 200, 201, 511, 512)),
    *(
        "a/" * 300, "a:" * 300, "x" * 119 + "%", "x" * 118 + "\u00e9" * 60, ("y" * 300) + "1", ("y" * 300) + "2",
        "1e400", "0", "-1", "NaN", "null",
    ),
]
# fmt: on


def ids(part: Part) -> None:
    """Each is refused with its reason or is a stream like any other, and no two are the same one."""
    alphabet = "aA.:/\\%~ _-$\0\n\x1b\x7f\x85\u0301\u00e9\u202e\u2028\ud800\U0001f600cCoOnN0"
    tried = list(dict.fromkeys(BY_HAND))
    while len(tried) < part.size:
        kind = part.rng.randrange(3)
        if kind == 0:
            made = "".join(part.rng.choices(alphabet, k=part.rng.choice((1, 2, 3, 8, 30, 210, 700))))
        elif kind == 1:
            made = "".join(chr(part.rng.randrange(0x110000)) for _ in range(part.rng.choice((1, 2, 5, 90))))
        else:  # Neighbours of others: another case, another normal form, something at an end.
            old = part.rng.choice(tried)
            form = part.rng.choice(("NFC", "NFD", "NFKC", "NFKD"))
            made = part.rng.choice((old.swapcase(), unicodedata.normalize(form, old), old + ".", old + " ", "a:" + old))
        tried.append(made)
    tried = list(dict.fromkeys(tried))
    accepted: dict[str, str] = {}
    store = part.store()
    for number, stream_id in enumerate(tried):
        with part.case(f"id {stream_id[:80]!r}"):
            event = UntypedEvent("T", {"id": number}, event_id=f"e{number}")
            try:
                assert store.append(stream_id, [event], -1) == 0
                accepted[stream_id] = event.event_id
            except StreamIdError as error:
                str(error).encode()
                part.figures["ids refused"] += 1
                for ask in (store.read_stream, store.get_stream_version, store.load_snapshot, store.compact_stream):
                    assert refuses(ask, stream_id), f"{ask.__name__} takes it"
            store.list_streams(stream_id)
    for stream_id in list(accepted)[:: max(1, len(accepted) // 100)]:
        with part.case(f"snapshot of {stream_id[:80]!r}"):
            store.save_snapshot(stream_id, 0, {"of": stream_id})
    store.close()
    for recovered in (False, True):
        with part.case(f"all ids again, recovered: {recovered}"):
            if recovered:
                (part.path / "state").unlink()
            with part.store() as store:
                assert store.list_streams() == sorted(accepted)
                for stream_id, event_id in accepted.items():
                    assert [record.event_id for record in store.records(stream_id)] == [event_id], stream_id
                assert list(verify(store)) == []
    for path in part.path.rglob("*"):
        assert re.fullmatch(r"[a-z0-9_.%A-F~-]+", path.name), path
    part.figures["ids"] = len(tried)


def refuses(ask: Callable[[str], object], stream_id: str) -> bool:
    try:
        ask(stream_id)
    except StreamIdError:
        return True
    return False


# Files that are not what they were


def swaps(part: Part) -> None:
    """Every file and folder of a store is put in place of by what it should not be."""
    base = part.folder / "base"
    make_base(base)
    names = sorted(str(path.relative_to(base)) for path in base.rglob("*"))
    other = part.outside / "other"

    def same_of_another(name: str) -> Path:
        return other / name if (other / name).exists() else other / "journal.jsonl"

    kinds: dict[str, Callable[[Path, str], object]] = {
        "symlink to another store's": lambda path, name: path.symlink_to(same_of_another(name)),
        "symlink to its own content outside": lambda path, name: path.symlink_to(copied(part, base / name)),
        "symlink to notes": lambda path, name: path.symlink_to(part.outside / "notes"),
        "symlink to nowhere": lambda path, name: path.symlink_to(part.outside / "nothing"),
        "symlink to a folder": lambda path, name: path.symlink_to(part.outside),
        "symlink to itself": lambda path, name: path.symlink_to(path),
        "symlink to zeros": lambda path, name: path.symlink_to("/dev/zero"),
        "FIFO": lambda path, name: os.mkfifo(path),
        "socket": lambda path, name: bound(path),
        "folder": lambda path, name: path.mkdir(),
        "folder that is not empty": lambda path, name: (path.mkdir(), (path / "x").touch()),
        "empty file": lambda path, name: path.touch(),
        "notes": lambda path, name: path.write_text("somebody's notes\n"),
        "hard link to its own content outside": lambda path, name: hard_linked(path, copied(part, base / name)),
        "hard link to notes": lambda path, name: path.hardlink_to(part.outside / "notes"),
        "hard link to an empty file": lambda path, name: path.hardlink_to(part.outside / "empty"),
        "nothing": lambda path, name: None,
    }
    for name in names:
        for kind, put in kinds.items():
            for lost in part.states():
                part.made_anew(base, lost=lost)
                path = part.path / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                put(path, name)
                with part.case(f"{name}: {kind}{', state lost' if lost else ''}"):
                    use(part)
                shutil.rmtree(part.outside / "copy", ignore_errors=True)


def copied(part: Part, source: Path) -> Path:
    target = part.outside / "copy" / "it"
    target.parent.mkdir(exist_ok=True)
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return target


def hard_linked(path: Path, target: Path) -> None:
    """A second name for `target`; for a folder, one with second names for what is in it."""
    shutil.copytree(target, path, copy_function=os.link) if target.is_dir() else path.hardlink_to(target)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(path.parent)  # Names of sockets must be short.
        one.bind(path.name)
        os.chdir(here)


def foreign(part: Part) -> None:
    """Files of others in the store's folders: no event comes or goes, and they stay as they are."""
    base = part.folder / "base"
    make_base(base)
    # fmt: off
    names = [
        *(b".hidden", b".1.jsonl.swp", b"1.jsonl~", b"4913", b"A.jsonl", b"a b.jsonl", b"%2e%2e.jsonl", b"%.jsonl"),
        *(
            b"\xff\xfe.jsonl", b"\xff", b"a\nb.jsonl", b"x.1.jsonl", b".jsonl", b"..jsonl", b"a%2fb.jsonl",
            b"\x1b[2J.jsonl",
        ),
        *(b"x.00000000000000000000.jsonl", b"x.99999999999999999999.jsonl", b"x~" + b"0" * 64 + b".jsonl", b"~.jsonl"),
    ]
    # fmt: on
    for folder in ("", "streams", "streams/a", "snapshots", "snapshots/a", "locks"):
        for content in (b"", b"somebody's\n", sealed('{"position":1,"stream_id":"a:1"') + b"\n"):
            for lost in (False, True):
                part.made_anew(base, lost=lost)
                here = os.fsencode(part.path / folder)
                for name in names:
                    with open(os.path.join(here, name), "wb") as file:
                        file.write(content)
                    os.mkdir(os.path.join(here, name + b".d"))
                with part.case(f"files of others in {folder!r}, {content[:9]!r}, state lost: {lost}", refusable=False):
                    with part.store() as store:
                        assert store.list_streams() == ["a:1", "b:1", "plain"], store.list_streams()
                        assert len(list(store.records())) == 91
                        assert list(verify(store)) == []
                    use(part)
                    changed = [name for name in names if content_of(os.path.join(here, name)) != content]
                    assert not changed, f"deleted or changed: {changed}"


def content_of(path: bytes) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


# Payloads


def nested(levels: int, kind: type) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if kind is list else {"x": value}
    return value


class Typed(msgspec.Struct):
    value: Any


def payloads(part: Part) -> None:
    """Each is read back as it was, or refused with nothing written."""
    cyclic: dict[str, Any] = {}
    cyclic["x"] = cyclic
    # fmt: off
    values: list[Any] = [
        *(nested(levels, kind) for levels in (100, 127, 128, 2_000, 100_000) for kind in (list, dict)),
        *(2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400, -(10**400), 10**5000),
        *(math.nan, math.inf, -math.inf, [math.nan], {"x": {"y": math.inf}}, 1e308, 5e-324, -0.0, True, None),
        *(
            "\ud800", "a\udfff", ["\udc00"], {"\ud800": 1}, {"": 1}, {"\0": "\0"}, "\u2028\u2029\x7f\x9b\u202e",
            "\U0010ffff",
        ),
        *(cyclic, {1: 2}, {None: 1}, {(1, 2): 3}, {1.5: 1}, b"\xff", {1, 2}, object(), type, lambda: 1, 1j, ...),
        *({"crc": "00000000"}, {"_version": 2}, {"__proto__": 1}, '"},"crc":"00000000"}\n', "\n" * 1000, "\\" * 1001),
        *(["x"] * 100_000, {str(n): n for n in range(100_000)}, "x" * (20 << 20), "\0" * (4 << 20)),
        *(msgspec.Raw(b"{"), msgspec.Raw(b'{"a":1,"a":2}'), msgspec.Raw(b"NaN"), msgspec.Raw(b"1\n"), msgspec.Raw(b"")),
        *(
            msgspec.Raw(b"[" * 200_000), msgspec.Raw(b"[" * 2000 + b"]" * 2000), msgspec.Raw(b'"\xff"'),
            msgspec.Raw(b"1e999"),
        ),
    ]
    # fmt: on
    with part.store() as store:
        for number, value in enumerate(values):
            for kind in ("untyped", "typed", "metadata", "snapshot"):
                shown = f"{type(value).__name__} {number} as {kind}"
                with part.case(shown, brings=64 * size_of(value)):
                    keep(store, value, kind)
        for wrong in ({"saved_at": 5}, {"saved_at": "\ud800"}, {"schema_version": "x"}, {"version": 10**30}):
            with part.case(f"a snapshot with {wrong}"):
                options: dict[str, Any] = {"version": 0, "state": {}, **wrong}
                with contextlib.suppress(ValueError, TypeError):
                    store.save_snapshot("a:1", **options)
                    raise AssertionError("it is taken")
                store.load_snapshot("a:1")
        for shown, event in {
            "a type of 1 MB": UntypedEvent("T" * (1 << 20), {}),
            "a type with controls": UntypedEvent("\x1b[2J\n\0", {}),
            "a type with a surrogate": UntypedEvent("\ud800", {}),
            "an id of 10 MB": UntypedEvent("T", {}, event_id="x" * (10 << 20)),
            "an id with a surrogate": UntypedEvent("T", {}, event_id="\ud800"),
            "an id with a newline": UntypedEvent("T", {}, event_id="\n\0"),
            "a huge version": UntypedEvent("T", {}, schema_version=10**400),
            "no version": UntypedEvent("T", {}, schema_version=None),  # type: ignore[arg-type]
            "a list for data": UntypedEvent("T", []),  # type: ignore[arg-type]
            "64 MB": UntypedEvent("T", {"text": "x" * (64 << 20)}),
        }.items():
            with part.case(shown, brings=2 << 30 if "MB" in shown else 0):
                before = store.get_event_count()
                try:
                    store.append("a:1", [event], ANY)
                except REFUSALS:
                    assert store.get_event_count() == before
                    raise
                (last,) = store.records(reverse=True, limit=1)
                assert (last.event_type, last.event.data) == (event.event_type, event.data)
        with part.case("all of it again", brings=2 << 30):
            assert list(verify(store)) == []
    for data in (
        '{"a":1,"a":2}',
        '{"x":' * 2000 + "1" + "}" * 2000,
        '{"x":1e999}',
        '{"x":NaN}',
        '{"x":"\\ud800"}',
        "[]",
    ):
        with part.case(f"the command line with {data[:30]}"):
            done = command("append", part.path, "cli:1", "--type", "T", "--data", data)
            assert done.returncode in (0, 1, 2), done.returncode
            assert b"Traceback" not in done.stderr, done.stderr[-300:]


def size_of(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, dict)) else 100_000


def keep(store: FileEventStore, value: Any, kind: str) -> None:
    """Store a value in one of its places and read it back."""
    before = store.get_event_count()
    try:
        if kind == "snapshot":
            store.append("snap:1", [UntypedEvent("T", {})], ANY)
            before += 1
            store.save_snapshot("snap:1", 0, {"value": value})
            loaded = store.load_snapshot("snap:1")
            assert loaded
            found = loaded["state"]["value"]
        else:
            event = (
                Typed(value) if kind == "typed" else UntypedEvent("T", {} if kind == "metadata" else {"value": value})
            )
            store.append("a:1", [event], ANY, metadata={"value": value} if kind == "metadata" else None)
            (last,) = store.records("a:1", reverse=True, limit=1)
            found = (last.metadata or {})["value"] if kind == "metadata" else last.event.data["value"]
    except REFUSALS:
        assert store.get_event_count() == before, "it was refused, and written"
        raise
    if not isinstance(value, (msgspec.Raw, bytes, set, dict)):
        assert (found, type(found)) == (value, type(value)), f"{str(found)[:80]} was read back"


# Lines and small files


def lines(part: Part) -> None:
    """Lines with the right checksum and wrong contents, at the end of the journal, of a stream, and in a sealed one."""
    base = part.folder / "base"
    make_base(base)
    good = {
        "position": "92",
        "stream_id": '"b:1"',
        "stream_version": "1",
        "event_type": '"T"',
        "event_id": '"x"',
        "recorded_at": '"2026-01-01T00:00:00.000000Z"',
        "data": '{"_version":1}',
    }
    # fmt: off
    wild = [
        *(
            "0", "-1", "1.5", '"1"', "null", "true", "[]", "{}", "NaN", "1e999", "9" * 400, str(2**63), str(2**64),
            '"\\ud800"',
        ),
        *(
            '""', '"../../x"', '"\\u0000"', '"x:../../../etc/passwd"', '"/etc/passwd"', '"$x"', f'"{"x" * 5000}"',
            '"\xff"',
        ),
        *(
            "[" * 2000 + "]" * 2000, '{"x":' * 2000 + "1" + "}" * 2000, "[" * 300_000, '{"_version":1,"_version":2}',
            '{"_version":"x"}',
        ),
        *(
            '"0000-00-00"', '"9999-12-31T23:59:59.999999Z"', '"2026-01-01"', '{"_version":99999999999999999999}',
            '"\x1b[2J"',
        ),
    ]
    # fmt: on
    made = {f"{key} is {value[:24]}": {**good, key: value} for key in good for value in wild}
    for key, value in (("batch_end", w) for w in ("0", "-1", "91", "92", "93", "9" * 400, '"x"', str(2**64), "null")):
        made[f"{key} is {value[:24]}"] = {**good, key: value}
    bodies = {name: "{" + ",".join(f'"{key}":{value}' for key, value in line.items()) for name, line in made.items()}
    plain = "{" + ",".join(f'"{key}":{value}' for key, value in good.items())
    for key, value in good.items():
        bodies[f"{key} twice"] = f'{plain},"{key}":{value}'
        bodies[f"{key} twice, another"] = f'{plain},"{key}":{"7" if value.isdigit() else value[:-1] + "y" + value[-1]}'
    bodies["nothing but a checksum"] = ""
    bodies["an unknown key"] = f'{plain},"unknown":{{}}'
    whole = {name: sealed(body) + b"\n" for name, body in bodies.items()}
    whole["invalid UTF-8"] = sealed(plain.encode().replace(b"b:1", b"b:\xff\xfe")) + b"\n"
    whole["20 MB without a newline"] = b"x" * (20 << 20)
    whole["20 MB of a record"] = plain.encode() + b"x" * (20 << 20)
    whole["20 MB line"] = b"x" * (20 << 20) + b"\n"
    whole["20 MB of newlines"] = b"\n" * (20 << 20)
    whole["20 MB of zeros"] = b"\0" * (20 << 20)
    places = [
        "journal.jsonl",
        "streams/b/1.jsonl",
        str(next((base / "streams/a").glob("1.0*.jsonl")).relative_to(base)),
    ]
    for name, line in whole.items():
        for place in places if len(line) < 1 << 20 else places[:2]:
            for lost in part.states():
                part.made_anew(base, lost=lost)
                with open(part.path / place, "ab") as file:
                    file.write(line)
                with part.case(f"{place}: {name}{', state lost' if lost else ''}", brings=6 * len(line)):
                    use(part)


def small_files(part: Part) -> None:
    """`hangarlog.json`, `checkpoint.json`, snapshots, state, indexes and others with wild contents."""
    base = part.folder / "base"
    make_base(base)
    numbers = (
        "0",
        "-1",
        "1.5",
        '"1"',
        "null",
        "true",
        "[]",
        "NaN",
        "1e999",
        "9" * 400,
        str(2**63),
        str(2**64),
        "-" + "9" * 40,
    )
    deep = ("[" * 2000 + "]" * 2000, "[" * 300_000, '{"x":' * 100_000 + "1" + "}" * 100_000)
    contents: dict[str, list[bytes]] = {"hangarlog.json": [], "checkpoint.json": [], "snapshots/a/1.json": []}
    for name in contents:
        raw = (
            (base / name).read_text() if (base / name).exists() else '{"position":5,"began_at":1.0,"crc":"00000000"}\n'
        )
        fields = msgspec.json.decode(raw)
        fields.pop("crc", None)
        for key in fields:
            for value in (*numbers, *deep, '"../../x"', '"\\ud800"', "{}"):
                body = "{" + ",".join(f'"{k}":{value if k == key else json.dumps(v)}' for k, v in fields.items())
                contents[name].append(body.encode() + b"}" if name == "hangarlog.json" else sealed(body))
        body = "{" + ",".join(f'"{k}":{json.dumps(v)}' for k, v in [*fields.items(), *fields.items()])
        contents[name] += [body.encode() + b"}", sealed(body), b"\xff", b"{", b"", deep[1].encode(), b"\0" * 4096]
    noise = [part.rng.randbytes(n) for n in (1, 15, 16, 100, 4095, 4096, 5000)]
    contents["state"] = [*noise, b"\xff" * 4096, b"\0" * 4096]
    words = (base / "state").read_bytes()
    for at in range(3, 12):
        wild = (0, 1, 2**63, 2**64 - 1, part.rng.getrandbits(64))
        contents["state"] += [words[: 8 * at] + w.to_bytes(8, sys.byteorder) + words[8 * at + 8 :] for w in wild]
    index = next(path for path in base.rglob("*.index"))
    contents[str(index.relative_to(base))] = [*noise, index.read_bytes()[:16] + part.rng.randbytes(4096), b"\xff" * 999]
    for name, many in contents.items():
        for number, content in enumerate(many):
            for lost in part.states():
                part.made_anew(base, lost=lost)
                path = part.path / name
                if name == "state" and not lost:
                    # In place, so that it is the file that it says it is, of this start of the machine.
                    with part.store() as store:
                        store.append("b:1", [UntypedEvent("T", {})], ANY)
                    content = valid_head(path.read_bytes(), content)
                path.parent.mkdir(exist_ok=True)
                with open(path, "r+b" if path.exists() else "wb") as file:
                    file.truncate()
                    file.write(content)
                with part.case(f"{name} {number}: {content[:60]!r}{', state lost' if lost else ''}"):
                    use(part)
    for name in ("hangarlog.json", "checkpoint.json", "snapshots/a/1.json", "state", str(index.relative_to(base))):
        part.made_anew(base, lost=False)
        (part.path / name).touch()
        os.truncate(part.path / name, 1 << 30)
        with part.case(f"{name} of 1 GiB"):
            use(part)


def valid_head(words: bytes, content: bytes) -> bytes:
    return words[:24] + content[24:] if len(content) >= 4096 else content


# Databases

SCHEMA = """
CREATE TABLE events (
    global_position INTEGER PRIMARY KEY, stream_id, stream_version, event_type, data, metadata, created_at
);
CREATE TABLE streams (stream_id, version, created_at, updated_at);
CREATE TABLE snapshots (stream_id, version, state_data, created_at);
"""


def sources(part: Part) -> None:
    """Databases to import that are none, or hold what no MCP Hangar wrote."""
    time = "2026-01-01T00:00:00+00:00"
    good: list[Any] = [1, "a:1", 0, "T", '{"x":1}', None, time]
    # fmt: off
    wild = [
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

    def made(path: Path, rows: list[list[Any]], snapshot: list[Any] | None = None, version: Any = 0) -> None:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.executescript(SCHEMA)
            database.executemany("INSERT INTO events VALUES (?,?,?,?,?,?,?)", rows)
            database.executemany(
                "INSERT INTO streams VALUES (?,?,?,?)", [(row[1], version, time, time) for row in rows]
            )
            if snapshot:
                database.execute("INSERT INTO snapshots VALUES (?,?,?,?)", snapshot)
            database.commit()

    def taken(name: str, make: Callable[[Path], object]) -> None:
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

    for column in range(1, 7):
        for value in wild:
            taken(f"column {column} is {str(value)[:40]!r}", lambda path: made(path, [_put(good, column, value)]))  # noqa: B023
    for column, value in ((c, v) for c in range(4) for v in wild):
        taken(
            f"snapshot's {column} is {str(value)[:40]!r}",
            lambda p: made(p, [good], _put(["a:1", 0, "{}", time], column, value)),  # noqa: B023
        )
    for value in wild:
        taken(f"a stream's version is {str(value)[:40]!r}", lambda path: made(path, [good], version=value))  # noqa: B023
    taken("a gap", lambda path: made(path, [good, [2, "a:1", 5, "T", "{}", None, time]]))
    taken("a version twice", lambda path: made(path, [good, [2, "a:1", 0, "T", "{}", None, time]]))
    taken("text that is no UTF-8", lambda path: _no_utf8(path, made, good))
    taken("noise", lambda path: path.write_bytes(part.rng.randbytes(100_000)))
    taken("a header and noise", lambda path: path.write_bytes(b"SQLite format 3\0" + part.rng.randbytes(100_000)))
    taken("nothing", lambda path: path.touch())
    taken("a FIFO", os.mkfifo)
    taken("a folder", lambda path: path.mkdir())
    taken("zeros", lambda path: path.symlink_to("/dev/zero"))
    taken("a symlink to notes", lambda path: path.symlink_to(part.outside / "notes"))
    for at in range(40):
        taken(f"damaged {at}", lambda path: _damage(path, made, good, part.rng))
    with part.case("export does not go through a symlink"), part.store() as store:
        target = part.folder / "target.db"
        target.symlink_to(part.outside / "notes")
        with contextlib.suppress(FileExistsError):
            raise AssertionError(f"{export_database(store, str(target))} events exported")


def _put(row: list[Any], column: int, value: Any) -> list[Any]:
    return [value if at == column else old for at, old in enumerate(row)]


def _no_utf8(path: Path, made: Callable[..., None], good: list[Any]) -> None:
    made(path, [good])
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE events SET stream_id = CAST(x'ff' AS TEXT)")
        database.commit()


def _damage(path: Path, made: Callable[..., None], good: list[Any], rng: random.Random) -> None:
    made(path, [[n, "a:1", n, "T", '{"x":"%s"}' % ("x" * 300), None, good[6]] for n in range(100)])
    content = bytearray(path.read_bytes())
    for _ in range(20):
        content[rng.randrange(100, len(content))] = rng.randrange(256)
    path.write_bytes(content)


# Lines that prove themselves, and names


def proved(part: Part) -> None:
    """Lines with right checksums in both copies: what is no record to the letter is damage for everything.

    A judge of the standard library says which: it knows nothing of how hangarlog decides.
    """
    for number, (name, body) in enumerate(wild_bodies(part).items()):
        line = sealed(body)
        lines = [sealed(plain_body(1)), line, sealed(plain_body(3))]
        part.path = part.fence / f"store{number}"
        part.store().close()
        (part.path / "state").unlink()
        (part.path / "streams/a").mkdir()
        for file in ("journal.jsonl", "streams/a/1.jsonl"):
            (part.path / file).write_bytes(b"".join(one + b"\n" for one in lines))
        with part.case(f"proved: {name}", brings=8 * len(line), refusable=False):
            damages = list(verify_folder(part.path))
            assert is_to_the_letter(line) or damages, "it is whole for verify"
            with contextlib.suppress(*REFUSALS), part.store() as store:
                shown = [one for block in journal_lines(store) for one in block.split(b"\n")]
                assert shown == lines, "an export has other bytes"
                assert is_to_the_letter(line), "it is no record, and exported"
            part.figures["damage" if damages else "records"] += 1
        if number % 60 == 0:
            with part.case(f"proved, by the command line: {name}", refusable=False):
                for words in (["read"], ["tail", "--raw"], ["stats"], ["verify"], ["export"], ["repair"]):
                    done = command(words[0], part.path, *(["-"] if words == ["export"] else words[1:]))
                    assert done.returncode in (0, 1), f"{words} ends with {done.returncode}"
                    assert b"Traceback" not in done.stderr, done.stderr[-600:]
        shutil.rmtree(part.path)


def plain_body(place: int, **fields: str) -> str:
    values = {
        "position": str(place),
        "stream_id": '"a:1"',
        "stream_version": str(place - 1),
        "event_type": '"T"',
        "event_id": f'"e{place}"',
        "recorded_at": '"2026-01-01T00:00:00.000000Z"',
        **fields,
    }
    return "{" + ",".join(f'"{key}":{value}' for key, value in values.items()) + ',"data":{"_version":1}'


def wild_bodies(part: Part) -> dict[str, bytes]:
    """Bodies of the line at position 2, each with something wild in one place, or in several by chance."""
    # fmt: off
    wild = [
        *("0", "-1", "2.0", "2e0", "true", "null", "[]", "{}", '""', '"x"', "9" * 400, str(2**53), str(2**63), "02"),
        *('{"a":1,"a":2}', '{"x":{"a":1,"\\u0061":2}}', '[{"":1,"":1}]', '{"x":1e999}', '{"x":NaN}', '"\\ud800"'),
        *('"2026-13-01T00:00:00.000000Z"', '"2026-01-01t00:00:00.000000Z"', '"2026-01-01T00:00:00.000000z"', '"\x1b"'),
        *('{"x":1.50,"y":1e5}', '{"_version":1,"_version":1}', "[" * 2000 + "]" * 2000, '{"x":' + "9" * 5000 + "}"),
        *('"\xff"', '{"\xed\xa0\x80":1}', ' {"x" : 1 } ', '{"x":1,}', '{"x":"\\/\\u00e9"}', '"\u0661"', "1 2", ""),
    ]
    # fmt: on
    keys = ("position", "stream_id", "stream_version", "event_type", "event_id", "recorded_at", "metadata", "batch_end")
    plain = plain_body(2)
    found: dict[str, str] = {}
    for value in wild:
        found |= {f"{key} is {value[:30]}": plain_body(2, **{key: value}) for key in keys}
        found |= {f"{key} again, {value[:30]}": f'{plain},"{key}":{value},"z":{{}}' for key in (*keys, "data", "crc")}
        found[f"data is {value[:30]}"] = plain.replace('{"_version":1}', value)
        found[f"data has {value[:30]}"] = plain.replace('{"_version":1}', f'{{"_version":1,"x":{value}}}')
    while len(found) < part.size:
        body = found[part.rng.choice(list(found))]
        at = part.rng.randrange(1, len(body))
        more = part.rng.choice((*wild, ",", '"a":1,', '"a":1,"a":1,', "{", "}", "\\", '"', " "))
        found[f"chance {len(found)}"] = body[:at] + more + body[at + part.rng.choice((0, 0, 1, len(more))) :]
    return {name: body.encode("latin-1", "replace") for name, body in found.items()}


def is_to_the_letter(line: bytes) -> bool:
    """Whether a line is a record, as docs/format.md has it, for a program that takes no key twice."""

    def single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return found

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(text)
        return number

    try:
        record = json.loads(line.decode(), object_pairs_hook=single, parse_float=finite, parse_constant=finite)
        json.dumps(record, ensure_ascii=False).encode()
        datetime.strptime(record["recorded_at"], "%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    numbers = [(record.get("position"), 1), (record.get("stream_version"), 0), (record.get("batch_end", 0), 0)]
    texts = [record.get(key) for key in ("stream_id", "event_type", "event_id", "recorded_at")]
    return (
        all(type(number) is int and least <= number < 2**53 for number, least in numbers)
        and all(type(text) is str for text in texts)
        and re.fullmatch(r"[0-9]{4}-[0-9-]{5}T[0-9:]{8}\.[0-9]{6}Z", texts[-1]) is not None
        and type(record.get("data")) is dict
        and type(record.get("metadata", {})) is dict
    )


def names(part: Part) -> None:
    """Names in the digits of every script, and numbers beyond all: files of others, which stay as they are."""
    base = part.folder / "base"
    make_base(base)
    digits = [c for c in map(chr, range(0x80, sys.maxunicode)) if c.isdigit() or c.isdecimal() or c.isnumeric()]
    chosen = digits if part.size >= 1000 else part.rng.sample(digits, 40)
    part.made_anew(base, lost=False)
    for number, digit in enumerate(chosen):
        made = [f"{digit * 20}", f"{'0' * 19}{digit}", f"{digit}{'0' * 18}1", "9" * 20, f"{2**53:020d}", "+" + "1" * 19]
        paths = [
            part.path / f"{place}.{name}.jsonl" for place in ("journal", "streams/a/1", "streams/x") for name in made
        ]
        for path in paths:
            path.write_bytes(b"" if number % 2 else b"somebody's\n")
        with part.case(f"a name with the digit {ord(digit):x}", refusable=False):
            if number % 8 == 0:
                (part.path / "state").unlink()
            with part.store() as store:
                assert store.list_streams() == ["a:1", "b:1", "plain"]
                assert len(list(store.records())) == 91 + number
                assert list(verify(store)) == []
                store.append("b:1", [UntypedEvent("T", {})], ANY)
            assert all(path.read_bytes() == (b"" if number % 2 else b"somebody's\n") for path in paths)
        for path in paths:
            path.unlink()


def databases(part: Part) -> None:
    """Databases that compute what they give, or whose pages are named by many, or beside which lies what is no file."""
    from . import hostile_sources

    path = part.folder / "source.db"
    (part.folder / "somebody's").write_text("somebody's notes\n")
    for name, make in hostile_sources.tries(part.rng, part.size):
        hostile_sources.clear(path)
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


# Schema locks


def locks(part: Part) -> None:
    """A check of each ends, with findings or a refusal."""
    from . import hostile_locks

    for name, lock in hostile_locks.tries(part.rng, part.size):
        with part.case(f"lock: {name}"):
            part.figures["locks refused"] += hostile_locks.refused(part.folder / "lock.json", lock)


# Modes and the terminal


def modes(part: Part) -> None:
    """With no umask at all, what is made is the owner's alone."""
    os.umask(0)
    with part.case("umask 0"):
        make_base(part.path)
        (part.path / "state").unlink()
        use(part)
        with part.store(durability="always") as store:
            store.append("new:1", [UntypedEvent("T", {})], ANY)
            export_database(store, str(part.folder / "export.db"))
        assert command("export", part.path, part.folder / "export.jsonl").returncode == 0
        assert command("append", part.path, "cli:1", "--type", "T", "--data", "{}").returncode == 0
        exported = [part.folder / "export.db", part.folder / "export.jsonl"]
        for path in [part.path, *part.path.rglob("*"), *exported]:
            mode = stat.S_IMODE(path.lstat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), f"{path.relative_to(part.folder)} has {mode:o}"
        part.figures["modes"] = sum(1 for _ in part.path.rglob("*"))


def command(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    words = [str(argument) for argument in arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", "hangarlog", *words], capture_output=True, env=environment, timeout=GUARD, check=False
    )


CONTROLS = "\x00\x01\x07\x08\x1b\x7f\x80\x85\x9b\x9d\x9f"
CONTROLS += "\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\U000e0041"
CONTROLS += "\u034f\u115f\u1160\u2800\u3164\uffa0\ufe0f\U000e01ef\u00ad\u180e\ue000\u0378\u00a0\U000e0001"


def terminal(part: Part) -> None:
    """What people see holds no character that acts on their terminal, whatever was stored and whatever goes wrong."""
    import pty

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
    stream = f"a:{names}"
    # fmt: off
    commands: list[list[Any]] = [
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
    for words in commands:
        with part.case(f"terminal: {words[0]} {[str(word)[-20:] for word in words[1:]]}"):
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
            assert process.wait(GUARD) in (0, 1, 2), f"it ended with {process.returncode}"
            # The progress bar may return to the line's start and hide the cursor; nobody else's characters may.
            text = re.sub(r"\x1b\[\?25[lh]|\x1b\[[0-9;]*[Km]", "", shown.decode("utf-8", "surrogateescape"))
            acting = set(text) & set(controls)
            assert not acting, f"{sorted(map(hex, map(ord, acting)))} reach the terminal: {text[:600]!r}"
            assert "Traceback" not in text, text[-600:]
            part.figures["terminal commands"] += 1


PARTS = (
    *(lines, small_files, sizes, counts, swaps, payloads, sources, databases, locks, ids, terminal, proved, names),
    *(foreign, modes, co_users),
)

# The campaign


def run_part(name: str, folder: Path, size: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Run a part in a process of its own: what it counted, and what it found broken."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, name, str(folder), str(size), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    try:
        output, errors = process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, 9)
        process.communicate()
    figures: Counter[str] = Counter()
    broken, last = [], ""
    for line in output.splitlines():
        word, _, text = line.partition(" ")
        if word == "case":
            last = text
        elif word == "broken":
            broken.append(f"{name}: {text}")
        elif word == "figures":
            figures.update(json.loads(text))
    if process.returncode:
        broken.append(f"{name}: it ended with {process.returncode} in the case {last!r}: {errors[-1500:]}")
    return figures, broken


def run(folder: Path, size: int, seed: int) -> Figures:
    figures: Counter[str] = Counter()
    broken: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        for counted, found in pool.map(lambda part: run_part(part.__name__, folder / part.__name__, size, seed), PARTS):
            figures += counted
            broken += found
    assert not broken, f"seed {seed}: {len(broken)} of {figures['cases']} cases:\n  " + "\n  ".join(broken)
    return dict(figures)


CAMPAIGN = Campaign(
    row=10,
    fault="ids, payloads, lines, files, databases and co-users who wish ill",
    promise="nothing outside the store is read or written, memory is bounded, nothing hangs, and each refusal says why",
    how="stream ids; every file swapped for links, FIFOs, folders; another user who swaps parts of the store in the "
    "middle of every call; nesting, numbers and surrogates; lines with right checksums and wrong contents; files of a "
    "terabyte and counts that lie, each command with a limit on memory and processor time; databases and schema locks; "
    "umask 0; a pseudo-terminal. There is no compression, so no bomb of it",
    ci=250,
    release=2_000,
    unit="stream ids",
    run=run,
    missing=lambda: None if hasattr(os, "mkfifo") else "this system has no FIFOs",
)

if __name__ == "__main__":
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, resource.RLIM_INFINITY))  # For the machine's sake.
    one = Part(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    {part.__name__: part for part in PARTS}[sys.argv[1]](one)
    say("figures", json.dumps(one.figures))
