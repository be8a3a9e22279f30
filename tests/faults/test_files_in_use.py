"""What people and programs do to the files of a store that is open costs nothing, or is refused: one act at a time.

Row 14 does all of it at every step of a call.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from campaigns.cells import Device, Hooked, event, on_the_device, opened, path_of, power_cut
from campaigns.mutations import OF_FILES
from conftest import ROOT

from hangarlog import (
    ANY,
    ConcurrencyError,
    CorruptionWarning,
    FileEventStore,
    HangarlogError,
    LockTimeoutError,
    StoreOpenError,
)
from hangarlog.filestore import open_streams, session
from hangarlog.maintenance.verify import verify
from hangarlog.testing.probe import catalog

pytestmark = pytest.mark.usefixtures("ring_at_once")


def ids(store: FileEventStore, stream_id: str | None = None) -> list[str]:
    return [record.event_id for record in store.records(stream_id)]


def five_events(path: Path, **options: object) -> FileEventStore:
    store = opened(path, **options)
    for number in range(5):
        store.append("a:1", [event(f"e-{number}")], number - 1)
    return store


EVENTS = [f"e-{number}" for number in range(5)]


class Standing(Hooked):
    """Stands in a write to the journal until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.armed = False
        self.reached, self.go_on = threading.Event(), threading.Event()

    def step(self, name: str, arguments: tuple[object, ...]) -> None:
        if self.armed and name == "write" and path_of(arguments[0]).endswith("/journal.jsonl"):  # type: ignore[arg-type]
            self.armed = False
            self.reached.set()
            self.go_on.wait()


# Caches


@pytest.mark.parametrize("what", ["locks", "locks/write.lock"])
@pytest.mark.parametrize("comes", ["before", "after"])
def test_locks_deleted_in_a_commit_let_nobody_in(tmp_path: Path, what: str, comes: str) -> None:
    """Neither a store that was open already nor one that is opened then; the commit comes to its end."""
    path, filesystem = tmp_path / "s", Standing()
    with five_events(path, durability="relaxed", filesystem=filesystem) as store:
        early = opened(path, lock_timeout=0)
        early.append("b:1", [event("early")], ANY)

        def tries_to_append(store: FileEventStore | None) -> None:
            with contextlib.nullcontext(store) if store else opened(path, lock_timeout=0) as user:
                user.append("b:1", [event("too-soon")], ANY)

        filesystem.armed = True
        thread = threading.Thread(target=store.append, args=("a:1", [event("in-the-middle")], 4))
        thread.start()
        filesystem.reached.wait()
        try:
            gone = path / what
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
            with pytest.raises((LockTimeoutError, StoreOpenError)):
                tries_to_append(early if comes == "before" else None)
        finally:
            filesystem.go_on.set()
            thread.join()
        assert early.append("a:1", [event("afterwards")], 5) == 6
        assert store.append("a:1", [event("at-last")], 6) == 7
        assert (path / "locks/write.lock").exists()
        assert ids(early) == ids(store) == [*EVENTS, "early", "in-the-middle", "afterwards", "at-last"]
        assert list(verify(store)) == []
        early.close()


def test_locks_deleted_between_commits_keep_writers_apart(tmp_path: Path) -> None:
    """Two that had the store open, and one that opens it then."""
    path = tmp_path / "s"
    with five_events(path, durability="relaxed") as one, opened(path, durability="relaxed") as two:
        two.append("b:1", [event("warm")], ANY)
        shutil.rmtree(path / "locks")
        with opened(path, durability="relaxed") as three:
            one.append("b:1", [event("anew")], ANY)  # Before that, who opens it then may be refused.

            def work(name: str, store: FileEventStore) -> None:
                for number in range(200):
                    store.append("a:1", [event(f"{name}-{number}")], ANY)

            users = {"one": one, "two": two, "three": three}
            threads = [threading.Thread(target=work, args=user) for user in users.items()]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            written = {f"{name}-{number}" for name in users for number in range(200)}
            for store in users.values():
                assert set(ids(store)) == {*EVENTS, "warm", "anew", *written}
            assert list(verify(three)) == []


