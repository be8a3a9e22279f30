"""Checks of what a store's files say: its segments, what was put aside, whether it is a backup that is not whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from hangarlog.doctor.finding import Finding, command, counted, found, size
from hangarlog.doctor.look import Look, SealedFile
from hangarlog.filestore.catalog import Catalog
from hangarlog.log.segment_name import TEXT

_MOST_NAMED = 5
_LONGEST_BATCH_BYTES = 1 << 30
_HUGE = 4
_MANY_STREAMS, _BLOCK_BYTES = 100_000, 4096


def check_segments(look: Look) -> Iterator[Finding]:
    """Yield how many segments and streams there are, and the unusual ones."""
    if look.meta is None:
        return
    usual, journal = look.meta.segment_bytes, look.folder.journal.active_path
    streams = _streams(look)
    said = f"{counted(1 + len(look.sealed), 'segment')} with {size(look.journal_bytes)} in the journal"
    shown = "" if streams is None else f"; {counted(streams, 'stream')}"
    count, size_of_all = 1 + len(look.sealed), look.journal_bytes
    yield found("segments", "ok", said + shown, journal, segments=count, journal_bytes=size_of_all, streams=streams)
    odd = [file for file in look.sealed if _is_odd(file, usual)]
    if odd:
        shown = "; ".join(f"{os.path.basename(file.path)} ({size(file.size)})" for file in odd[:_MOST_NAMED])
        more = f", {len(odd) - _MOST_NAMED} more" if len(odd) > _MOST_NAMED else ""
        said = f"{counted(len(odd), 'sealed segment')} of unusual size; a segment has {size(usual)}: {shown}{more}"
        text = command("hangarlog", "verify", "--read-only", look.path)
        yield found("segment-odd-size", "note", said, odd[0].path, text, count=len(odd))
    with contextlib.suppress(FileNotFoundError):
        active = look.filesystem.size_at(journal)
        if active > _HUGE * usual:
            said = f"the active segment has {size(active)}, and is sealed by the next append"
            yield found("segment-huge", "note", said, journal, bytes=active)
    if streams is not None and streams > _MANY_STREAMS and look.journal_bytes < streams * _BLOCK_BYTES:
        each = look.journal_bytes / streams
        said = f"{streams:,} streams have {size(each)} each on average, and take at least a block and an inode"
        yield found("streams-many-small", "note", said, look.folder.streams_path, streams=streams)


def _is_odd(file: SealedFile, usual: int) -> bool:
    return file.path.endswith(TEXT) and not usual <= file.size <= usual + _LONGEST_BATCH_BYTES


def _streams(look: Look) -> int | None:
    """Return the number of streams that the catalog knows of, None if it cannot be read."""
    catalog = Catalog(look.filesystem, look.folder.catalog_path)
    with contextlib.closing(catalog):
        return catalog.used() if catalog.open(reading=True) else None


def check_leftovers(look: Look) -> Iterator[Finding]:
    """Yield records that were put aside, and a backup that was cut short."""
    if not look.is_folder:
        return
    aside = look.folder.aside_path
    if look.filesystem.is_file(aside):
        away = f"{look.path}-put-aside.jsonl"
        said = f"records with {size(look.filesystem.size_at(aside))} were taken out of the store"
        text = f"{command('less', aside)}; {command('mv', '-n', '--', aside, away)}"
        yield found("put-aside", "warning", said, aside, text, bytes=look.filesystem.size_at(aside))
    marker = os.path.join(look.path, "backup.json")
    if look.filesystem.is_file(marker):
        said = "a backup into this folder was cut short, or is running"
        text = command("hangarlog", "backup", "SOURCE", look.path)
        yield found("backup-unfinished", "warning", said, marker, text)
