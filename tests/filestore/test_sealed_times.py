"""The recorded times of a log's sealed segments: few files are opened, and nothing is hidden."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from test_time_search import COUNT, check_all, fill, marks_at_once, numbers, rising, set_back, text_of

from hangarlog import FileEventStore, MissingExtraError
from hangarlog.filestore.checkpointing import Checkpointing
from hangarlog.log.log import Log
from hangarlog.log.sealed_times import SealedTimes, Span, _File, load_spans
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify
from hangarlog.record.checked_json import with_crc
from hangarlog.system.filesystem import FileSystem

pytestmark = pytest.mark.usefixtures("marks_at_once")
__all__ = ["marks_at_once"]
FILE = "journal.sealed.times"


class Opening(FileSystem):
    """Notes what is opened."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def open_read(self, path: str) -> int:
        self.opened.append(os.path.basename(path))
        return super().open_read(path)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "s"
    fill(path, set_back())
    return path


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Path:
    """A copy, whose times a read has found."""
    shutil.copytree(filled, tmp_path / "s")
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        check_all(store, set_back(), [(100, 200)])
    return tmp_path / "s"


def sealed(path: Path) -> list[Path]:
    return sorted(path.glob("journal.0*.jsonl"))


def spans(path: Path) -> list[Span]:
    return load_spans(FileSystem(), str(path / "journal"))


def test_a_read_opens_only_the_segments_of_its_time(tmp_path: Path) -> None:
    """In a new process, in both directions, of the journal and of a stream."""
    path = tmp_path / "s"
    fill(path, rising())
    with FileEventStore(path, durability="relaxed") as store:
        check_all(store, rising(), [(100, 200)])
    assert [span.first for span in spans(path)] == [int(file.name[8:28]) for file in sealed(path)]
    for stream_id in (None, "a:1"):
        for reverse in (False, True):
            filesystem = Opening()
            with FileEventStore(path, durability="relaxed", filesystem=filesystem) as store:
                filesystem.opened.clear()
                times = {"since": text_of(5000), "until": text_of(5010)}
                assert numbers(store, stream_id, reverse=reverse, **times)
            assert len({name for name in filesystem.opened if name.endswith(".jsonl") and ".0" in name}) == 1
            times_opened = {name for name in filesystem.opened if name.endswith(".times")}
            assert len(times_opened) <= 4, times_opened  # Of the log, of the segment, of the active one.


def edited(file: Path) -> None:
    """Another time in a line in the middle, with a right checksum, in place; its own times are deleted, as told."""
    from msgspec.structs import replace

    from hangarlog.record.line import decode_record, encode_envelope

    lines = file.read_bytes().splitlines(keepends=True)
    record = decode_record(lines[5][:-1])
    lines[5] = encode_envelope(replace(record, recorded_at=text_of(90_000)))
    with file.open("r+b") as opened:
        opened.write(b"".join(lines))
    file.with_suffix(".times").unlink()
    file.with_suffix(".index").unlink()


