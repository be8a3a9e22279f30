"""Events are found by their ids, and appends are idempotent, whatever becomes of the table of ids."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from conftest import ROOT
from dying import Died, DyingFileSystem

import hangarlog.filestore.event_ids as event_ids
import hangarlog.filestore.id_table as id_table
from hangarlog import ANY, FileEventStore, OutcomeUnknownError
from hangarlog.filestore.id_table import Covered, IdTable, TableError
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify, verify_folder
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing import registered
from hangarlog.testing.crashes import Recording, Unsynced, crash_states


class Done(msgspec.Struct, frozen=True):
    event_id: str


@pytest.fixture(autouse=True)
def small_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A table pays from eight ids on, and grows with every few of them."""
    monkeypatch.setattr(event_ids, "_WORTH", 8)
    monkeypatch.setattr(id_table, "_FILLED", 6)
    with registered(Done=Done):
        yield


def opened(path: Path, **options: object) -> FileEventStore:
    return FileEventStore(path, **{"durability": "relaxed", "filesystem": Unsynced(), **options})  # type: ignore[arg-type]


def fill(store: FileEventStore, first: int, last: int) -> None:
    """Append events one by one, idempotently, to three streams."""
    for number in range(first, last):
        assert store.append(f"a:{number % 3}", [Done(f"id-{number}")], ANY, idempotent=True).written


def check(store: FileEventStore, count: int) -> None:
    """Every event is found, none is written again, and what is not there is not found."""
    before = store.get_event_count()
    for number in range(count):
        record = store.event(f"id-{number}")
        assert record is not None
        assert record.event == Done(f"id-{number}")
        result = store.append(f"a:{number % 3}", [Done(f"id-{number}")], ANY, idempotent=True)
        assert (result.written, result.last_position) == (False, record.position)
    assert not store.contains("id-none")
    assert store.get_event_count() == before


def tabled(path: Path) -> int:
    """The position up to which the table of a store covers its events; 0 if there is none."""
    store_id = msgspec.json.decode((path / "hangarlog.json").read_bytes())["store_id"]
    try:
        table = IdTable.open(FileSystem(), str(path / "event-ids"), store_id, writable=False)
    except (FileNotFoundError, TableError):
        return 0
    covered = table.covered.position
    table.close()
    return covered