@pytest.mark.parametrize("name", ["write", "sync"])
def test_who_opens_a_store_without_a_lock_file_has_the_others_make_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """They cannot see it by themselves: it was in a folder of its own."""
    monkeypatch.setattr(session, "_RACY_NS", 0)  # As long after the last change of the store's folder.
    path = tmp_path / "s"
    with five_events(path, durability="relaxed") as store, opened(path, durability="relaxed") as other:
        other.append("b:1", [event("warm")], ANY)
        (path / f"locks/{name}.lock").unlink()
        with opened(path, durability="relaxed") as late:
            with pytest.raises(StoreOpenError, match="have that process append once"):
                late.append("a:1", [event("too-soon")], ANY)
            store.append("a:1", [event("anew")], 4)
            late.append("a:1", [event("late")], 5)
            other.append("a:1", [event("other")], 6)
            assert ids(late) == ids(store) == [*EVENTS, "warm", "anew", "late", "other"]


@pytest.mark.parametrize("how", ["emptied", "deleted"])
def test_what_was_durable_by_a_ring_that_is_gone_is_durable_again_after_the_next_append(
    tmp_path: Path, how: str
) -> None:
    """An emptied one is met by the next sync; one that is deleted also by who does not sync."""
    path = tmp_path / "s"
    with five_events(path, filesystem=Device()) as store:
        OF_FILES[how](path / "ring", path / "ring", path)
        on_the_device(path / "ring")
        with opened(path, durability="relaxed", filesystem=Device()) as other:
            (store if how == "emptied" else other).append("b:1", [event("next")], ANY)
        power_cut(path, tmp_path / "image")
        assert ids(store)[:5] == EVENTS
    with opened(tmp_path / "image", filesystem=Device()) as image:
        assert ids(image)[:5] == EVENTS


@pytest.mark.parametrize("opens", ["at once", "later"])
def test_a_state_deleted_while_open_is_seen_by_all_at_once(tmp_path: Path, opens: str) -> None:
    """Nobody lives on with the old one: not who had the store open, nor who opens it then."""
    path = tmp_path / "s"
    with contextlib.ExitStack() as stores:
        writer, reader = (stores.enter_context(each) for each in (five_events(path), opened(path)))
        assert ids(reader) == EVENTS
        (path / "state").unlink()
        users = [writer, reader]
        if opens == "at once":
            users.append(stores.enter_context(opened(path)))
        for number in range(5, 15):
            writer.append("a:1", [event(f"e-{number}")], number - 1)
        if opens == "later":
            users.append(stores.enter_context(opened(path)))
        for turn, store in enumerate(users):
            store.append("b:1", [event(f"turn-{turn}")], turn - 1)
            for each in users:
                expected = [f"e-{number}" for number in range(15)]
                assert ids(each, "a:1") == expected
                assert ids(each) == [*expected, *[f"turn-{at}" for at in range(turn + 1)]]
                assert each.get_event_count() == 16 + turn
                assert each.get_stream_version("b:1") == turn
        assert (path / "state").exists()
        assert list(verify(writer)) == []


def test_a_ring_deleted_while_open_is_made_anew(tmp_path: Path) -> None:
    """What is acknowledged as durable afterwards survives a power cut."""
    path = tmp_path / "s"
    with five_events(path, filesystem=Device()) as store:
        on_the_device(path)
        (path / "ring").unlink()
        for number in range(5, 25):
            store.append("a:1", [event(f"e-{number}")], number - 1)
        assert (path / "ring").exists()
        power_cut(path, tmp_path / "image")
    with opened(tmp_path / "image") as found:
        assert ids(found) == [f"e-{number}" for number in range(25)]
        assert list(verify(found)) == []


