"""Reads between two times find what they should by search, whatever the clock did and whatever became of the cache."""

from __future__ import annotations

import os
import random
import shutil
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hangarlog import ANY, CorruptionError, CorruptionWarning, FileEventStore
from hangarlog.log.times import Times
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify
from hangarlog.record.batch import Pending
from hangarlog.record.checked_json import with_crc, without_crc
from hangarlog.system.filesystem import FileSystem

pytestmark = pytest.mark.usefixtures("marks_at_once")
BEGIN = datetime(2026, 11, 27, tzinfo=UTC)
COUNT = 12_000
SEGMENT_BYTES = 400_000


def text_of(second: float) -> str:
    return (BEGIN + timedelta(seconds=second)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def fill(path: Path, seconds: list[int]) -> None:
    """Events in two streams, event `n` recorded at `seconds[n]`, over several segments of the journal and of a:1."""
    with FileEventStore(path, durability="relaxed", segment_bytes=SEGMENT_BYTES) as store:
        for start in range(0, len(seconds), 250):
            events = [
                ("Added", None, b'{"_version":1,"number":%d}' % number, text_of(seconds[number]), None)
                for number in range(start, min(start + 250, len(seconds)))
            ]
            store.append_encoded([Pending("b:1" if start % 1000 == 750 else "a:1", events, ANY)])


def rising() -> list[int]:
    return list(range(COUNT))


def set_back() -> list[int]:
    """The clock was set back twice, and a few events were imported with times of their own."""
    chance = random.Random(7)
    seconds = [number - (5000 if number > 7000 else 0) - (500 if number > 2000 else 0) for number in range(COUNT)]
    for _ in range(20):
        seconds[chance.randrange(COUNT)] = chance.randrange(-100, 2 * COUNT)
    return seconds


@pytest.fixture
def marks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the marks of new files be believed: no test changes a file twice within a tick of the clock."""
    monkeypatch.setattr("hangarlog.log.sealed_times._RACY_NS", 0)


@pytest.fixture(scope="module", params=[rising, set_back])
def history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    path, seconds = tmp_path_factory.mktemp("times") / "s", request.param()
    fill(path, seconds)
    return path, seconds


@pytest.fixture
def copied(history: tuple[Path, list[int]], tmp_path: Path) -> tuple[Path, list[int]]:
    shutil.copytree(history[0], tmp_path / "s")
    return tmp_path / "s", history[1]


def numbers(store: FileEventStore, stream_id: str | None = None, **options: Any) -> list[int]:
    return [record.event.number for record in store.records(stream_id, **options)]


def in_range(seconds: list[int], since: int | None, until: int | None) -> list[int]:
    return [
        number
        for number, second in enumerate(seconds)
        if (since is None or second >= since) and (until is None or second < until)
    ]


RANGES = [
    (None, 5),
    (3, 4),
    (2499, 2501),
    (6000, 6100),
    (COUNT - 60, None),
    (COUNT * 3, None),
    (500, 400),
]


def check_all(
    store: FileEventStore, seconds: list[int], ranges: Sequence[tuple[int | None, int | None]] = RANGES
) -> None:
    of_a = {number for number in range(COUNT) if number % 1000 < 750}
    for since, until in ranges:
        wanted = in_range(seconds, since, until)
        times = {
            "since": None if since is None else text_of(since),
            "until": None if until is None else text_of(until),
        }
        assert numbers(store, **times) == wanted
        assert numbers(store, reverse=True, **times) == wanted[::-1]
        assert numbers(store, "a:1", **times) == [number for number in wanted if number in of_a]
        backward = numbers(store, "a:1", reverse=True, **times)
        assert backward == [number for number in wanted[::-1] if number in of_a]
        for first, last in ((0, 6050), (4000, 8000), (8000, COUNT)):
            some = [number for number in wanted if first <= number < last]
            assert numbers(store, from_position=first, to_position=last, **times) == some
            backward = numbers(store, from_position=last + 1, to_position=first + 1, reverse=True, **times)
            assert backward == some[::-1]
            assert numbers(store, from_position=first, limit=3, **times) == [n for n in wanted if n >= first][:3]


def test_a_read_between_two_times_is_exact(copied: tuple[Path, list[int]]) -> None:
    """Forwards and backwards, in the journal and a stream, with other ends, the first time and with the cache."""
    path, seconds = copied
    for _ in range(2):
        with FileEventStore(path, durability="relaxed") as store:
            check_all(store, seconds)
            check_all(store, seconds)
    assert len(list(path.glob("*.times"))) >= 5
    assert len(list((path / "streams/a").glob("*.times"))) >= 3
    assert {file.stat().st_mode & 0o777 for file in path.rglob("*.times")} == {0o600}


class Counting(FileSystem):
    """Counts the bytes read."""

    bytes = 0

    def read(self, fd: int, size: int, offset: int) -> bytes:
        data = super().read(fd, size, offset)
        self.bytes += len(data)
        return data


def test_a_read_of_the_last_minute_reads_little(history: tuple[Path, list[int]]) -> None:
    """In a new process too: of each segment the cache and two lines, then the blocks of the time."""
    path, seconds = history
    since = text_of(max(seconds) - 60)
    with FileEventStore(path, durability="relaxed") as store:
        wanted = numbers(store, since=since)
    filesystem = Counting()
    with FileEventStore(path, durability="relaxed", filesystem=filesystem) as store:
        before = filesystem.bytes
        assert numbers(store, since=since) == wanted
        assert filesystem.bytes - before < sum(file.stat().st_size for file in path.glob("journal*.jsonl")) // 3


def test_a_read_does_not_go_beyond_its_end(history: tuple[Path, list[int]]) -> None:
    """Of a version or of a position, forwards and backwards: one block is read at most."""
    filesystem = Counting()
    with FileEventStore(history[0], durability="relaxed", filesystem=filesystem) as store:
        for options in (
            {"to_position": 20},
            {"from_position": 6000, "to_position": 6200},
            {"to_position": COUNT - 20, "reverse": True},
            {"from_position": 6000, "to_position": 5900, "reverse": True},
            {"stream_id": "a:1", "to_version": 20},
            {"stream_id": "a:1", "from_version": 6000, "to_version": 6200},
            {"stream_id": "a:1", "from_version": 6000, "to_version": 5900, "reverse": True},
            {"stream_id": "a:1", "to_position": 20},
        ):
            before = filesystem.bytes
            assert len(list(store.records(**options))) >= 20  # type: ignore[arg-type]
            assert filesystem.bytes - before < 700_000, options
        before = filesystem.bytes
        assert len(store.read_stream("a:1", 6000, to_version=6009)) == 10
        assert filesystem.bytes - before < 100_000


def files_of_times(path: Path) -> Iterator[Path]:
    return (file for file in sorted(path.rglob("*.times")))


def test_times_that_are_deleted_come_back(copied: tuple[Path, list[int]]) -> None:
    """While the store is open, too."""
    path, seconds = copied
    with FileEventStore(path, durability="relaxed") as store:
        for _ in range(2):
            check_all(store, seconds, RANGES[2:4])
            there = [*files_of_times(path)]
            assert there
            for file in there:
                file.unlink()


@pytest.mark.parametrize("damage", ["empty", "zeros", "cut", "of another segment", "a folder", "a changed byte"])
def test_damaged_times_are_ignored(copied: tuple[Path, list[int]], damage: str) -> None:
    """The read is right, and `verify` finds nothing wrong: the next use makes them again."""
    path, seconds = copied
    with FileEventStore(path, durability="relaxed") as store:
        check_all(store, seconds, RANGES[2:4])
    there = [*files_of_times(path)]
    other = there[0].read_bytes()
    for file in there[1:]:
        content = file.read_bytes()
        file.unlink()
        if damage == "a folder":
            file.mkdir()
            continue
        file.write_bytes(
            {
                "empty": b"",
                "zeros": bytes(len(content)),
                "cut": content[: len(content) // 2],
                "of another segment": other,
                "a changed byte": content.replace(b"2026", b"2016", 1),
            }[damage]
        )
    with FileEventStore(path, durability="relaxed") as store:
        check_all(store, seconds, RANGES[2:4])
        assert not list(verify(store))


def test_times_of_another_history_are_not_believed(tmp_path: Path) -> None:
    """An older copy of the files is put back, with what was made later, and the store goes on differently."""
    path = tmp_path / "s"
    fill(path, rising()[:5000])
    shutil.copytree(path, tmp_path / "older")
    with FileEventStore(path, durability="relaxed") as store:
        events = [("Added", None, b'{"_version":1,"number":%d}' % n, text_of(n), None) for n in range(5000, 12_000)]
        store.append_encoded([Pending("a:1", events, ANY)])
        assert numbers(store, since=text_of(11_990)) == list(range(11_990, 12_000))
    shutil.copytree(tmp_path / "older", path, dirs_exist_ok=True)
    for file in path.rglob("*.jsonl"):
        if not (tmp_path / "older" / file.relative_to(path)).exists():
            file.unlink()
    (path / "state").unlink()
    repair(path)
    with FileEventStore(path, durability="relaxed") as store:
        events = [
            ("Added", None, b'{"_version":1,"number":%d}' % n, text_of(n + 50_000), None) for n in range(5000, 12_000)
        ]
        store.append_encoded([Pending("a:1", events, ANY)])
        for stream_id in (None, "a:1"):
            assert numbers(store, stream_id, since=text_of(61_990)) == list(range(11_990, 12_000))
            assert numbers(store, stream_id, since=text_of(5000), until=text_of(50_000)) == []


def test_wrong_times_are_found_and_deleted(copied: tuple[Path, list[int]]) -> None:
    """Somebody has written them by hand, with a right checksum."""
    path, seconds = copied
    with FileEventStore(path, durability="relaxed") as store:
        check_all(store, seconds, RANGES[2:4])
    file = path / "journal.00000000000000000001.times"
    content = without_crc(file.read_bytes())
    file.write_bytes(with_crc(_later(content)))
    with FileEventStore(path, durability="relaxed") as store:
        (damage,) = verify(store)
    assert damage.path == str(file)
    assert [str(result.path) for result in repair(path)] == [str(file)]
    with FileEventStore(path, durability="relaxed") as store:
        check_all(store, seconds, RANGES[2:4])
        assert not list(verify(store))


def _later(content: bytes) -> Times:
    times = msgspec.json.decode(content, type=Times)
    blocks = [(following, text_of(90_000), text_of(90_001)) for following, _, _ in times.blocks]
    return msgspec.structs.replace(times, blocks=blocks, earliest=text_of(90_000), latest=text_of(90_001))


def test_a_folder_that_may_not_be_written_to_is_read(copied: tuple[Path, list[int]]) -> None:
    """The times are found each time anew, and kept as long as the store is open."""

    class Refusing(FileSystem):
        def replace_file(self, path: str, content: bytes, *, sync: bool = True) -> None:
            if path.endswith(".times"):
                raise PermissionError(path)
            super().replace_file(path, content, sync=sync)

    path, seconds = copied
    for file in files_of_times(path):
        file.unlink()
    with FileEventStore(path, durability="relaxed", filesystem=Refusing()) as store:
        check_all(store, seconds, RANGES[2:4])
    assert not list(files_of_times(path))


def test_events_appended_meanwhile_are_found(tmp_path: Path) -> None:
    """Across rolls, by a store that has the times of what was there before."""
    path = tmp_path / "s"
    fill(path, rising()[:3000])
    with (
        FileEventStore(path, durability="relaxed") as reader,
        FileEventStore(path, durability="relaxed") as writer,
    ):
        for start in range(3000, 16_000, 500):
            since = text_of(start - 100)
            assert numbers(reader, since=since) == list(range(start - 100, start))
            assert numbers(reader, "a:1", since=since) == [n for n in range(start - 100, start) if n >= 3000]
            events = [
                ("Added", None, b'{"_version":1,"number":%d}' % n, text_of(n), None) for n in range(start, start + 500)
            ]
            writer.append_encoded([Pending("a:1", events, ANY)])


def test_damage_outside_of_the_time_is_not_met(copied: tuple[Path, list[int]]) -> None:
    """Damage within it is served from the other copy, or raised; a damaged block is never skipped."""
    path, seconds = copied
    since, until = text_of(2490), text_of(2495)
    wanted = in_range(seconds, 2490, 2495)
    with FileEventStore(path, durability="relaxed") as store:
        assert numbers(store, since=since, until=until) == wanted
    for file in path.rglob("*.jsonl"):
        file.write_bytes(file.read_bytes().replace(b'"number":2492}', b'"number":2592}'))
    with FileEventStore(path, durability="relaxed") as store, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert numbers(store, since=text_of(30), until=text_of(40)) == in_range(seconds, 30, 40)
        with pytest.raises(CorruptionError):
            numbers(store, since=since, until=until)
        assert numbers(store, since=since, limit=2) == in_range(seconds, 2490, None)[:2]
        assert numbers(store, to_position=2490) == list(range(2490))
        assert len(store.read_stream("a:1", to_version=1800)) == 1801
    for file in files_of_times(path):
        file.unlink()
    with FileEventStore(path, durability="relaxed") as store:
        with pytest.warns(CorruptionWarning):
            found = numbers(store, since=since, until=until, on_damage="skip")
        assert found == [number for number in wanted if number != 2492]
        with pytest.warns(CorruptionWarning):
            found = numbers(store, from_position=2600, to_position=2400, reverse=True, on_damage="skip")
        assert found == [number for number in range(2598, 2398, -1) if number != 2492]


def test_a_stream_cut_short_is_read_from_the_journal(copied: tuple[Path, list[int]]) -> None:
    """Up to the version that is asked for, which its file has no more."""
    path, _ = copied
    active = path / "streams/b/1.jsonl"
    lines = active.read_bytes().splitlines(keepends=True)
    active.write_bytes(b"".join(lines[:-5]))
    for file in path.glob("streams/b/*.index"):
        file.unlink()
    with FileEventStore(path, durability="relaxed") as store, pytest.warns(CorruptionWarning):
        assert len(store.read_stream("b:1", 2990, to_version=2998)) == 9


def test_a_compaction_takes_the_times_along(copied: tuple[Path, list[int]]) -> None:
    """No file of times is left without its segment."""
    path, seconds = copied
    with FileEventStore(path, durability="relaxed") as store:
        check_all(store, seconds, RANGES[2:4])
        store.save_snapshot("a:1", 6000, {})
        store.compact_stream("a:1")
        found = numbers(store, "a:1", since=text_of(2490), until=text_of(2495))
        versions = [record.stream_version for record in store.records("a:1")]
        assert found == [n for n in in_range(seconds, 2490, 2495) if n % 1000 < 750 and _version(n) in set(versions)]
    sealed = {file.with_suffix(".jsonl") for file in files_of_times(path) if ".sealed." not in file.name}
    assert all(os.path.exists(file) for file in sealed)


def _version(number: int) -> int:
    return number // 1000 * 750 + number % 1000
