"""An event that is damaged in both of its copies hides nothing but itself."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import random
import shutil
import tracemalloc
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from conftest import Added, Command
from store_files import change, flip

from hangarlog import ANY, CorruptionError, CorruptionWarning, FileEventStore, Record
from hangarlog.filestore.salvage import MAX_PART_BYTES
from hangarlog.integrations.export import new_file
from hangarlog.maintenance.repair import Lost, PutAside, repair
from hangarlog.record.line import decode_record, is_record

EVENTS = 90


def fill(path: Path, segment_bytes: int = 4_000) -> None:
    """Event `n` is at position n + 1, version n // 3 of stream a:0, a:1 or a:2; all logs have sealed segments."""
    with FileEventStore(path, durability="relaxed", segment_bytes=segment_bytes) as store:
        for number in range(EVENTS):
            store.append(f"a:{number % 3}", [Added(number, "x" * 60)], ANY)
        store.sync()


HOW: dict[str, Callable[[bytes], bytes]] = {
    "a changed byte": flip,
    "no line": lambda line: b"",
    "zeros": lambda line: bytes(len(line) - 1) + b"\n",
    "other text": lambda line: b"hello\n",
    "its newline gone": lambda line: line[:-1] + b" ",
}


@contextlib.contextmanager
def opened_after(path: Path, damage: Callable[[], object], *, closed: bool = False) -> Iterator[FileEventStore]:
    """The store, damaged while somebody has it open; or while it was `closed`, and then opening it recovers."""
    with contextlib.ExitStack() as stack:
        if not closed:
            stack.enter_context(FileEventStore(path, durability="relaxed"))
        damage()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CorruptionWarning)
            store = stack.enter_context(FileEventStore(path, durability="relaxed"))
        yield store


def test_a_copy_that_lacks_a_line_takes_it_from_the_stream(tmp_path: Path) -> None:
    """Although sealed segments of streams go beyond its journal, which is whole but for that line."""
    source, path = tmp_path / "source", tmp_path / "copy"
    fill(source)
    shutil.copytree(source, path)
    change(path / "journal", 5, lambda line: b"")
    *_, last = sorted(path.glob("journal.0*.jsonl"))
    following = int(last.name.split(".")[1]) - 1
    last.unlink()
    (path / "journal.jsonl").write_bytes(b"")
    change(path / f"streams/a/{following % 3}", following, lambda line: b"")  # So nothing joins the journal's end.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)
        with FileEventStore(path, durability="relaxed") as store:
            assert [record.event.number for record in store.records()] == [*range(following)]


def lose(path: Path, numbers: Iterable[int], how: Callable[[bytes], bytes] = flip) -> dict[int, tuple[str, int]]:
    """Damage these events in both copies: the places in the journal."""
    places = {}
    for number in numbers:
        change(path / f"streams/a/{number % 3}.jsonl", number, how)
        places[number] = change(path / "journal.jsonl", number, how)
    return places


def test_a_stream_without_its_active_segment_still_has_its_sealed_ones(tmp_path: Path) -> None:
    """What they have stands in for a line of the journal. Somebody had put back a part of the files."""
    path = tmp_path / "s"
    fill(path)
    change(path / "journal", 5, lambda line: b"")
    (path / "streams/a/2.jsonl").unlink()  # Event 5 is in a sealed segment of this stream.
    with pytest.warns(CorruptionWarning), FileEventStore(path, durability="relaxed") as store:
        assert [record.event.number for record in store.records(on_damage="skip")][:10] == [*range(10)]


