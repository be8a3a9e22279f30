"""The phases that keep a store small, and copy it. Each is done once more at the end, and completes then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hangarlog import FileEventStore, HangarlogError, RetentionPolicy
from hangarlog.filestore.erasing import Erasing
from hangarlog.maintenance.backup import backup

from .phases import Phase, Run, opened, seen

FIRST = ("base-0", "base-1")
"""The events of the first segment of the journal."""


def compress(run: Run, store: FileEventStore) -> None:
    store.compress()
    plain = [path.name for path in run.path.rglob("*.0*.jsonl")]
    assert not plain, f"{plain} are not compressed"


def retain(run: Run, store: FileEventStore) -> None:
    kept = store.get_stream_version("a:1") - 1  # All but the first two.
    report = store.retain(RetentionPolicy(prefix="a:", max_events_per_stream=kept, past_subscribers=True))
    if store.first_position != 3:  # Without a checkpoint it drops nothing, and says so.
        raise HangarlogError(report.held_by)


def erase(run: Run, store: FileEventStore) -> None:
    Erasing(store._write_session).run(seconds=60.0, least=0.0)
    lines = [line for path in run.path.rglob("*.jsonl") for line in path.read_bytes().split(b"\n")]
    assert not [line for line in lines if b'"base-0"' in line and b'"text"' in line], "a file has what was hidden"


def archive(run: Run, store: FileEventStore) -> None:
    store.archive(run.beside("archive"), before=3, past_subscribers=True)
    with opened(run.beside("archive"), create=False) as archived:
        assert seen(archived) == [*FIRST], f"the archive has {seen(archived)}"


def restore(run: Run, store: FileEventStore) -> None:
    store.restore_archive(run.beside("archive"))
    assert store.first_position == 1, f"the journal begins at {store.first_position}"


def back_up(run: Run, store: FileEventStore) -> None:
    target = run.beside("backup")
    backup(run.path, target, filesystem=run.filesystem)
    with opened(target, create=False) as copy:
        assert seen(copy)[:5] == [f"base-{n}" for n in range(5)], f"the backup has {seen(copy)}"


def upkeep(name: str, act: Callable[[Run, FileEventStore], Any], **options: Any) -> Phase:
    refused = (HangarlogError, OSError)
    return Phase(name, "short", lambda run: act(run, run.store), raises=refused, again=act, **options)


UPKEEP = [
    upkeep("compress", compress),
    upkeep("retain", retain, hides={"a:1": 2}, drops=FIRST),
    upkeep("erase", erase, hides={"a:1": 2}, drops=FIRST, at_first=lambda r: r.store.truncate_stream("a:1", 2)),
    upkeep("archive", archive, hides={"a:1": 2}, drops=FIRST),
    upkeep("restore", restore, hides={"a:1": 2}, drops=FIRST, returns=True, at_first=lambda r: archive(r, r.store)),
    upkeep("back up", back_up),
]