def test_the_table_is_made_when_it_pays_and_is_private(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        fill(store, 0, 7)
        assert not (tmp_path / "s/event-ids").exists()
        fill(store, 7, 100)
        assert tabled(tmp_path / "s") > 80
        assert stat.S_IMODE((tmp_path / "s/event-ids").stat().st_mode) == 0o600
        check(store, 100)
        assert list(verify(store)) == []
    with opened(tmp_path / "s") as store:
        check(store, 100)
    with opened(tmp_path / "m", mode=0o640) as store:
        fill(store, 0, 30)
        assert stat.S_IMODE((tmp_path / "m/event-ids").stat().st_mode) == 0o640


def test_a_store_that_never_asks_for_ids_has_no_table(tmp_path: Path) -> None:
    """And pays nothing for it."""
    with opened(tmp_path / "s") as store:
        for number in range(100):
            store.append("a:1", [Done(f"id-{number}")], number - 1)
    assert not (tmp_path / "s/event-ids").exists()


def test_plain_appends_and_other_processes_are_seen(tmp_path: Path) -> None:
    """Each store reads what the other has appended."""
    with opened(tmp_path / "s") as one, opened(tmp_path / "s") as other:
        for number in range(0, 120, 2):
            one.append(f"a:{number % 3}", [Done(f"id-{number}")], ANY)
            result = other.append(f"a:{number % 3}", [Done(f"id-{number}")], ANY, idempotent=True)
            assert not result.written
            fill(other, number + 1, number + 2)
            assert one.contains(f"id-{number + 1}")
        check(one, 120)
        check(other, 120)


def test_more_events_than_memory_is_to_hold_are_read_from_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the table can't be written, as in a store that may only be read, or on a full disk."""
    monkeypatch.setattr(event_ids, "_MAX_GATHERED", 16)
    with opened(tmp_path / "s") as store:
        store.append("a:0", [Done(f"id-{number}") for number in range(0, 90, 3)], ANY)
        (tmp_path / "s/event-ids").mkdir()
        for number in range(0, 90, 3):
            assert store.contains(f"id-{number}")
        assert not store.append("a:0", [Done("id-87")], ANY, idempotent=True).written
        assert store.append("a:0", [Done("id-99")], ANY, idempotent=True).written
        assert not store.append("a:0", [Done("id-99")], ANY, idempotent=True).written
        (tmp_path / "s/event-ids").rmdir()
        for _ in range(20):
            assert not store.contains("id-1")
        assert tabled(tmp_path / "s") == 0
        for number in range(100, 150):
            store.append("a:0", [Done(f"id-{number}")], ANY, idempotent=True)
        assert tabled(tmp_path / "s") > 50


def test_ids_that_come_again_in_many_streams_are_found_in_each(tmp_path: Path) -> None:
    """In the table as in memory; the first of them is the event with that id."""
    with opened(tmp_path / "s") as store:
        for number in range(60):
            store.append(f"a:{number}", [Done("same")], ANY, idempotent=True)
        for number in range(60):
            result = store.append(f"a:{number}", [Done("same")], ANY, idempotent=True)
            assert (result.written, result.last_position) == (False, number + 1)
        for _ in range(60):
            store.append("a:1", [Done("same")], ANY, retry=False)
        first = store.event("same")
        assert first is not None
        assert first.position == 1
        assert store.append("a:1", [Done("same")], ANY, idempotent=True).last_position == 2


def test_two_ids_with_one_key_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record proves each hit."""
    key = IdTable.key
    monkeypatch.setattr(IdTable, "key", lambda *of: key(of[0], of[1][-1], *of[2:]))
    with opened(tmp_path / "s") as store:
        fill(store, 0, 80)
        check(store, 80)


def break_page(content: bytes) -> bytes:
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


def break_header(content: bytes) -> bytes:
    return content[:30] + bytes([content[30] ^ 1]) + content[31:]


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "a page of zeros": lambda content: content[:4096] + bytes(4096) + content[8192:],
    "a bit of each page": lambda content: b"".join(
        break_page(content[:4096] * 2)[4096:] if at else content[:4096] for at in range(0, len(content), 4096)
    ),
    "a bit of the header": break_header,
    "two pages swapped": lambda content: content[:4096] + content[8192:12288] + content[4096:8192] + content[12288:],
    "another file": lambda content: b"something else\n" * 1000,
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("when", ["open", "closed"])
def test_a_table_that_is_damaged_is_made_anew(tmp_path: Path, what: str, when: str) -> None:
    """No answer depends on it, and verify is content."""
    path = tmp_path / "s"
    with opened(path) as store:
        fill(store, 0, 60)
        if when == "open":
            with (path / "event-ids").open("r+b") as file:
                content = BROKEN[what](file.read())
                file.seek(0)
                file.write(content)
                file.truncate()
            check(store, 60)
            fill(store, 60, 90)
            check(store, 90)
            assert list(verify(store)) == []
            return
    (path / "event-ids").write_bytes(BROKEN[what]((path / "event-ids").read_bytes()))
    assert list(verify_folder(path)) == []
    with opened(path) as store:
        check(store, 60)
        fill(store, 60, 90)
        check(store, 90)
        assert tabled(path) > 60


@pytest.mark.parametrize("how", ["deleted", "replaced", "in place", "linked", "of another store", "a folder"])
def test_a_table_that_is_not_the_stores_is_not_believed(tmp_path: Path, how: str) -> None:
    """Deleted, an older one put back, one with another name: all while the store is open, and again after it."""
    path, table = tmp_path / "s", tmp_path / "s/event-ids"
    with opened(tmp_path / "other") as other:
        fill(other, 0, 40)
    with opened(path) as store:
        fill(store, 0, 30)
        older = table.read_bytes()
        fill(store, 30, 80)

        def harm() -> None:
            if how == "in place":
                with table.open("r+b") as file:
                    file.write(older)
                    file.truncate()
            elif how == "linked":
                os.link(table, tmp_path / f"name-{random.random()}")
            else:
                table.unlink()
                if how == "replaced":
                    table.write_bytes(older)
                elif how == "of another store":
                    shutil.copy(tmp_path / "other/event-ids", table)
                elif how == "a folder":
                    table.mkdir()

        harm()
        check(store, 80)
        fill(store, 80, 120)
        check(store, 120)
        if how == "a folder":
            table.rmdir()
            fill(store, 120, 140)
            return
        assert tabled(path) > 80
        harm()
    with opened(path) as store:
        check(store, 120)
        fill(store, 120, 150)
        check(store, 150)


def test_a_history_that_goes_back_takes_its_ids_with_it(tmp_path: Path) -> None:
    """An older copy of the store, with a newer table; other events then get the same positions."""
    path = tmp_path / "s"
    with opened(path) as store:
        fill(store, 0, 40)
    shutil.copytree(path, tmp_path / "older")
    with opened(path) as store:
        fill(store, 40, 90)
    shutil.copy(path / "event-ids", tmp_path / "older/event-ids")
    with opened(tmp_path / "older") as store:
        assert not store.contains("id-60")
        assert store.append("a:0", [Done("id-60")], ANY, idempotent=True).written
        for number in range(41, 60):
            store.append("a:1", [Done(f"new-{number}")], ANY, idempotent=True)
        fill(store, 61, 100)
        check(store, 40)
        assert store.contains("id-60")
        assert not store.contains("id-50")
        assert list(verify(store)) == []


def test_a_backup_and_a_repair_leave_no_table_of_another_history(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        fill(store, 0, 50)
        backup(tmp_path / "s", tmp_path / "copy")
    assert not (tmp_path / "copy/event-ids").exists()
    with opened(tmp_path / "copy") as store:
        check(store, 50)
    assert tabled(tmp_path / "copy")
    list(repair(tmp_path / "copy"))
    assert not (tmp_path / "copy/event-ids").exists()


def test_verify_names_an_event_that_the_table_lacks(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with opened(path) as store:
        fill(store, 0, 40)
        store_id = store.meta.store_id
    assert list(verify_folder(path)) == []
    last = msgspec.json.decode((path / "journal.jsonl").read_bytes().splitlines()[-1])
    table = IdTable.create(FileSystem(), str(path / "event-ids"), store_id, 40)
    table.put([(table.key(f"id-{number}"), number + 1) for number in range(40) if number != 7])
    table.cover(Covered(40, int(last["crc"], 16)))
    table.close()
    (damage,) = verify_folder(path)
    assert (damage.path, damage.position) == (str(path / "event-ids"), 8)
    assert "delete it" in str(damage)


def test_a_writer_that_dies_at_any_call_leaves_a_table_that_is_right(tmp_path: Path) -> None:
    """Also within extending and growing it."""
    filesystem = DyingFileSystem()
    with opened(tmp_path / "whole", filesystem=filesystem) as store:
        fill(store, 0, 40)
    for at in range(20, filesystem.calls, 3):
        path = tmp_path / str(at)
        done = 0
        try:
            with opened(path, filesystem=DyingFileSystem(at, 0.5)) as store:
                for done in range(40):
                    fill(store, done, done + 1)
        except (Died, OutcomeUnknownError):
            pass
        with opened(path) as store:
            count = store.get_event_count()
            assert count in (done, done + 1, 40)
            check(store, count)
            fill(store, count, 50)
            check(store, 50)
            assert list(verify(store)) == []


class Failing(FileSystem):
    """Fails in the calls that change the table, from call number `after` on."""

    def __init__(self, after: int, code: int = errno.ENOSPC) -> None:
        self.after, self.calls, self.code = after, 0, code

    def _step(self, path: str) -> None:
        if "event-ids" in path:
            self.calls += 1
            if self.calls > self.after:
                raise OSError(self.code, os.strerror(self.code), path)

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        self._step(os.readlink(f"/proc/self/fd/{fd}"))
        super().write_at(fd, data, offset)

    def sync_data(self, fd: int) -> None:
        self._step(os.readlink(f"/proc/self/fd/{fd}"))

    def rename(self, old: str, new: str) -> None:
        self._step(new)
        super().rename(old, new)

    def open_new(self, path: str) -> int:
        self._step(path)
        return super().open_new(path)


@pytest.mark.skipif(sys.platform != "linux", reason="looks in /proc")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_append_goes_on_where_the_table_cannot_be_written(tmp_path: Path, code: int) -> None:
    """From any call on; it comes back when the cause is gone."""
    whole = Failing(1 << 30)
    with opened(tmp_path / "whole", filesystem=whole) as store:
        fill(store, 0, 60)
    for after in range(0, whole.calls, 5):
        path, filesystem = tmp_path / str(after), Failing(after, code)
        with opened(path, filesystem=filesystem) as store:
            fill(store, 0, 60)
            check(store, 60)
            filesystem.after = 1 << 30
            fill(store, 60, 160)
            check(store, 160)
            assert tabled(path) > 60
            assert list(verify(store)) == []


@pytest.mark.parametrize("durability", ["always", "relaxed"])
@pytest.mark.filterwarnings("ignore:.*no whole history leads to:hangarlog.CorruptionWarning")
def test_after_a_power_cut_every_id_that_is_left_is_found(tmp_path: Path, durability: str) -> None:
    """What was durable is found, what was lost is not, and is written when it is tried again."""
    recording = Recording(tmp_path / "s")
    with opened(tmp_path / "s", durability=durability, filesystem=recording) as store:
        for number in range(40):
            fill(store, number, number + 1)
            recording.note(number)
    rng = random.Random(7)
    points = set(rng.sample(range(1, len(recording.operations) + 1), 150))
    states = 0
    for states, state in enumerate(crash_states(recording.operations, rng, 2, points), 1):
        path = tmp_path / f"state-{states}"
        path.mkdir()
        state.write_to(path)
        with opened(path) as store:
            count = store.get_event_count()
            if durability == "always" and state.notes:
                assert count > state.notes[-1]
            for number in range(count):
                assert store.contains(f"id-{number}"), state.lost
            for number in range(count, 45):
                assert not store.contains(f"id-{number}"), state.lost
            check(store, count)
            fill(store, count, 50)
            check(store, 50)
            assert list(verify(store)) == []
        shutil.rmtree(path)
    assert states > 100


def test_after_a_power_cut_a_table_has_all_that_its_header_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any call of extending and growing it, or it says itself that it is damaged."""
    monkeypatch.setattr(id_table, "_FILLED", 12)
    (tmp_path / "s").mkdir()
    recording = Recording(tmp_path / "s")
    table = IdTable.create(recording, str(tmp_path / "s/event-ids"), "s", 20)
    for last in range(5, 60, 5):
        while not table.has_room(5):
            table.grow()
        table.put((table.key(f"id-{number}"), number) for number in range(last - 4, last + 1))
        table.cover(Covered(last, 1))
        recording.note(last)
    table.close()
    whole = damaged = 0
    for state in crash_states(recording.operations, random.Random(7), 40):
        path = tmp_path / "state"
        path.mkdir()
        state.write_to(path)
        try:
            found = IdTable.open(FileSystem(), str(path / "event-ids"), "s", writable=False)
            for number in range(1, found.covered.position + 1):
                assert found.get(found.key(f"id-{number}")) == number, state.lost
            found.close()
            whole += 1
        except (FileNotFoundError, TableError):
            damaged += 1
        shutil.rmtree(path)
    assert whole > damaged > 10


WRITER = textwrap.dedent("""
    import sys, msgspec, hangarlog.filestore.event_ids as ids, hangarlog.filestore.id_table as table
    from hangarlog import ANY, FileEventStore, register_event_type
    ids._WORTH, table._FILLED = 8, 6
    @register_event_type
    class Done(msgspec.Struct):
        event_id: str
    with FileEventStore(sys.argv[1], durability="relaxed") as store:
        for number in range(300):
            store.append(f"a:{number % 3}", [Done(f"id-{number}")], ANY, idempotent=True)
""")


def test_processes_that_append_the_same_ids_write_each_once(tmp_path: Path) -> None:
    """Three at once, extending one table; one of them is killed at any moment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for delay in (1, 5, 20):
        path = tmp_path / str(delay)
        opened(path).close()
        writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path)], env=environment) for _ in range(3)]
        with opened(path) as store:
            while store.get_event_count() < delay * 10:
                assert any(writer.poll() is None for writer in writers) or store.get_event_count() == 300
        writers[0].kill()
        assert [writer.wait() for writer in writers][1:] == [0, 0]
        with opened(path) as store:
            assert store.get_event_count() == 300
            check(store, 300)
            assert list(verify(store)) == []


def test_a_table_grows_with_many_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As large as it gets in tests: pages of the usual size, full ones split."""
    monkeypatch.setattr(id_table, "_FILLED", 170)
    monkeypatch.setattr(event_ids, "_MAX_GATHERED", 1000)
    with opened(tmp_path / "s") as store:
        for first in range(0, 20_000, 1000):
            store.append("a:1", [Done(f"id-{number}") for number in range(first, first + 1000)], ANY, retry=False)
            assert store.contains(f"id-{first}")
        assert tabled(tmp_path / "s") == 20_000
        for number in range(0, 20_000, 97):
            record = store.event(f"id-{number}")
            assert record is not None
            assert record.stream_version == number
        assert not any(store.contains(f"no-{number}") for number in range(300))
        assert (tmp_path / "s/event-ids").stat().st_size < 60 * 20_000


def test_a_page_that_is_full_makes_the_table_grow(tmp_path: Path) -> None:
    """Chance may fill one early."""
    table = IdTable.create(FileSystem(), str(tmp_path / "table"), "s", 1)
    keys = [(number * 4).to_bytes(8, sys.byteorder) for number in range(1, 257)]
    with pytest.raises(OverflowError):
        table.put((key, 1) for key in keys)
    for _ in range(3):
        table.grow()
    assert table.put((key, 1) for key in keys) == []
    table.cover(Covered(7, 8))
    assert all(table.get(key) == 1 for key in keys)
    table.close()