def seen(records: Iterable[Record], into: list[int]) -> CorruptionError | None:
    """Read until an error comes: what was read goes `into` the list."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)
        try:
            into.extend(record.event.number for record in records)
        except CorruptionError as error:
            return error
    return None


@pytest.mark.parametrize("how", [name for name in HOW if name != "its newline gone"])
@pytest.mark.parametrize("number", [0, 4, 44, 88, 89])
@pytest.mark.parametrize("closed", [False, True])
def test_a_lost_event_is_raised_in_its_turn_and_can_be_passed_over(
    tmp_path: Path, how: str, number: int, closed: bool
) -> None:
    """In the whole store and in its stream, forwards and backwards."""
    path = tmp_path / "s"
    fill(path)
    if closed and (number == 89 or (how == "no line" and number > 86)):
        return  # Nothing keeps its place: the next recovery's affair.
    mine, others = range(number % 3, EVENTS, 3), range(EVENTS)
    with opened_after(path, lambda: lose(path, [number], HOW[how]), closed=closed) as store:
        for stream, events, reverse in itertools.product((None, f"a:{number % 3}"), (0,), (False, True)):
            assert events == 0
            wanted = list(others if stream is None else mine)[:: -1 if reverse else 1]
            before: list[int] = []
            error = seen(store.records(stream, reverse=reverse), before)
            assert before == wanted[: wanted.index(number)], (stream, reverse)
            assert error is not None
            if stream is None:
                assert error.position == number + 1
            else:
                assert (error.stream_id, error.stream_version) == (stream, number // 3)
            assert "repair" not in str(error)
            again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
            assert (str(again), vars(again)) == (str(error), vars(error))
            with pytest.warns(CorruptionWarning) as caught:
                records = list(store.records(stream, reverse=reverse, on_damage="skip"))
            wanted.remove(number)
            assert [record.event.number for record in records] == wanted, (stream, reverse)
            assert sum("passed over" in str(warning.message) for warning in caught) == 1
        others_stream = f"a:{(number + 1) % 3}"
        assert len(store.read_stream(others_stream)) == EVENTS // 3
        with pytest.warns(CorruptionWarning):
            assert len(store.read_stream(f"a:{number % 3}", on_damage="skip")) == EVENTS // 3 - 1
        with pytest.warns(CorruptionWarning):
            assert len(list(store.read_all(on_damage="skip"))) == EVENTS - 1


def test_the_error_has_the_place_of_the_damage(tmp_path: Path) -> None:
    """Path and offset of the damaged line, and what is known of the event."""
    path = tmp_path / "s"
    fill(path)
    places = lose(path, [44])
    with FileEventStore(path, durability="relaxed") as store:
        error = seen(store.records(), [])
        assert error
        assert (error.path, error.offset) == places[44]
        assert (error.position, error.stream_id, error.stream_version) == (45, "a:2", 14)
        error = seen(store.records("a:2"), [])
        assert error
        assert error.path.startswith(str(path / "streams/a/2."))
        assert (error.position, error.stream_id, error.stream_version) == (45, "a:2", 14)


def whole(path: Path) -> set[int]:
    """The events of which a copy is whole."""
    lines = [line for file in path.rglob("*.jsonl") for line in file.read_bytes().split(b"\n") if is_record(line)]
    return {decode_record(line).position - 1 for line in lines}


def damage_some(path: Path, chosen: random.Random) -> None:
    """Damage events in one copy, in the other, or in both, in every way."""
    for number in chosen.sample(range(EVENTS - 3), chosen.choice([1, 5, 20])):
        how = HOW[chosen.choice(sorted(HOW))]
        copies = chosen.choice([1, 2, 3])
        with contextlib.suppress(AssertionError):  # It is damaged already.
            if copies & 1:
                change(path / "journal.jsonl", number, how)
            if copies & 2:
                change(path / f"streams/a/{number % 3}.jsonl", number, how)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_damaged_everything_else_is_read(tmp_path: Path, seed: int, closed: bool) -> None:
    """Only what no copy has is missing; if the store was closed, it is read at once, or when it was repaired."""
    chosen = random.Random(seed)
    path = tmp_path / "s"
    fill(path, chosen.choice([4_000, 9_000, 1 << 20]))
    with contextlib.ExitStack() as stack:
        if not closed:
            stack.enter_context(FileEventStore(path, durability="relaxed"))
        damage_some(path, chosen)
        lost = set(range(EVENTS)) - whole(path)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", CorruptionWarning)
        try:
            store = stack.enter_context(FileEventStore(path, durability="relaxed"))
        except CorruptionError as error:
            assert closed
            assert "hangarlog repair" in str(error)  # noqa: PT017
            list(repair(path))
            store = stack.enter_context(FileEventStore(path, durability="relaxed"))
        for reverse in (False, True):
            got = [r.event.number for r in store.records(on_damage="skip", reverse=reverse)]
            assert got == sorted(got, reverse=reverse)
            assert set(range(EVENTS)) - set(got) == lost
            of_streams = set()
            for stream in ("a:0", "a:1", "a:2"):
                events = [r.event.number for r in store.records(stream, on_damage="skip", reverse=reverse)]
                assert events == sorted(events, reverse=reverse)
                of_streams |= set(events)
            assert of_streams == set(got)  # Both ways find the same.


def test_streams_are_listed_although_an_event_is_lost(tmp_path: Path) -> None:
    """A list needs the journal where a stream's file is gone."""
    path = tmp_path / "s"
    fill(path)

    def damage() -> None:
        lose(path, [44])
        (path / "streams/a/1.jsonl").unlink()

    with opened_after(path, damage) as store, pytest.warns(CorruptionWarning) as warned:
        assert store.list_streams() == ["a:0", "a:1", "a:2"]
    assert any("passed over" in str(each.message) and "stream 'a:2'" in str(each.message) for each in warned)


