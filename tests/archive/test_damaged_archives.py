"""Archives that are damaged: what is wrong stays there, and a repaired one is restored whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from archived_stores import ALL, held, positions, shown, written
from conftest import Added

from hangarlog import ANY, ArchiveError, FileEventStore
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify


@pytest.mark.parametrize("left", [-1, 0.5])
def test_an_archive_whose_end_was_cut_off_is_repaired_and_restored(tmp_path: Path, left: float) -> None:
    """The repair writes what is missing behind the last sealed segment."""
    with written(tmp_path / "s") as store:
        store.archive(tmp_path / "a", before=18)
        file = max((tmp_path / "a").glob("journal.0*.jsonl"))
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * left) if left > 0 else -1])
        list(repair(tmp_path / "a"))
        assert held(tmp_path / "a") == ALL[:16]
        assert store.restore_archive(tmp_path / "a").first_position == 1
        assert (positions(store), shown(store)) == (ALL, ALL)
        assert list(verify(store)) == []


def test_a_damaged_index_of_an_archive_is_left_there(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s", segment_bytes=300_000, durability="relaxed") as store:
        for number in range(3):
            store.append("a:0", [Added(number, "x" * 200_000), Added(number, "x" * 200_000)], ANY)
        store.archive(tmp_path / "a", before=4)
        index = next((tmp_path / "a").glob("journal.0*.index"))
        index.write_bytes(index.read_bytes()[:-4] + b"oops")
        store.restore_archive(tmp_path / "a")
        assert not (tmp_path / "s" / index.name).exists()
        assert list(verify(store)) == []


def test_an_archive_with_a_damaged_hangarlog_json_gets_its_id_again(tmp_path: Path) -> None:
    """Its checkpoint has it. Whether it is an archive nothing else says; the error tells what to do."""
    with written(tmp_path / "s") as store:
        store.archive(tmp_path / "a", before=18)
        meta = tmp_path / "a/hangarlog.json"
        meta.write_text(meta.read_text()[:40])
        with pytest.raises(ArchiveError, match="not an archive of this store"):
            store.restore_archive(tmp_path / "a")
        list(repair(tmp_path / "a"))
        with pytest.raises(ArchiveError, match='add "archive": true to it'):
            store.restore_archive(tmp_path / "a")
        meta.write_text(meta.read_text().replace("\n}", ',\n  "archive": true\n}'))
        store.restore_archive(tmp_path / "a")
        assert (positions(store), shown(store)) == (ALL, ALL)
