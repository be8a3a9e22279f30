"""The cursors in a backup."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from conftest import Added
from cursor_stores import filled

from hangarlog import (
    ANY,
    FileEventStore,
)
from hangarlog.filestore.folder import Folder
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.cursor_check import cursors_for_copy
from hangarlog.maintenance.verify import verify


def test_a_backup_has_the_cursors_as_of_its_events(tmp_path: Path) -> None:
    """They are not beyond them, though others write meanwhile; a second backup has the newer ones."""
    with filled(tmp_path / "s") as store:
        ended = threading.Event()

        def work() -> None:
            number = 0
            while not ended.is_set():
                position = store.append("out:1", [Added(number)], ANY) + 20
                store.append("out:2", [Added(number)], ANY, cursor=store.cursor("b").at(position))
                store.cursor("a").advance(position)
                number += 1

        worker = threading.Thread(target=work)
        worker.start()
        for _ in range(5):
            backup(tmp_path / "s", tmp_path / "copy")
            with FileEventStore(tmp_path / "copy") as copy:
                count = len(copy.read_stream("out:2"))
                assert all(cursor.lag >= 0 for cursor in copy.cursors())
                assert copy.cursor("b").position == (count + 19 if count else 0)
                assert list(verify(copy)) == []
        ended.set()
        worker.join()
        store.cursor("a").delete()
        backup(tmp_path / "s", tmp_path / "copy")
    with FileEventStore(tmp_path / "copy") as copy:
        assert [cursor.name for cursor in copy.cursors()] == ["b"]


def test_a_cursor_that_is_created_while_a_backup_begins_is_where_its_appends_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its appends are in the copy, so their moves must be."""
    with filled(tmp_path / "s") as store:

        def meanwhile(folder: Folder, committed: int) -> bytes:
            found = cursors_for_copy(folder, committed)
            for number in range(4):
                position = store.append("out:1", [Added(number)], ANY) + 20
                store.append("out:2", [Added(number)], ANY, cursor=store.cursor("b").at(position))
            return found

        monkeypatch.setattr("hangarlog.maintenance.backup.cursors_for_copy", meanwhile)
        backup(tmp_path / "s", tmp_path / "copy")
        with FileEventStore(tmp_path / "copy") as copy:
            assert len(copy.read_stream("out:2")) == 4
            assert copy.cursor("b").position == store.cursor("b").position == 23
            assert not list(verify(copy))
