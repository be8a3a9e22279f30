"""Parts of hangarlog, each beside its floor: `pytest bench/`. A group is one part and has two entries."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.engines.registry import load_engine
from bench.harness.engine import Session
from bench.harness.payload import ProviderStarted, event, events
from hangarlog import ANY, EncodedEvent, EventSerializer, UntypedEvent
from hangarlog.record.line import decode_record, encode_envelope

pytest.importorskip("pytest_benchmark")

_STREAM = "provider:math"
_LENGTH = 1000
Make = Callable[[str], Session]
SIDES = pytest.mark.parametrize("side", ["hangarlog", "floor"])


class Line(msgspec.Struct):
    """The content of a line, without a checksum."""

    position: int
    stream_id: str
    stream_version: int
    event_type: str
    event_id: str
    recorded_at: str
    data: ProviderStarted


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a function that opens a contender in a fresh folder."""
    opened: list[Session] = []

    def open_one(contender: str) -> Session:
        folder = tmp_path / str(len(opened))
        folder.mkdir()
        variant = contender.partition(":")[2]
        opened.append(load_engine(contender).open(str(folder), durable=False, variant=variant))
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()


def _line(make: Make) -> bytes:
    """Return a line as the store writes it."""
    session: Any = make("hangarlog")
    session.append(_STREAM, [event(0)], -1)
    return Path(session.store.path, "journal.jsonl").read_bytes().rstrip(b"\n")


def _appending(session: Session, batch: int) -> Callable[[list[Any]], None]:
    """Return a function that appends events at the version of its last append."""
    version = -1

    def append(new_events: list[Any]) -> None:
        nonlocal version
        version = session.append(_STREAM, new_events, version)

    append(events(batch))
    return append


def _fresh(batch: int) -> Callable[[], tuple[tuple[list[Any]], dict[str, Any]]]:
    numbers = count(0, batch)
    return lambda: (([event(next(numbers) + n) for n in range(batch)],), {})


@SIDES
@pytest.mark.benchmark(group="encode an event")
def test_encode_an_event(benchmark: Any, side: str) -> None:
    encode = EventSerializer().encode if side == "hangarlog" else msgspec.json.Encoder().encode
    benchmark(encode, event(0))


@SIDES
@pytest.mark.benchmark(group="encode a record")
def test_encode_a_record(benchmark: Any, side: str, make: Make) -> None:
    line = _line(make)
    if side == "hangarlog":
        benchmark(encode_envelope, decode_record(line))
    else:
        benchmark(msgspec.json.Encoder().encode, msgspec.json.decode(line, type=Line))


@SIDES
@pytest.mark.benchmark(group="decode a record")
def test_decode_a_record(benchmark: Any, side: str, make: Make) -> None:
    benchmark(decode_record if side == "hangarlog" else msgspec.json.Decoder(Line).decode, _line(make))


@pytest.mark.parametrize("side", ["hangarlog", "floor:whole lines"])
@pytest.mark.benchmark(group="append, relaxed")
def test_append(benchmark: Any, side: str, make: Make) -> None:
    benchmark.pedantic(_appending(make(side), 1), setup=_fresh(1), rounds=5000)


@pytest.mark.parametrize("side", ["hangarlog:exclusive", "floor:whole lines"])
@pytest.mark.benchmark(group="append, exclusive")
def test_append_exclusively(benchmark: Any, side: str, make: Make) -> None:
    benchmark.pedantic(_appending(make(side), 1), setup=_fresh(1), rounds=5000)


@SIDES
@pytest.mark.parametrize("durability", ["relaxed", "always"])
def test_advance_a_cursor(benchmark: Any, side: str, durability: str, make: Make, tmp_path: Path) -> None:
    """The floor overwrites a sector in place, and syncs it."""
    benchmark.group = f"advance a cursor, {durability}"
    rounds, numbers = (5000, count(1)) if durability == "relaxed" else (200, count(1))
    if side == "hangarlog":
        session: Any = make("hangarlog")
        session.append(_STREAM, events(rounds + 1), -1)
        session.store.sync()
        cursor = session.store.cursor("reader")
        cursor.advance(next(numbers))

        def advance() -> None:
            cursor.advance(next(numbers), durability=durability)
    else:
        fd = os.open(tmp_path / "cursor", os.O_RDWR | os.O_CREAT)
        os.write(fd, bytes(4096))
        os.fsync(fd)

        def advance() -> None:
            os.pwrite(fd, b"%d" % next(numbers), 0)
            if durability == "always":
                os.fdatasync(fd)

    benchmark.pedantic(advance, rounds=rounds)


@pytest.mark.parametrize("side", ["hangarlog", "floor:whole lines"])
@pytest.mark.benchmark(group="append 1,000")
def test_append_a_batch(benchmark: Any, side: str, make: Make) -> None:
    benchmark.pedantic(_appending(make(side), _LENGTH), setup=_fresh(_LENGTH), rounds=30)


