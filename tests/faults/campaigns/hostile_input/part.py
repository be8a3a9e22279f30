"""A part of the campaign: its cases, what they run in, and the stores that they are tried on."""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import os
import random
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

from hangarlog import ANY, EventSerializer, FileEventStore, HangarlogError, UntypedEvent
from hangarlog.maintenance.verify import verify
from hangarlog.testing import Unsynced

GUARD = 60.0
"""Seconds after which a case hangs."""

MEMORY = 300 << 20
"""Bytes that no case may need beyond what there was before, but for those that say how much they bring."""

REFUSALS = (HangarlogError, ValueError, TypeError)


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


def command(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    words = [str(argument) for argument in arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", "hangarlog", *words], capture_output=True, env=environment, timeout=GUARD, check=False
    )