def test_an_edited_segment_is_noticed(path: Path) -> None:
    """Even with its size and time of change as before."""
    file = sealed(path)[1]
    before = file.stat()
    edited(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with FileEventStore(path, durability="relaxed") as store:
        first = int(file.name[8:28])
        assert [record.position for record in store.records(since=text_of(80_000))] == [first + 5]


def copied(path: Path) -> None:
    shutil.copytree(path, path.with_name("t"), copy_function=shutil.copy2)
    shutil.rmtree(path)
    path.with_name("t").rename(path)


def retired(path: Path) -> None:
    """The file names segments that are gone, and some that never were."""
    gone = [Span(0, 1, "", "~", (1, 2, 3, 4)), Span(10**9, 10**10, "", "", (0, 0, 0, 0))]
    (path / FILE).write_bytes(with_crc(_File([*gone, *spans(path)])))


def of_another_store(path: Path) -> None:
    """Which has the same segments, with other times."""
    fill(path.with_name("other"), [number + 50_000 for number in range(COUNT)])
    with FileEventStore(path.with_name("other"), durability="relaxed") as store:
        numbers(store, since=text_of(50_000))
    shutil.copy(path.with_name("other") / FILE, path / FILE)


CHANGES: list[Callable[[Path], object]] = [
    lambda path: (path / FILE).unlink(),
    lambda path: (path / FILE).write_bytes(b""),
    lambda path: (path / FILE).write_bytes((path / FILE).read_bytes()[:-200]),
    lambda path: (path / FILE).write_bytes(bytes(1000)),
    lambda path: (path / FILE).write_bytes(b"[" * 100_000),
    lambda path: (path / FILE).write_bytes(with_crc({"sealed": [[1, 2, "a", "b", [1, 2]]]})),
    lambda path: (path / FILE).unlink() or (path / FILE).mkdir(),
    lambda path: (path / FILE).unlink() or os.mkfifo(path / FILE),
    lambda path: [file.touch() for file in sealed(path)],
    copied,
    retired,
    of_another_store,
]


def test_compressed_segments_have_times(path: Path) -> None:
    """Those that they had before, and the file of all is written anew."""
    with FileEventStore(path, durability="relaxed") as store:
        try:
            store.compress()
        except MissingExtraError:
            pytest.skip("zstd is not installed")
        check_all(store, set_back(), [(2499, 2501), (6000, 6100)])
    assert not sealed(path)
    filesystem = Opening()
    with FileEventStore(path, durability="relaxed", filesystem=filesystem) as store:
        filesystem.opened.clear()
        assert not numbers(store, since=text_of(90_000))
        assert not [name for name in filesystem.opened if name.endswith(".zst")]
        check_all(store, set_back(), [(2499, 2501)])
        assert not list(verify(store))


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_hidden_whatever_the_file_is(path: Path, change: Callable[[Path], object]) -> None:
    """And it is no damage."""
    change(path)
    with FileEventStore(path, durability="relaxed") as store:
        check_all(store, set_back(), [(2499, 2501)])
    with FileEventStore(path, durability="relaxed") as store:
        check_all(store, set_back(), [(6000, 6100)])
        assert not list(verify(store))


def test_a_span_that_claims_too_much_hides_nothing_of_the_next_segment(path: Path) -> None:
    found = spans(path)
    (path / FILE).write_bytes(with_crc(_File([found[0]._replace(following=10**9), *found[1:]])))
    with FileEventStore(path, durability="relaxed") as store:
        check_all(store, set_back(), [(6000, 6100)])


def test_a_wrong_file_is_found_and_deleted(path: Path) -> None:
    """Somebody has written it by hand, with a right checksum and the marks of the files. Each repair deletes it."""
    wrong = [span._replace(earliest=text_of(90_000), latest=text_of(90_001)) for span in spans(path)[:1]]
    (path / FILE).write_bytes(with_crc(_File(wrong)))
    with FileEventStore(path, durability="relaxed") as store:
        (damage,) = verify(store)
    assert damage.path == str(path / FILE)
    assert list(repair(path)) == []
    assert not (path / FILE).exists()
    with FileEventStore(path, durability="relaxed") as store:
        check_all(store, set_back(), [(6000, 6100)])
        assert not list(verify(store))


def test_files_that_have_just_changed_are_not_noted(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change might leave the same mark."""
    monkeypatch.setattr("hangarlog.log.sealed_times._RACY_NS", 1 << 60)
    shutil.copytree(filled, tmp_path / "s")
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        check_all(store, set_back(), [(6000, 6100)])
    assert not (tmp_path / "s" / FILE).exists()


def test_segments_that_are_gone_are_forgotten(path: Path) -> None:
    retired(path)
    with FileEventStore(path, durability="relaxed") as store:
        check_all(store, set_back(), [(2499, 2501)])
    sealed(path)[0].touch()
    with FileEventStore(path, durability="relaxed") as store:
        check_all(store, set_back(), [(2499, 2501)])
    assert spans(path)[0].first == 1


def test_the_times_are_noted_when_a_segment_is_sealed(tmp_path: Path) -> None:
    """In the background: the first read has nothing to make but for the newest segments."""
    path = tmp_path / "s"
    fill(path, rising())  # Its end waits for what runs in the background.
    there = len([*path.glob("journal.0*.times")]) + len([*(path / "streams/a").glob("1.0*.times")])
    assert there >= len(sealed(path)) // 2
    assert spans(path)


def test_many_rolls_are_noted_in_bounds(tmp_path: Path) -> None:
    """Of as many streams as may roll between two checkpoints."""
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        checkpointing = Checkpointing(store.folder, store._state)
        for number in range(200):
            checkpointing.sealed(store.folder.stream(f"a:{number}"), 0)
            checkpointing.sealed(store.folder.stream("a:1"), number)
        assert len(checkpointing._sealed) == 64
        assert len(checkpointing._sealed[store.folder.stream("a:1").base][1]) == 64
        for _ in range(2):
            checkpointing.begin()
            checkpointing.wait(None)
            assert not checkpointing._sealed
            checkpointing.sealed(store.folder.stream("b:1"), 0)
        assert len(checkpointing._latest) == 64


def test_closing_waits_for_the_times_of_one_log_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not noted by then is left to reads."""
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        checkpointing = Checkpointing(store.folder, store._state)
        noted: list[Log] = []

        def note(log: Log, firsts: list[int]) -> None:
            noted.append(log)
            closing = threading.Thread(target=checkpointing.end, args=(None,))
            closing.start()
            while checkpointing._sealed:
                pass

        monkeypatch.setattr("hangarlog.filestore.checkpointing.note_sealed", note)
        for number in range(20):
            checkpointing.sealed(store.folder.stream(f"a:{number}"), 0)
        checkpointing.begin()
        checkpointing.wait(None)
        assert len(noted) == 1


def test_the_file_is_not_written_for_each_of_many(tmp_path: Path) -> None:
    """But when one in 64 is new."""
    times = SealedTimes(FileSystem(), str(tmp_path / "journal"))
    for first in range(200):
        times.spans[first] = Span(first, first + 1, "a", "b", (0, 0, 0, 0))
    times.new = 3
    times.save()
    assert not (tmp_path / FILE).exists()
    times.new = 4
    times.save()
    assert len(spans(tmp_path)) == 200
    assert times.new == 0


def test_threads_share_what_they_find(path: Path) -> None:
    (path / FILE).unlink()
    wrong: list[object] = []
    with FileEventStore(path, durability="relaxed") as store:

        def read() -> None:
            try:
                check_all(store, set_back(), [(2499, 2501), (6000, 6100)])
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
