"""Whatever is done to the files of a store at random, a repair keeps all that can be proved."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rebuilding import FILESYSTEM, LONG, event, lines_of, opened, works

from hangarlog import ANY, CorruptionError, UntypedEvent
from hangarlog.maintenance.repair import Lost, PutAside, Repaired, repair
from hangarlog.record.line import decode_record, is_record


def fill(path: Path, older: Path, chance: random.Random) -> None:
    """A store of a few streams, some compacted; and an older copy of it."""
    number = 0
    with opened(path, chance.choice([300, 1000, 4000, 1 << 20])) as store:
        for _ in range(chance.randint(1, 40)):
            appends: dict[str, list[UntypedEvent]] = {}
            for _ in range(chance.choice([1, 1, 1, 2, 5])):
                number += 1
                some = appends.setdefault(chance.choice(["a:1", "a:2", "b:1", "c", LONG]), [])
                some.append(event(number, chance.choice([5, 50, 400])))
            durability = chance.choice(["always", "relaxed"])
            store.append_many([(stream_id, some, ANY) for stream_id, some in appends.items()], durability=durability)
            if chance.random() < 0.05:
                stream_id = chance.choice(list(appends))
                store.save_snapshot(stream_id, store.get_stream_version(stream_id), {})
                store.compact_stream(stream_id)
            if chance.random() < 0.1 and not older.exists():
                shutil.copytree(path, older)


def texts(path: Path) -> list[Path]:
    return sorted(f for f in path.rglob("*") if f.is_file() and f.suffix in (".jsonl", ".json", ".index", ""))


def flip(file: Path, text: bytes, chance: random.Random) -> None:
    at = chance.randrange(len(text))
    file.write_bytes(text[:at] + bytes([text[at] ^ 1 << chance.randrange(8)]) + text[at + 1 :])


def zero(file: Path, text: bytes, chance: random.Random) -> None:
    at = chance.randrange(len(text))
    size = min(chance.choice([100, 512, 4096]), len(text) - at)
    file.write_bytes(text[:at] + bytes(size) + text[at + size :])


def cut(file: Path, text: bytes, chance: random.Random) -> None:
    file.write_bytes(text[: chance.randrange(len(text) + 1)])


def rearrange(file: Path, text: bytes, chance: random.Random) -> None:
    """Lines doubled, taken out, or exchanged."""
    lines = text.splitlines(keepends=True)
    one, two = chance.randrange(len(lines)), chance.randrange(len(lines))
    kind = chance.randrange(3)
    if kind == 0:
        lines.insert(two, lines[one])
    elif kind == 1:
        del lines[one]
    else:
        lines[one], lines[two] = lines[two], lines[one]
    file.write_bytes(b"".join(lines))


def exchange(file: Path, text: bytes, chance: random.Random) -> None:
    other = chance.choice(list(file.parent.glob("*.jsonl")) or [file])
    file.write_bytes(other.read_bytes())
    other.write_bytes(text)


def double(file: Path, text: bytes, chance: random.Random) -> None:
    file.with_name(f"{file.name.split('.')[0]}.{chance.randrange(60):020d}.jsonl").write_bytes(text)


def append_garbage(file: Path, text: bytes, chance: random.Random) -> None:
    file.write_bytes(text + chance.choice([b"{", b"notes\n", b'{"position":5,\n', bytes(100)]))


def delete(file: Path, _: bytes, __: random.Random) -> None:
    file.unlink()


def delete_folder(file: Path, _: bytes, __: random.Random) -> None:
    if (file.parent / "hangarlog.json").exists():
        file.unlink()
    else:
        shutil.rmtree(file.parent)


def spoil_meta(file: Path, _: bytes, chance: random.Random) -> None:
    top = next(folder for folder in file.parents if folder.name == "s")
    (top / "hangarlog.json").write_bytes(chance.choice([b"", b"{}", b"junk"]))


Damage = Callable[[Path, bytes, random.Random], None]
DAMAGES: list[Damage] = [flip, flip, zero, cut, rearrange, exchange, double, append_garbage]
DAMAGES += [delete, delete, delete_folder, spoil_meta]


def put_back(path: Path, older: Path, chance: random.Random) -> None:
    """Some, or one, of the files of an earlier time."""
    files = texts(older)
    for file in chance.sample(files, chance.choice([1, len(files) // 2])):
        there = path / file.relative_to(older)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, there)


def provable(path: Path, lines: dict[int, bytes]) -> int:
    """Up to which position everything has a whole copy in the text files."""
    found = {line for file in path.rglob("*.jsonl") for line in file.read_bytes().split(b"\n")}
    last = whole = 0
    while lines.get(last + 1) in found:
        last += 1
        whole = last if decode_record(lines[last]).ends_batch else whole
    return whole


@pytest.mark.parametrize("seed", range(150))
def test_whatever_is_damaged_a_repair_keeps_all_that_is_proved_and_ends_with_a_store_that_works(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    path, older = tmp_path / "s", tmp_path / "older"
    fill(path, older, chance)
    lines = lines_of(path)
    for _ in range(chance.choice([1, 1, 2, 3, 6])):
        if older.exists() and chance.random() < 0.2:
            put_back(path, older, chance)
            continue
        file = chance.choice(texts(path))
        text = file.read_bytes()
        if text:
            chance.choice(DAMAGES)(file, text, chance)
    least = provable(path, lines)
    if not least and not any(is_record(line) for f in texts(path) for line in f.read_bytes().split(b"\n")):
        return
    results = list(repair(path, filesystem=FILESYSTEM))
    kept = lines_of(path)
    assert all(lines[position] == line for position, line in kept.items())
    assert set(kept) >= set(range(1, least + 1))
    lost = {p for r in results if isinstance(r, Lost) and not r.stream_id for p in range(r.first, r.last + 1)}
    aside = {p for r in results if isinstance(r, PutAside) for p in range(r.first, r.last + 1)}
    assert set(lines) - set(kept) <= lost | aside | set(range(max(kept, default=0) + 1, len(lines) + 1))
    if set(kept) >= set(range(1, max(kept, default=0) + 1)):
        assert not [result for result in results if isinstance(result, CorruptionError)]
        works(path)
        assert [result for result in repair(path, filesystem=FILESYSTEM) if not isinstance(result, Lost)] == []
    else:
        with opened(path) as store:
            for stream_id in store.list_streams():
                version = store.get_stream_version(stream_id)
                assert store.append(stream_id, [event(-1)], version) == version + 1
        again = list(repair(path, filesystem=FILESYSTEM))
        assert not [result for result in again if isinstance(result, (Repaired, PutAside))]
