"""What befalls a store in the middle of a session. `class TestFaults(Faults)` asks it of an adapter.

A session gets turns 0, 1, 2 and so on. Whatever befalls its store, each turn that was taken is read once, or the read
is an error of hangarlog's or the framework's own. Once the cause is gone, the session goes on.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hangarlog import ANY, FileEventStore, HangarlogError, UntypedEvent
from hangarlog.filestore import store, write_session
from hangarlog.maintenance.repair import repair

STREAM, JOURNAL = "streams/*/s*.jsonl", "journal.jsonl"


@contextmanager
def room(more: int, path: Path) -> Iterator[None]:
    """Let files grow by a few bytes only, as on a disk that becomes full."""
    largest = max(file.stat().st_size for file in path.rglob("*.jsonl"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def damage(file: Path) -> None:
    """Change a byte of a line in the middle."""
    lines = file.read_bytes().splitlines(keepends=True)
    at = len(b"".join(lines[: len(lines) // 2])) + 60
    with file.open("r+b") as text:
        text.seek(at)
        text.write(bytes([file.read_bytes()[at] ^ 1]))


def cut(file: Path) -> None:
    """Cut a file within its last line."""
    os.truncate(file, file.stat().st_size - 30)


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
class Faults:
    """Subclass it, and say how the adapter is used."""

    stream = ""
    errors: tuple[type[Exception], ...] = (HangarlogError,)
    """What the adapter may raise."""
    makes_anew = False
    """A folder that is gone is made anew."""

    def open(self, path: Path) -> Any:
        raise NotImplementedError

    def close(self, session: Any) -> None:
        session.close()

    def add(self, session: Any, turn: int) -> None:
        raise NotImplementedError

    def turns(self, session: Any) -> list[int]:
        raise NotImplementedError

    def delete(self, session: Any, folder: Path) -> None:
        with FileEventStore.untyped(folder) as store:
            store.delete_stream(self.stream)

    # What it must stand

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "store"

    def filled(self, path: Path) -> Any:
        session = self.open(path)
        for turn in range(3):
            self.add(session, turn)
        return session

    def folder(self, path: Path) -> Path:
        (journal,) = path.rglob(JOURNAL)
        return journal.parent

    def file(self, path: Path, which: str) -> Path:
        (file,) = (self.folder(path) / "streams").rglob("*.jsonl") if which == "stream" else path.rglob(JOURNAL)
        return file

    def goes_on(self, path: Path, session: Any, turns: list[int]) -> None:
        """Another turn comes behind, for this process and for the next one."""
        assert self.turns(session) == turns
        self.add(session, 7)
        assert self.turns(session) == [*turns, 7]
        self.close(session)
        session = self.open(path)
        assert self.turns(session) == [*turns, 7]
        self.close(session)

    @pytest.mark.parametrize("more", [0, 1, 90])
    def test_a_full_disk_takes_no_part_of_a_turn(self, path: Path, more: int) -> None:
        """What was there stays readable meanwhile."""
        session = self.filled(path)
        with room(more, path):
            with pytest.raises(self.errors):
                self.add(session, 3)
            assert self.turns(session) == [0, 1, 2]
        self.goes_on(path, session, [0, 1, 2])

    @pytest.mark.parametrize("how", [damage, cut])
    @pytest.mark.parametrize("which", ["stream", "journal"])
    def test_one_damaged_copy_takes_nothing(self, path: Path, which: str, how: Any) -> None:
        """The other one is read, and mends it."""
        self.close(self.filled(path))
        how(self.file(path, which))
        self.goes_on(path, self.open(path), [0, 1, 2])

    @pytest.mark.parametrize("which", ["stream", "journal"])
    def test_a_file_that_is_cut_meanwhile_is_repaired_meanwhile(self, path: Path, which: str) -> None:
        """Until then an append may be refused."""
        session = self.filled(path)
        cut(self.file(path, which))
        assert self.turns(session) == [0, 1, 2]
        assert all(not isinstance(each, Exception) for each in repair(self.folder(path)))
        self.goes_on(path, session, [0, 1, 2])

    def test_what_is_damaged_in_both_copies_is_an_error_until_the_session_is_deleted(self, path: Path) -> None:
        """Nobody gets a history with a hole."""
        self.close(self.filled(path))
        for which in ("stream", "journal"):
            damage(self.file(path, which))
        session = self.open(path)
        with pytest.raises(self.errors):
            self.turns(session)
        self.delete(session, self.folder(path))
        self.goes_on(path, session, [])

    def test_a_folder_that_is_deleted_is_an_error_or_made_anew(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next session begins in a new one."""
        for module in (store, write_session):  # Relaxed appends and reads look once a millisecond only.
            monkeypatch.setattr(module, "_UNWATCHED_SECONDS", -1)
        session = self.filled(path)
        shutil.rmtree(path)
        if not self.makes_anew:
            with pytest.raises(self.errors):
                self.add(session, 3)
            self.close(session)
            session = self.open(path)
        else:
            self.add(session, 3)
        self.goes_on(path, session, [3] if self.makes_anew else [])

    @pytest.mark.parametrize("payload", ["type", "payload"])
    def test_an_event_of_a_newer_release_is_an_error_that_names_it(self, path: Path, payload: str) -> None:
        """Whether its type or its payload is new. Nothing is passed over."""
        session = self.filled(path)
        with FileEventStore.untyped(self.folder(path)) as store:
            known = next(iter(store.envelopes(self.stream)))[0].event_type
            store.append(self.stream, [UntypedEvent("New" if payload == "type" else known, {"new": 1})], ANY)
        for again in (session, self.open(path)):
            with pytest.raises(self.errors, match=r"version \d+ of stream '.*' is none of this adapter's"):
                self.turns(again)
        self.delete(session, self.folder(path))
        self.goes_on(path, session, [])
