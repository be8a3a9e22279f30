"""What people do to the files by hand, with the real tools, and what gets every event back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import tool
from recipe_page import (
    EVENTS,
    commands_in,
    desk,
    events_in,
    fill,
    mystore,
    opened,
    output,
    recipe,
    shell,
    table,
)

from hangarlog import HangarlogError
from hangarlog.maintenance.repair import Repaired, repair

__all__ = ["desk", "mystore"]
TITLE = "I edited, deleted or gzipped a file"
ONE_COPY = [commands_in(row)[0] for row in table(TITLE, "afterwards ")]
UNDONE = [(found[0], found[1]) for row in table(TITLE, "what undoes it ") if (found := commands_in(row))]
RESTORED = [commands_in(row)[0] for row in table(TITLE, "")]


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
@pytest.mark.parametrize("open_meanwhile", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("mishap", ONE_COPY)
def test_what_was_done_to_one_copy_is_repaired(mystore: Path, mishap: str, open_meanwhile: bool) -> None:
    """Every event is there again, and what a program that had the store open has appended since."""
    tool("gzip")
    before = events_in()
    appended = 0
    if open_meanwhile:
        with opened() as store:
            fill(store, EVENTS, EVENTS + 1)
            output(mishap)
            try:
                fill(store, EVENTS + 1, EVENTS + 2)
                appended = 2
            except HangarlogError:
                appended = 1  # It was refused.
    else:
        output(mishap)
    results = list(repair("mystore"))
    assert all(isinstance(result, Repaired) for result in results), results
    found = events_in()
    assert found[:EVENTS] == before
    assert len(found) == EVENTS + appended
    with opened() as store:
        fill(store, 100, 110)
    assert len(events_in()) == EVENTS + appended + 10


def test_the_commands_of_the_page_repair(mystore: Path) -> None:
    """The folder is kept as it was found, `verify` finds the damage there, and none afterwards."""
    (block,) = recipe(TITLE)
    before = events_in()
    output("gzip mystore/journal.0*.jsonl")
    assert shell("hangarlog verify --read-only mystore").returncode == 1
    output(block)
    assert events_in() == before
    assert list(Path("mystore-as-found").glob("*.gz"))
    assert not list(Path("mystore-as-found").glob("journal.0*.jsonl"))


def test_a_store_without_its_settings_keeps_its_id(mystore: Path) -> None:
    """Its checkpoint has it. Where that is gone, too, a backup of the old one is not overwritten."""
    output("hangarlog backup mystore backup && rm mystore/hangarlog.json && hangarlog repair mystore")
    output("hangarlog backup mystore backup")
    output("rm mystore/hangarlog.json mystore/checkpoint.json && hangarlog repair mystore")
    assert shell("hangarlog backup mystore backup").returncode == 1
    output("hangarlog backup mystore new-backup")


@pytest.mark.parametrize(("mishap", "undo"), UNDONE)
def test_what_was_done_to_both_copies_is_undone(mystore: Path, mishap: str, undo: str) -> None:
    """Before anything opens the store."""
    before = events_in()
    output(mishap)
    output(undo)
    assert events_in() == before


@pytest.mark.parametrize("mishap", RESTORED)
def test_what_cannot_be_undone_is_restored(mystore: Path, mishap: str) -> None:
    """From the backup; without one, a repair says by its exit code that events are lost."""
    before = events_in()
    output("hangarlog backup mystore backup")
    shutil.copytree("mystore", "unlucky")
    output(mishap)
    output(mishap.replace("mystore", "unlucky"))
    if Path("unlucky").exists():
        assert shell("hangarlog repair unlucky").returncode == 1
    (restore,) = recipe("Restore a backup")
    output(restore if Path("mystore").exists() else "cp -r backup mystore && hangarlog verify mystore")
    assert events_in() == before


@pytest.mark.parametrize("option", ["copytruncate", "nocreate", "create", "compress"])
def test_logrotate_is_survived(mystore: Path, option: str) -> None:
    """The real one, on the journal; `compress` on all its segments."""
    tool("logrotate")
    before = events_in()
    files = "*.jsonl" if option == "compress" else "journal.jsonl"
    Path("logrotate.conf").write_text(f"{mystore}/{files} {{\n  size 1\n  rotate 3\n  {option}\n}}\n")
    Path("logrotate.conf").chmod(0o644)
    output("logrotate -s state logrotate.conf")
    assert list(mystore.glob("*.1*"))
    assert all(isinstance(result, Repaired) for result in repair("mystore"))
    assert events_in() == before
