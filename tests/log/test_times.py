"""The recorded times of a segment: what is noted of its blocks, and when a file of them is believed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hangarlog import ANY, FileEventStore
from hangarlog.log.sealed_times import KeptTimes
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import times_path
from hangarlog.log.time_search import ranges_in_time
from hangarlog.log.times import Times, grown, load_times
from hangarlog.record.batch import Pending
from hangarlog.record.checked_json import with_crc
from hangarlog.system.filesystem import FileSystem

COUNT = 1000


def minute(number: int) -> str:
    return f"2026-11-27T{number // 60:02d}:{number % 60:02d}:00.000000Z"


def filled(path: Path, times: list[str]) -> Path:
    """A store with an event recorded at each of these times, and 1,000 events a block of the index."""
    with FileEventStore(path, durability="relaxed") as store:
        for start in range(0, len(times), COUNT):
            events = [("Added", None, b'{"number":1}', time, None) for time in times[start : start + COUNT]]
            store.append_encoded([Pending("a:1", events, ANY)])
    return path


@contextlib.contextmanager
def segment_of(path: Path) -> Iterator[Segment]:
    with contextlib.closing(Segment(FileSystem(), str(path / "journal"), "position")) as segment:
        yield segment


def noted(path: Path) -> Times:
    with segment_of(path) as segment:
        times = grown(segment, 1, None)
        assert times
        return times


def test_the_earliest_and_the_latest_time_of_each_block_are_noted(tmp_path: Path) -> None:
    """And those of all blocks, wherever in a block they are."""
    times = [minute(500)] * (3 * COUNT)
    times[10], times[COUNT + 5], times[3 * COUNT - 1] = minute(400), minute(600), minute(1000)
    found = noted(filled(tmp_path / "s", times))
    assert [block[0] for block in found.blocks] == [COUNT + 1, 2 * COUNT + 1, 3 * COUNT + 1]
    assert [block[1:] for block in found.blocks] == [
        (minute(400), minute(500)),
        (minute(500), minute(600)),
        (minute(500), minute(1000)),
    ]
    assert (found.earliest, found.latest) == (minute(400), minute(1000))


@pytest.mark.parametrize("time", ["2026-11-27T05:00:00.1+02:00", "2026-11-27T09:00:00Z", "2026-11-27 09:00:00.000000Z"])
def test_a_block_with_a_time_in_another_form_is_never_left_out(tmp_path: Path, time: str) -> None:
    """As text, such a time may sort anywhere."""
    found = noted(filled(tmp_path / "s", [*[minute(500)] * (COUNT - 1), time, *[minute(500)] * COUNT]))
    assert [block[1:] for block in found.blocks] == [("", "~"), (minute(500), minute(500))]
    assert list(found.outside(minute(0), minute(10))) == [(COUNT + 1, 2 * COUNT)]


def test_what_lies_outside_of_a_time_is_said_by_block(tmp_path: Path) -> None:
    """`since` is inclusive, `until` exclusive."""
    found = noted(filled(tmp_path / "s", [minute(number // 10) for number in range(4 * COUNT)]))
    assert list(found.outside(minute(100), minute(200))) == [
        (1, COUNT),
        (2 * COUNT + 1, 3 * COUNT),
        (3 * COUNT + 1, 4 * COUNT),
    ]
    assert list(found.outside(minute(99), minute(201))) == [(3 * COUNT + 1, 4 * COUNT)]
    assert list(found.outside(minute(400), "~")) == [(1, 4 * COUNT)]
    assert list(found.outside("", "~")) == []


def test_a_file_is_believed_only_with_its_own_segment(tmp_path: Path) -> None:
    """Its first record and the last line that it covers must be the segment's."""
    path = filled(tmp_path / "s", [minute(500)] * (2 * COUNT))
    other = noted(filled(tmp_path / "other", [minute(500)] * (2 * COUNT)))
    own = noted(path)
    assert own.end == other.end
    first, *rest = own.blocks
    wrong = [
        other,
        msgspec.structs.replace(own, first=2),
        msgspec.structs.replace(own, end=own.end - 1),
        msgspec.structs.replace(own, end=own.end * 2),
        msgspec.structs.replace(own, tail=""),
        msgspec.structs.replace(own, tail="", end=0),
        msgspec.structs.replace(own, blocks=[]),
        msgspec.structs.replace(own, blocks=[*rest, first]),
    ]
    with segment_of(path) as segment:
        for times in [*wrong, own]:
            Path(times_path(segment.base)).write_bytes(with_crc(times))
            assert load_times(segment, 1, segment.base) == (own if times is own else None)
        assert load_times(segment, 2, segment.base) is None


def test_the_file_of_the_active_segment_serves_the_sealed_one(tmp_path: Path) -> None:
    """A roll gives the segment another name, and leaves the file where it is."""
    path = filled(tmp_path / "s", [minute(500)] * (2 * COUNT))
    own = noted(path)
    (path / "journal.times").write_bytes(with_crc(own))
    (path / "journal.jsonl").rename(path / "journal.00000000000000000001.jsonl")
    sealed = Segment(FileSystem(), str(path / "journal.00000000000000000001"), "position")
    with contextlib.closing(sealed):
        assert load_times(sealed, 1, str(path / "journal")) == own
        assert load_times(sealed, 1, sealed.base) is None


def test_times_grow_with_the_segment(tmp_path: Path) -> None:
    """Only the new blocks are read."""
    path = filled(tmp_path / "s", [minute(500)] * COUNT)
    before = msgspec.structs.replace(noted(path), blocks=[(COUNT + 1, minute(1), minute(2))])
    filled(path, [minute(700)] * COUNT)
    with segment_of(path) as segment:
        times = grown(segment, 1, before)
        assert times
        assert times.blocks == [(COUNT + 1, minute(1), minute(2)), (2 * COUNT + 1, minute(700), minute(700))]
        assert grown(segment, 1, times) is times


def test_the_ranges_of_a_log_leave_out_what_lies_outside(tmp_path: Path) -> None:
    """In both directions, between any two numbers; None is where the log begins or ends."""
    path = filled(tmp_path / "s", [minute(number // 10) for number in range(4 * COUNT)])
    with FileEventStore(path, durability="relaxed") as store:

        def ranges(start: int | None, stop: int | None, since: int, until: int, reverse: bool = False) -> list[object]:
            log = store.folder.journal_log()
            return list(ranges_in_time(log, KeptTimes({}, {}), start, stop, minute(since), minute(until), reverse))

        assert ranges(1, None, 120, 130) == [(COUNT + 1, 2 * COUNT), (4 * COUNT + 1, None)]
        assert ranges(None, 1200, 120, 130) == [(None, 0), (COUNT + 1, 1200)]
        assert ranges(1500, 1600, 120, 130) == [(1500, 1600)]
        assert ranges(1500, 2500, 120, 130) == [(1500, 2000)]
        assert ranges(500, 1600, 120, 130) == [(COUNT + 1, 1600)]
        assert ranges(2500, 2600, 120, 130) == []
        assert ranges(None, None, 120, 130, True) == [(None, 4 * COUNT + 1), (2 * COUNT, COUNT + 1), (0, None)]
        assert ranges(1600, 1500, 120, 130, True) == [(1600, 1500)]
        assert ranges(2500, 1500, 120, 130, True) == [(2000, 1500)]
        assert ranges(2600, 2500, 120, 130, True) == []
        assert ranges(1, None, 130, 120) == []