@pytest.mark.parametrize("side", ["hangarlog", "floor:file per stream"])
@pytest.mark.benchmark(group="a new stream")
def test_make_a_stream(benchmark: Any, side: str, make: Make) -> None:
    session, numbers = make(side), count()
    benchmark.pedantic(
        session.append, setup=lambda: ((f"provider:{next(numbers)}", events(1, "", 0), -1), {}), rounds=1000
    )


@pytest.mark.parametrize("side", ["hangarlog", "floor:one pass"])
@pytest.mark.benchmark(group="read a stream of 1,000")
def test_read_a_stream(benchmark: Any, side: str, make: Make) -> None:
    session = make(side)
    session.append(_STREAM, events(_LENGTH), -1)
    assert len(benchmark(session.read_stream, _STREAM)) == _LENGTH


@pytest.mark.parametrize("side", ["hangarlog", "sqlite3"])
@pytest.mark.benchmark(group="one event by position")
def test_read_one_event(benchmark: Any, side: str, make: Make) -> None:
    """The floor is a look-up in sqlite3: bare calls would have to know the place of the event."""
    session = make(side)
    session.append(_STREAM, events(_LENGTH), -1)
    assert benchmark(session.read_by_position, _LENGTH // 2).provider_id == "math"


@pytest.fixture
def store_with_ids(make: Make) -> Any:
    """A store of 100,000 events with ids `id-0` to `id-99999`, in a table."""
    session: Any = make("hangarlog")
    for first in range(0, 100_000, 1000):
        session.store.append(_STREAM, [_identified(n) for n in range(first, first + 1000)], ANY, retry=False)
    assert session.store.contains("id-99999")
    return session.store


def _identified(number: int) -> UntypedEvent:
    return UntypedEvent("Numbered", {"number": number}, event_id=f"id-{number}")


@pytest.mark.parametrize("side", ["hangarlog", "plain"])
@pytest.mark.benchmark(group="append, idempotent")
def test_append_idempotently(benchmark: Any, side: str, store_with_ids: Any) -> None:
    """The floor is a plain append."""
    numbers, idempotent = count(100_000), side == "hangarlog"
    benchmark.pedantic(
        lambda events: store_with_ids.append(_STREAM, events, ANY, idempotent=idempotent),
        setup=lambda: (([_identified(next(numbers))],), {}),
        rounds=3000,
    )


@SIDES
@pytest.mark.parametrize("found", [True, False], ids=["hit", "miss"])
def test_look_up_an_id(benchmark: Any, side: str, found: bool, store_with_ids: Any) -> None:
    """The floor is a dictionary."""
    ids = {f"id-{number}" for number in range(100_000)}
    wanted = (f"id-{number * 7919 % 100_000}{'' if found else '-'}" for number in count())
    contains = store_with_ids.contains if side == "hangarlog" else ids.__contains__
    benchmark.group = f"an event id that is {'' if found else 'not '}there"
    assert benchmark.pedantic(contains, setup=lambda: ((next(wanted),), {}), rounds=3000) is found


@pytest.mark.parametrize("side", ["hangarlog", "floor"])
@pytest.mark.benchmark(group="make the table of event ids")
def test_make_the_table(benchmark: Any, side: str, store_with_ids: Any) -> None:
    """Of 100,000 events. The floor is to read them."""
    store, table = store_with_ids, Path(store_with_ids.path, "event-ids")

    def make_anew() -> bool:
        table.unlink()
        with type(store)(store.path, serializer=store.serializer, durability="relaxed") as other:
            return bool(other.contains("id-7"))

    benchmark.pedantic(make_anew if side == "hangarlog" else lambda: [*store.envelopes()], rounds=5)


@pytest.fixture
def store_of_segments(make: Make, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store of 200 sealed segments, whose times are known."""
    monkeypatch.setattr("hangarlog.log.sealed_times._RACY_NS", 0)  # Files that have just changed are noted, too.
    session: Any = make("hangarlog")
    folder = Path(session.store.path).with_name("segments")
    with type(session.store).untyped(folder, durability="relaxed", segment_bytes=70_000) as store:
        for minute in range(400):
            moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
            store.append(_STREAM, [EncodedEvent("Noted", b"{}", recorded_at=moment)] * 200, ANY, retry=False)
        assert next(iter(store.records(since=moment))).recorded_at == moment
        assert not list(store.records(since=moment + timedelta(days=1)))
        yield store


@SIDES
@pytest.mark.benchmark(group="the first event of a time")
def test_find_a_time(benchmark: Any, side: str, store_of_segments: Any) -> None:
    """With nothing in memory. The floor lists the folder, reads the file of times, and looks at each segment."""
    store, folder = store_of_segments, Path(store_of_segments.path)
    since = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=390)

    def find() -> object:
        store._reader.look_again()
        return next(iter(store.records(since=since)))

    def look() -> object:
        found = msgspec.json.decode((folder / "journal.sealed.times").read_bytes())
        names = [name for name in os.listdir(folder) if name.startswith("journal.0") and name.endswith(".jsonl")]
        return found, [os.stat(folder / name) for name in names]

    benchmark(find if side == "hangarlog" else look)
