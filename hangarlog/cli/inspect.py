"""`hangarlog streams`, `stats`, `verify` and `repair`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import click

from hangarlog import CorruptionError, FileEventStore
from hangarlog.cli.app import hangarlog, lock_timeout, open_store, with_store
from hangarlog.cli.terminal import is_terminal, progress, say, styled, write_json, write_object
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.system.filesystem import FileSystem


@hangarlog.command()
@with_store()
@click.option("--prefix", default="", metavar="P", help="Only ids that begin with P.")
@click.option("-l", "--long", is_flag=True, help="With each stream's version.")
def streams(store: str, prefix: str, long: bool) -> None:
    """List the streams, sorted by id."""
    with open_store(store) as log:
        for stream_id in log.list_streams(prefix):
            version = log.get_stream_version(stream_id) if long else None
            if is_terminal():
                say(stream_id if version is None else f"{version:>8}  {stream_id}")
            else:
                row = {"stream_id": stream_id} if version is None else {"stream_id": stream_id, "version": version}
                write_json(row)


@hangarlog.command()
@with_store()
def stats(store: str) -> None:
    """Print how much the store holds, and where."""
    with open_store(store) as log:
        write_object(_stats(log))


def _stats(log: FileEventStore) -> dict[str, Any]:
    sizes = {"journal": 0, "streams": 0, "other": 0}
    files = dict.fromkeys(sizes, 0)
    for path, size in _files(log.folder.filesystem, log.path):
        top, *below = os.path.relpath(path, log.path).split(os.sep)
        name = top if top in sizes else "journal" if not below and top.endswith(".jsonl") else "other"
        kind = name if path.endswith(".jsonl") else "other"
        sizes[kind] += size
        files[kind] += 1
    first, last = (next(as_stored(log, log.envelopes(limit=1, reverse=end)), None) for end in (False, True))
    return {
        "store_id": log.meta.store_id,
        "format": log.meta.format,
        "created_at": log.meta.created_at,
        "segment_bytes": log.meta.segment_bytes,
        "events": log.get_event_count(),
        "streams": log.get_stream_count(),
        "first_recorded_at": first[0][0].recorded_at if first else None,
        "last_recorded_at": last[0][0].recorded_at if last else None,
        **{f"{kind}_bytes": size for kind, size in sizes.items()},
        **{f"{kind}_files": count for kind, count in files.items()},
    }


def _files(filesystem: FileSystem, folder: str, levels: int = 3) -> Iterator[tuple[str, int]]:
    """The files of a store, whose own folders are no deeper than that: deeper ones are somebody else's."""
    for entry in filesystem.entries(folder):
        if entry.is_dir():
            if levels > 1:
                yield from _files(filesystem, entry.path, levels - 1)
        else:
            with contextlib.suppress(FileNotFoundError):  # A roll or a compaction was quicker.
                yield entry.path, entry.stat().st_size


@hangarlog.command()
@with_store()
@click.option("--read-only", is_flag=True, help="Change no byte: what a crash has left is not recovered first.")
def verify(store: str, read_only: bool) -> int:
    """Check every line and both copies of every event; print each damage, exit with 1 if there is one.

    What the recovery of a crash had to mend when the store was opened counts, too. Others may write meanwhile.
    """
    from hangarlog.maintenance import verify as checks

    if read_only:
        folder = Folder(FileSystem(), store)
        folder.enter()
        events = checks.count_events(store)
        with progress("verifying", 2 * events) as advance:
            found = _write_all(checks.verify_folder(store, advance))
        streams = sum(1 for _ in folder.stream_ids())
    else:
        with open_store(store) as log:
            events = log.get_event_count()
            with progress("verifying", 2 * events) as advance:
                found = _write_all(chain(checks.verify(log, advance), checks.mended(log)))
            streams = log.get_stream_count()
    write_object({"events": events, "streams": streams, "damaged": found})
    return 1 if found else 0


def _write_all(damages: Iterable[CorruptionError]) -> int:
    places = set()
    for damage in damages:
        if (damage.path, damage.offset) not in places:
            places.add((damage.path, damage.offset))
            _write_damage(damage)
    return len(places)


def _write_damage(damage: CorruptionError) -> None:
    if is_terminal():
        say(styled("damaged ", fg="red"), str(damage))
    else:
        place = {"path": damage.path, "segment": damage.segment, "offset": damage.offset}
        event = {name: getattr(damage, name) for name in ("position", "stream_id", "stream_version")}
        known = {name: value for name, value in event.items() if value is not None}
        write_json({**place, **known, "cause": damage.cause})


@hangarlog.command()
@with_store()
def repair(store: str) -> int:
    """Bring a damaged store to one that works; print what was mended, put aside and lost (exit code 1 then).

    Each damaged copy is mended from the other one. Where no whole copy is left, the longest history that can be proved
    is kept, and whole records that do not belong to it go to `put-aside.jsonl`. A file that is replaced is kept beside
    its successor, under its name with `.damaged`.
    """
    from hangarlog.maintenance.repair import Lost, PutAside, Repaired
    from hangarlog.maintenance.repair import repair as mend

    names = {Repaired: "mended", PutAside: "put aside", Lost: "lost"}
    mended = put_aside = lost = 0
    whole = True
    for result in mend(store, lock_timeout=lock_timeout()):
        if isinstance(result, CorruptionError):
            _write_damage(result)
        elif is_terminal():
            color = "green" if isinstance(result, Repaired) else "red"
            say(styled(f"{names[type(result)]} ", fg=color), str(result))
        else:
            write_json({"result": names[type(result)], **result._asdict()})
        mended += isinstance(result, Repaired)
        put_aside += result.events if isinstance(result, PutAside) else 0
        lost += result.events if isinstance(result, Lost) and not result.stream_id else 0
        whole &= isinstance(result, Repaired) or (isinstance(result, PutAside) and not result.committed)
    write_object({"mended": mended, "put_aside": put_aside, "lost": lost})
    return 0 if whole else 1
