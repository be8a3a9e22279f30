"""On stores that the library made, healthy and damaged, the reader and verifier made from the pages agrees with it."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import pytest
from store_by_the_page import RefusedError, Store
from verifier_by_the_page import damages

from hangarlog import ANY, FileEventStore, HangarlogError, UntypedEvent
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.maintenance.verify import verify_folder

KINDS = ["plain", "ring", "hidden", "cursors", "snapshots", "compressed"]
IDS = ["a:1", "b", "Odd Name.é", "c:x:y", "long:" + "n" * 300]
CACHES = {"state", "catalog", "event-ids"}


def made(kind: str, path: Path, chosen: random.Random) -> None:
    durability = "always" if kind == "ring" else "relaxed"
    segment_bytes = chosen.choice([700, 2000, 1 << 26])
    with FileEventStore.untyped(path, durability=durability, segment_bytes=segment_bytes) as store:
        ids: list[str] = []
        for _ in range(chosen.randint(3, 30)):
            ids = chosen.sample(IDS, chosen.randint(1, 2))
            text = "x" * chosen.randint(0, 60)
            events = [UntypedEvent("Added", {"number": n, "text": text}) for n in range(chosen.randint(1, 4))]
            store.append_many([(stream_id, events, ANY) for stream_id in ids])
        if kind == "hidden":
            store.truncate_stream(ids[0], 1)
            if chosen.random() < 0.5:
                store.delete_stream(ids[-1])
            store.retain()
        elif kind == "cursors":
            for name, position in (("m", 2), ("n", 1), ("m", 3)):
                store.cursor(name).advance(position)
        elif kind == "snapshots":
            store.save_snapshot(ids[0], 0, {"sum": 2})
            store.save_snapshot(ids[0], 0, {"sum": 3})
        elif kind == "compressed":
            store.compress()
        if chosen.random() < 0.6:
            store._write_session.checkpointing.make()


def damage(path: Path, chosen: random.Random) -> str:
    """Damage one file, and return what was done."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.parent.name != "locks" and p.stat().st_size)
    files = [file for file in files if file.name not in CACHES]
    logs = [file for file in files if "jsonl" in file.name]
    file = chosen.choice(files if chosen.random() < 0.4 else logs)
    content = file.read_bytes()
    lines, at = content.splitlines(keepends=True), chosen.randrange(len(content))
    line = chosen.randrange(len(lines))
    tails = [
        b"\n",
        b"  \n",
        b"hello",
        b'{"pos',
        b'{"position":99,',
        bytes(50),
        b'{"position":99}\n',
        lines[-1],
        lines[0],
    ]
    ways = {
        "a bit": content[:at] + bytes([content[at] ^ 1 << chosen.randrange(8)]) + content[at + 1 :],
        "cut": content[:at],
        "lines cut": b"".join(lines[:line]),
        "a line twice": b"".join([*lines[:line], lines[chosen.randrange(len(lines))], *lines[line:]]),
        "a line less": b"".join([*lines[:line], *lines[line + 1 :]]),
        "two swapped": b"".join([*lines[:line], *lines[line : line + 2][::-1], *lines[line + 2 :]]),
        "bytes between": content[:at] + chosen.choice([b"\n", b"x", bytes(600), b"{}\n"]) + content[at:],
        "zeros": content[:at] + bytes(len(content[at : at + 512])) + content[at + 512 :],
        "a tail": content + chosen.choice(tails),
    }
    way = chosen.choice([*ways, "gone", "renamed"])
    if way == "gone":
        file.unlink()
    elif way == "renamed":
        number = re.search(r"\d{20}", file.name)
        name = file.name.replace(number[0], f"{int(number[0]) + chosen.choice([-1, 1, 2]):020}") if number else "x"
        file.rename(file.with_name(name.replace("-0", "00")))
    else:
        with file.open("r+b") as opened:
            opened.write(ways[way])
            opened.truncate()
    return f"{file.relative_to(path)}: {way}"


def verdict(path: Path) -> bool:
    """True if the library finds the store damaged."""
    try:
        return any(True for _ in verify_folder(path))
    except HangarlogError:
        return True


def verdict_by_the_page(path: Path) -> bool:
    try:
        return bool(damages(path))
    except RefusedError:
        return True


@pytest.mark.usefixtures("ring_at_once")
@pytest.mark.parametrize("kind", KINDS)
def test_it_reads_the_same_events_of_a_healthy_store(tmp_path: Path, kind: str) -> None:
    for seed in range(8):
        path = tmp_path / str(seed)
        made(kind, path, random.Random(seed))
        assert not verdict(path)
        assert damages(path) == []
        shown = Store(path).shown()
        with FileEventStore.untyped(path) as store:
            assert shown == [line for _, lines in as_stored(store, store.envelopes()) for line in lines]


@pytest.mark.usefixtures("ring_at_once")
@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_the_same_stores_damaged_in_place_and_in_a_copy(tmp_path: Path, kind: str) -> None:
    found = 0
    for seed in range(16):
        chosen, path = random.Random(f"{kind} {seed}"), tmp_path / str(seed)
        made(kind, path, chosen)
        done = [damage(path, chosen) for _ in range(chosen.choice([1, 1, 2]))]
        copy = shutil.copytree(path, tmp_path / f"{seed}-copy")
        assert verdict(path) is verdict(copy) is verdict_by_the_page(path), (seed, done)
        found += verdict(path)
    assert 4 < found < 16