# Streams and the journal


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")  # It may be served from the journal till then.
@pytest.mark.parametrize("durability", ["relaxed", "always"])
@pytest.mark.parametrize("what", ["streams/a/1.jsonl", "journal.jsonl"])
def test_a_file_replaced_by_its_own_copy_is_written_to(
    tmp_path: Path, what: str, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `sed -i`, an editor and a sync tool do: the file that has the name is the store's."""
    monkeypatch.setattr(
        open_streams, "_UNSEEN_SECONDS", -1.0
    )  # For a millisecond it may be missed, and is mended then.
    path = tmp_path / "s"
    with five_events(path, durability=durability) as store, opened(path) as other:
        assert ids(other, "a:1") == EVENTS
        shutil.copy2(path / what, path / "copy")
        os.replace(path / "copy", path / what)
        for number in range(5, 10):
            assert store.append("a:1", [event(f"e-{number}")], number - 1) == number
        expected = [f"e-{number}" for number in range(10)]
        with opened(path) as late:
            for each in (store, other, late):
                assert ids(each) == ids(each, "a:1") == expected
                with pytest.raises(ConcurrencyError):
                    each.append("a:1", [event("late")], 4)
            assert (path / what).read_bytes().count(b"\n") == 10
            assert list(verify(late)) == []


def test_what_went_to_a_file_that_had_just_been_replaced_is_at_its_path_after_the_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer looks every millisecond; it may have closed the store by then."""
    monkeypatch.setattr(open_streams, "_UNSEEN_SECONDS", 60.0)
    path = tmp_path / "s"
    file = path / "streams/a/1.jsonl"
    with opened(path) as other:
        with five_events(path, durability="relaxed") as store:
            shutil.copy2(file, path / "copy")
            os.replace(path / "copy", file)
            store.append("a:1", [event("e-5")], 4)
            assert file.read_bytes().count(b"\n") == 5
            with pytest.warns(CorruptionWarning, match="written again"):
                store.close()
        assert file.read_bytes().count(b"\n") == 6
        assert ids(other, "a:1") == [*EVENTS, "e-5"]
        assert list(verify(other)) == []


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")  # It may be served from the journal.
@pytest.mark.parametrize("mutation", OF_FILES)
@pytest.mark.parametrize("expected", ["exact", "any"])
def test_a_stream_that_was_changed_by_hand_gives_no_version_twice(tmp_path: Path, mutation: str, expected: str) -> None:
    """Whatever is done to its file: an append goes on after its last event, or is refused; a read has all, or none."""
    path = tmp_path / "s"
    older = tmp_path / "older"
    with five_events(path) as store, opened(path) as other:
        file = path / "streams/a/1.jsonl"
        older.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:2]))
        assert ids(other, "a:1") == EVENTS
        OF_FILES[mutation](file, older, tmp_path / "aside")
        with opened(path) as late:
            for each in (store, other, late):
                assert read_or_refused(each) in (None, EVENTS)
            versions, refusals = [], []
            for at, each in enumerate((late, other, store)):
                try:
                    versions.append(
                        each.append("a:1", [event(f"more-{at}")], 4 + len(versions) if expected == "exact" else ANY)
                    )
                except ConcurrencyError:
                    raise
                except HangarlogError as error:
                    refusals.append(str(error))
            assert all(str(path) in refusal for refusal in refusals)
            assert versions == list(range(5, 5 + len(versions)))


def read_or_refused(store: FileEventStore) -> list[str] | None:
    """The ids of a stream as all ways to ask for it agree, None where they refuse."""
    try:
        found = ids(store, "a:1")
        assert store.get_stream_version("a:1") == len(found) - 1
        assert len(store.read_stream("a:1")) == len(found)
        assert store.list_streams() == ["a:1"]
        return found
    except HangarlogError:
        return None


# The folder


def test_a_deleted_folder_takes_no_more_appends(tmp_path: Path) -> None:
    """An append into it would be lost; a read of it would be of nothing."""
    path = tmp_path / "s"
    with five_events(path) as store:
        shutil.rmtree(path)
        for _ in range(2):
            with pytest.raises(HangarlogError, match=str(path)):
                store.append("a:1", [event("lost")], 4)
            with pytest.raises(HangarlogError, match=str(path)):
                store.read_stream("a:1")
        assert not path.exists()


@pytest.mark.parametrize("durability", ["relaxed", "always"])
def test_a_moved_folder_and_a_new_one_in_its_place_stay_apart(tmp_path: Path, durability: str) -> None:
    """What the first store is told is written is in the first folder, and only there."""
    path, moved = tmp_path / "s", tmp_path / "moved"
    store = five_events(path, durability=durability)
    path.rename(moved)
    with opened(path) as other:
        other.append("a:1", [event("other-0")], -1)
        other.append("b:1", [event("other-1")], -1)
        told, refusals = list(EVENTS), []
        for stream_id in ("a:1", "b:1", "new:1"):
            try:
                store.append(stream_id, [event(f"mine-{stream_id}")], ANY)
                told.append(f"mine-{stream_id}")
            except HangarlogError as error:
                refusals.append(str(error))
        assert all(str(path) in refusal for refusal in refusals)
        assert len(refusals) == 3 if durability == "always" else refusals
        other.append("a:1", [event("other-2")], 0)
        store.close()
        assert ids(other) == ["other-0", "other-1", "other-2"]
        assert other.list_streams() == ["a:1", "b:1"]
        assert list(verify(other)) == []
    with opened(moved) as first:
        assert ids(first) == told
        assert list(verify(first)) == []


def test_a_folder_above_that_is_moved_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no trace in the store's own folder."""
    for name in ("write_session._UNWATCHED_SECONDS", "store._UNWATCHED_SECONDS", "session._RACY_NS"):
        monkeypatch.setattr(f"hangarlog.filestore.{name}", 0)
    store = five_events(tmp_path / "above/s", durability="relaxed")
    (tmp_path / "above").rename(tmp_path / "moved")
    with pytest.raises(StoreOpenError, match="was moved"):
        store.append("a:1", [event("lost")], ANY)
    with pytest.raises(StoreOpenError, match="was moved"):
        store.read_stream("a:1")
    (tmp_path / "moved").rename(tmp_path / "above")
    store.append("a:1", [event("there")], ANY)
    assert ids(store) == [*EVENTS, "there"]
    store.close()


# Who is gone

DIES = """
import os, sys
from hangarlog import ANY, FileEventStore, UntypedEvent
store = FileEventStore(sys.argv[1], durability=3600.0)
for number in range(100):
    store.append("a:1", [UntypedEvent("Noted", {"text": ""}, event_id=f"e-{number}")], ANY)
os._exit(9)
"""


def test_what_a_dead_process_had_not_synced_is_durable_when_the_store_is_opened_again(tmp_path: Path) -> None:
    """It promised to sync within some time; whoever opens the store alone does so in its place."""
    path = tmp_path / "s"
    with opened(path):
        pass
    on_the_device(path)
    died = subprocess.run([sys.executable, "-c", DIES, path], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert died.returncode == 9
    with opened(path, durability=3600.0, filesystem=Device()) as store:
        assert store.get_event_count() == 100
        power_cut(path, tmp_path / "image")
    with opened(tmp_path / "image") as found:
        assert ids(found) == [f"e-{number}" for number in range(100)]


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")  # The close writes it again.
@pytest.mark.parametrize("prefix", ["", "a:"])
def test_a_stream_whose_file_is_gone_is_listed(tmp_path: Path, prefix: str) -> None:
    """As many streams as there are files, one of them not committed yet: the one that is missing is seen."""
    path = tmp_path / "s"
    with five_events(path) as store, opened(path) as other:
        os.rename(path / "streams/a/1.jsonl", path / "gone")
        catalog(store).put("new:1", 0, store.get_event_count() + 1)
        shutil.copytree(path / "streams/a", path / "streams/new", dirs_exist_ok=True)
        (path / "streams/new/1.jsonl").write_bytes(b"")
        assert "a:1" in other.list_streams(prefix)
        assert "new:1" not in other.list_streams(prefix)
