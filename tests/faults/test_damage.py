"""Whatever happens to the bytes of a store, it gives the right events or an error that names the place."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Added

from hangarlog import ANY, CorruptionError, FileEventStore, HangarlogError
from hangarlog.verify import verify

SEED = int(os.environ.get("HANGARLOG_SEED", "20261123"))
CASES = int(os.environ.get("HANGARLOG_DAMAGES", "4"))
NUMBERS = range(60)


def fill(path: Path) -> None:
    """Three streams, one of them compacted, with sealed segments and an index sidecar."""
    with FileEventStore(path, durability="relaxed", segment_bytes=4000) as store:
        for number in NUMBERS:
            stream_id = f"s:{number % 2}"
            store.append_many([(stream_id, [Added(number, "x" * 60)], ANY), ("t:1", [Added(number)], ANY)])
        store.append("big:1", [Added(number, "y" * 2000) for number in range(40)], ANY)
        store.append("big:1", [Added(40)], ANY)
        store.save_snapshot("t:1", 9, {"n": 9})
        store.compact_stream("t:1")


EXPECTED = {
    "s:0": [Added(number, "x" * 60) for number in NUMBERS if number % 2 == 0],
    "s:1": [Added(number, "x" * 60) for number in NUMBERS if number % 2],
    "t:1": [Added(number) for number in NUMBERS][10:],
    "big:1": [*(Added(number, "y" * 2000) for number in range(40)), Added(40)],
}
TOTAL = 2 * len(NUMBERS) + 41


def damages(text: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """(what was done, what the file holds then)."""
    for _ in range(CASES):
        at = rng.randrange(len(text))
        yield f"bit of byte {at}", text[:at] + bytes([text[at] ^ 1 << rng.randrange(8)]) + text[at + 1 :]
        for value in (0, 10, 255):
            yield f"byte {at} to {value}", text[:at] + bytes([value]) + text[at + 1 :]
        yield f"cut to {at}", text[:at]
        yield f"zeros from {at}", text[:at] + bytes(min(512, len(text) - at)) + text[at + 512 :]
        yield f"without byte {at}", text[:at] + text[at + 1 :]
    lines = text.split(b"\n")[:-1]
    if len(lines) > 2:
        for _ in range(CASES):
            one, two = sorted(rng.sample(range(len(lines)), 2))
            swapped = [*lines[:one], lines[two], *lines[one + 1 : two], lines[one], *lines[two + 1 :]]
            for what, changed in (
                (f"lines {one} and {two} swapped", swapped),
                (f"line {one} twice", [*lines[: one + 1], *lines[one:]]),
                (f"line {one} removed", lines[:one] + lines[one + 1 :]),
            ):
                yield what, b"".join(line + b"\n" for line in changed)


def answers(store: FileEventStore) -> Iterator[Callable[[], object]]:
    """Reads of every sort; each gives its right answer or raises."""
    for stream_id, events in EXPECTED.items():
        first = 10 if stream_id == "t:1" else 0

        def whole(stream_id: str = stream_id, events: list[Added] = events) -> None:
            assert store.read_stream(stream_id) == events

        def part(stream_id: str = stream_id, events: list[Added] = events, first: int = first) -> None:
            middle = len(events) // 2
            assert store.read_stream(stream_id, first + middle) == events[middle:]

        def reverse(stream_id: str = stream_id, events: list[Added] = events) -> None:
            assert [r.event for r in store.records(stream_id, reverse=True)] == events[::-1]

        def version(stream_id: str = stream_id, events: list[Added] = events, first: int = first) -> None:
            assert store.get_stream_version(stream_id) == first + len(events) - 1

        yield from (whole, part, reverse, version)

    def everything() -> None:
        positions = [position for position, _, _ in store.read_all(limit=10_000)]
        assert positions == list(range(1, TOTAL + 1))

    def backwards() -> None:
        assert [r.position for r in store.records(reverse=True)] == list(range(TOTAL, 0, -1))

    yield from (everything, backwards)


def check(path: Path, what: str, *, lossy: bool, shorter: bool = False) -> int:
    """How many reads were refused.

    `lossy`: a journal that has lost its end after a restart takes events with it. `shorter`: a stream's last whole
    lines are gone, which no reader of the stream alone can see, but verify does.
    """
    refused = 0
    try:
        store = FileEventStore(path, durability="relaxed", create=False)
    except HangarlogError:
        return 1
    with store:
        if lossy and store.get_event_count() < TOTAL:
            return 1
        for answer in answers(store):
            try:
                answer()
            except HangarlogError:
                refused += 1
            except AssertionError as error:
                if shorter and list(verify(store)):
                    return 1
                raise AssertionError(f"HANGARLOG_SEED={SEED}: {what}: wrong data") from error
        if refused:
            assert any(isinstance(damage, CorruptionError) for damage in verify(store)), f"{what}: verify finds nothing"
    return refused


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_every_file_may_be_damaged_anywhere(tmp_path: Path, restarted: bool) -> None:
    """HANGARLOG_DAMAGES=1000 is the large size; another HANGARLOG_SEED damages other places."""
    print(f"HANGARLOG_SEED={SEED}")
    rng = random.Random(SEED)
    fill(tmp_path / "whole")
    if restarted:
        (tmp_path / "whole/state").unlink()
    assert check(shutil.copytree(tmp_path / "whole", tmp_path / "copy"), "nothing", lossy=False) == 0
    shutil.rmtree(tmp_path / "copy")
    files = sorted(
        p for p in (tmp_path / "whole").rglob("*") if p.is_file() and p.suffix != ".lock" and p.stat().st_size
    )
    assert len(files) > 8
    cases = refused = 0
    for file in files:
        if file.name == "state":
            continue  # In a copied folder it is not believed anyway.
        name = file.relative_to(tmp_path / "whole")
        text = file.read_bytes()
        for what, changed in damages(text, rng):
            if changed == text:
                continue
            path = shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
            if not restarted:
                keep_state(tmp_path / "whole", path)
            (path / name).write_bytes(changed)
            cases += 1
            lossy = name.name in ("journal.jsonl", "checkpoint.json")
            live_stream = name.parts[0] == "streams" and name.suffix == ".jsonl" and name.name.count(".") == 1
            shorter = live_stream and text.startswith(changed) and changed[-1:] in (b"", b"\n")
            refused += check(path, f"{name}: {what}", lossy=lossy, shorter=shorter) > 0
            shutil.rmtree(path)
    print(f"{cases} damages, {refused} refused, the rest read right")
    assert refused > cases // 20


def keep_state(original: Path, copy: Path) -> None:
    """Make the copy's shared state as good as the original's: a state knows the file it is in."""
    words = memoryview(bytearray((original / "state").read_bytes())).cast("Q")
    words[2] = (copy / "state").stat().st_ino
    (copy / "state").write_bytes(words.tobytes())