def test_a_version_is_known_although_other_events_are_lost(tmp_path: Path) -> None:
    """The end of a stream that is damaged in one copy comes from the other, wherever else that is damaged."""
    path = tmp_path / "s"
    fill(path)

    def damage() -> None:
        lose(path, [3, 44])
        change(path / "streams/a/2.jsonl", 89, flip)
        change(path / "journal.jsonl", 88, flip)

    with opened_after(path, damage) as store:
        with pytest.warns(CorruptionWarning, match="served from the journal"):
            assert store.get_stream_version("a:2") == 29
        assert store.get_stream_version("a:1") == 29
        lose(path, [87])
        with pytest.raises(CorruptionError) as caught:
            store.get_stream_version("a:0")
        assert caught.value.stream_version == 29


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("number", [88, 89])
def test_the_version_of_a_lost_event_is_not_given_again(tmp_path: Path, how: str, number: int, closed: bool) -> None:
    """The last event of a stream is lost: appends to it are refused until a repair has said so.

    Those to other streams go on, but where nothing keeps its place in the journal.
    """
    path = tmp_path / "s"
    fill(path)
    if closed and (number == 89 or how in ("no line", "its newline gone")):
        return  # It is refused as a whole.
    with opened_after(path, lambda: lose(path, [number], HOW[how]), closed=closed) as store:
        stream = f"a:{number % 3}"
        with pytest.raises(CorruptionError):
            store.append(stream, [Added(0)], ANY)
        with pytest.raises(CorruptionError) as caught:
            store.get_stream_version(stream)
        assert caught.value.stream_version == EVENTS // 3 - 1
        if how == "no line" or (how == "other text" and number == 89):
            with pytest.raises(CorruptionError, match="hangarlog repair"):
                store.append("a:0", [Added(0)], ANY)
        else:
            assert store.append("a:0", [Added(0)], ANY) == EVENTS // 3
            assert store.get_stream_version("a:0") == EVENTS // 3
    list(repair(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)
        store = FileEventStore(path, durability="relaxed")
    with store:
        assert store.append(stream, [Added(0)], ANY) == store.get_stream_version(stream)


def test_a_repair_loses_one_event_where_two_lines_became_one_that_the_stream_has_in_part(tmp_path: Path) -> None:
    path = tmp_path / "s"
    fill(path, 1 << 20)
    change(path / "journal.jsonl", 65, HOW["its newline gone"])
    change(path / "streams/a/2.jsonl", 65, flip)
    lost = [result for result in repair(path) if isinstance(result, Lost | PutAside)]
    assert lost == [Lost(66, 66), Lost(21, 21, "a:2")]


def test_on_damage_is_raise_or_skip(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s") as store, pytest.raises(ValueError, match="on_damage"):
        store.read_stream("a:1", on_damage="ignore")  # type: ignore[arg-type]


def test_memory_stays_bounded_where_much_is_damaged(tmp_path: Path) -> None:
    """The parts that are read from both copies are a segment, or `MAX_PART_BYTES` bytes, at a time."""
    path = tmp_path / "s"
    with FileEventStore(path, durability="relaxed", segment_bytes=1 << 20) as store:
        for start in range(0, 30_000, 100):
            store.append("a:0", [Added(n, "x" * 400) for n in range(start, start + 100)], ANY)
    for file in (path / "streams/a").glob("*.jsonl"):
        file.write_bytes(file.read_bytes().replace(b'"number":', b'"number": '))
    assert MAX_PART_BYTES >= 1 << 20
    with FileEventStore(path, durability="relaxed") as store, warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptionWarning)
        for reverse in (False, True):
            tracemalloc.start()
            count = sum(len(block) for block in store.envelopes("a:0", reverse=reverse))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert count == 30_000
            assert peak < 10 << 20  # Of 18 MB a copy.


def test_the_command_line_passes_over_what_is_lost(tmp_path: Path, hangarlog: Command) -> None:
    path = tmp_path / "s"
    fill(path)
    lose(path, [44])
    for arguments, count, skipped in (([path], 44, EVENTS - 1), ([path, "a:2"], 14, EVENTS // 3 - 1)):
        done = hangarlog("read", *arguments)
        assert (done.returncode, done.stdout.count(b"\n")) == (1, count)
        assert b"position 45" in done.stderr
        assert b"--skip-damaged" in done.stderr
        done = hangarlog("read", *arguments, "--skip-damaged")
        assert (done.returncode, done.stdout.count(b"\n")) == (0, skipped)
        assert done.stderr.count(b"passed over") == 1


EXPORTS = ["out.jsonl", "out.db", "out.jsonl --format cloudevents"]


@pytest.mark.parametrize("target", EXPORTS)
def test_an_export_serves_what_is_damaged_from_the_other_copy(tmp_path: Path, hangarlog: Command, target: str) -> None:
    """It is what it would be without the damage."""
    path = tmp_path / "s"
    fill(path)
    name, *options = target.split()
    assert hangarlog("export", path, f"whole-{name}", *options).returncode == 0
    change(path / "journal.jsonl", 44, flip)
    change(path / "journal.jsonl", 89, flip)
    done = hangarlog("export", path, name, *options)
    assert done.returncode == 0
    assert b"served from the streams" in done.stderr
    assert hangarlog("export", path, "-").stdout == b"".join(
        sorted(
            b"".join(file.read_bytes() for file in (path / "streams/a").glob("*.jsonl")).splitlines(keepends=True),
            key=lambda line: int(line[12 : line.index(b",")]),
        )
    )
    if name.endswith(".jsonl"):
        assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, "s", f"whole-{name}"])


@pytest.mark.parametrize("target", EXPORTS)
def test_an_export_that_cannot_have_all_events_leaves_no_file(tmp_path: Path, hangarlog: Command, target: str) -> None:
    """It says which is lost, and exits with 1; told to pass over it, it writes the others, and exits with 1 as well."""
    path = tmp_path / "s"
    fill(path)
    lose(path, [44])
    name, *options = target.split()
    done = hangarlog("export", path, name, *options)
    assert done.returncode == 1
    assert b"position 45" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["s"]
    done = hangarlog("export", path, name, *options, "--skip-damaged")
    assert done.returncode == 1
    assert b"passed over" in done.stderr
    assert b"position 45" in done.stderr
    assert b"1 of 90 events" in done.stderr
    assert f'"events":{EVENTS - 1}'.encode() in done.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == [name, "s"]
    done = hangarlog("export", path, "-")
    assert (done.returncode, done.stdout.count(b"\n")) == (1, 44)
    done = hangarlog("export", path, "-", "--skip-damaged")
    assert (done.returncode, done.stdout.count(b"\n")) == (1, EVENTS - 1)


def test_a_damaged_snapshot_keeps_no_event_from_an_export(tmp_path: Path, hangarlog: Command) -> None:
    path = tmp_path / "s"
    fill(path)
    with FileEventStore(path) as store:
        store.save_snapshot("a:0", 1, {"x": 1})
    snapshot = path / "snapshots/a/0.json"
    snapshot.write_bytes(snapshot.read_bytes().replace(b'"x":1', b'"x":2'))
    assert hangarlog("export", path, "out.jsonl").returncode == 0
    done = hangarlog("export", path, "out.db")
    assert done.returncode == 1
    assert str(snapshot).encode() in done.stderr
    assert not (tmp_path / "out.db").exists()
    assert hangarlog("export", path, "out.db", "--skip-damaged").returncode == 0


def fail_after_writing(file: BinaryIO) -> None:
    file.write(b"half")
    raise OSError("half")


def test_an_export_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    """Nor does it replace what somebody has put there meanwhile."""
    target = tmp_path / "out"
    with pytest.raises(OSError, match="half"), new_file(str(target)) as unfinished:
        fail_after_writing(unfinished)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileExistsError), new_file(str(target)):
        target.write_text("theirs")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("out", "theirs")]
