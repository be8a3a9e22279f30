"""Mending one copy of an event from the other, for a whole store; what is replaced is kept beside it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hangarlog.copies import journal_lines
from hangarlog.errors import CorruptionError
from hangarlog.filesystem import FileSystem
from hangarlog.folder import Folder
from hangarlog.lock import held
from hangarlog.log import Log
from hangarlog.naming import stream_path
from hangarlog.record import LineError, decode_record, may_be_torn
from hangarlog.segment import LIVE
from hangarlog.serializer import EventSerializer
from hangarlog.snapshot import SnapshotFiles
from hangarlog.state import SharedState
from hangarlog.store import FileEventStore
from hangarlog.verify import Progress, verify

DAMAGED = ".damaged"
"""What the name of a file that was replaced ends in."""

_ENDLESS = 1 << 62


class Repaired(NamedTuple):
    """A file that was made whole: its path, and from what."""

    path: str
    source: str


def repair(
    path: str | os.PathLike[str], progress: Progress = lambda events: None, *, filesystem: FileSystem | None = None
) -> Iterator[Repaired | CorruptionError]:
    """Mend every damage of the store at `path` that can be mended, and say what could not be.

    Journal segments are mended from the streams, streams from the journal; caches are deleted. A file that is replaced
    is kept under its name with `.damaged`. It may be cut short at any point and run again; others may use the store.

    Raises:
        StoreOpenError: there is no store.
        CorruptionError: the end of the journal is damaged, and no copy of it is whole.
    """
    filesystem = filesystem or FileSystem()
    folder = Folder(filesystem, os.fspath(path))
    folder.open(1, create=False)
    with contextlib.closing(folder.write_lock()) as lock, held(lock):
        mended = _mend_journal(folder)
    yield from mended
    serializer = EventSerializer(unknown="untyped")
    with FileEventStore(path, serializer=serializer, create=False, filesystem=filesystem) as store:
        damages = list(verify(store, progress))
        with store.changing_files():
            mended, left = _mend_streams(folder, damages)
        yield from mended
        yield from left


def _mend_journal(folder: Folder) -> list[Repaired]:
    """Replace every segment of the journal that is not whole and can be made so."""
    journal = folder.journal
    journal.finish_roll()
    committed, live_first = _published(folder)
    sealed = journal.sealed()
    if not live_first or live_first in sealed:  # An append may have rolled the journal, and then failed.
        live_first = _live_first(journal) or (committed or max([0, *sealed])) + 1
    firsts = sorted({1, *sealed, live_first})
    mended = []
    for first, following in zip(firsts, [*firsts[1:], 0], strict=True):
        live = not following
        path = journal.live_path if live else journal.sealed_base(first) + LIVE
        last = following - 1 if following else committed
        whole = _whole_through(journal, first, live=live)
        if whole is None or whole < (last or 0):
            if whole is not None and following:
                first, path = whole + 1, journal.sealed_base(whole + 1) + LIVE  # The segment after it is gone.
            text = _joined(journal_lines(folder, first, last or _ENDLESS), first, last)
            if text is not None:
                _replace(folder, path, text)
                mended.append(Repaired(path, "the streams"))
    return mended


def _published(folder: Folder) -> tuple[int | None, int]:
    """(the last committed position, the live journal segment's first one) if the shared state knows; else (None, 0)."""
    try:
        state = SharedState(folder.filesystem, folder.state_path, writable=False)
    except (OSError, ValueError):
        return None, 0
    with contextlib.closing(state):
        published = state.published() if state.valid else None
        return (published[0], published[1]) if published else (None, 0)


def _live_first(journal: Log) -> int | None:
    with contextlib.suppress(CorruptionError):
        live = journal.open_live()
        if live:
            with contextlib.closing(live):
                return live.first()
    return None


def _whole_through(log: Log, first: int, *, live: bool) -> int | None:
    """The last record of a segment, None where it is not whole records from its start to its end."""
    try:
        filesystem, segment = log.filesystem, log.open_live() if live else log.open_sealed(first)
        if segment is None:
            return None
        with contextlib.closing(segment):
            offset, number = 0, first
            while True:
                lines, following = segment.lines_at(offset)
                if not lines:
                    rest = filesystem.read(segment.fd, segment.size - offset, offset)
                    return number - 1 if not rest or (live and may_be_torn(rest)) else None
                segment.decode(lines, offset, number)
                offset, number = following, number + len(lines)
    except (OSError, CorruptionError):
        return None


def _joined(lines: dict[int, bytes], first: int, last: int | None) -> bytes | None:
    """The text of positions `first` to `last` (None: as many whole batches as follow on each other)."""
    kept: list[bytes] = []
    whole = position = first - 1
    while (position := position + 1) in lines and (last is None or position <= last):
        kept.append(lines[position] + b"\n")
        if decode_record(lines[position]).ends_batch:
            whole = position
    if last is None:
        del kept[whole - first + 1 :]
    return b"".join(kept) if last is None or position > last else None


def _mend_streams(folder: Folder, damages: list[CorruptionError]) -> tuple[list[Repaired], list[CorruptionError]]:
    """Under the write lock: (the files mended, the damages left)."""
    mended: list[Repaired] = []
    left: list[CorruptionError] = []
    streams: dict[tuple[str, str], CorruptionError] = {}
    for damage in damages:
        place = os.path.relpath(damage.path, folder.streams_path)
        if damage.path.endswith(".index") or damage.path == folder.checkpoint_path:
            folder.filesystem.remove(damage.path)
            mended.append(Repaired(damage.path, "nothing: it is a cache"))
        elif place.startswith(os.pardir):
            left.append(damage)
        else:
            category, file = os.path.split(place)
            streams[category, file.partition(".")[0]] = damage
    lines = _lines_of(folder, streams) if streams else {}
    for key, damage in streams.items():
        if key in lines:
            mended += _mend_stream(folder, *lines[key])
        else:
            left.append(damage)  # The journal has no such stream.
    return mended, left


def _lines_of(folder: Folder, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, dict[int, bytes]]]:
    """What the journal has of some streams, by their (category folder, name): (id, {version: line}); {} if damaged."""
    found: dict[tuple[str, str], tuple[str, dict[int, bytes]]] = {}
    wanted = set(keys)
    try:
        for records, lines in folder.journal.forward_lines(1):
            for record, line in zip(records, lines, strict=True):
                key = stream_path(record.stream_id)
                if key in wanted:
                    found.setdefault(key, (record.stream_id, {}))[1][record.stream_version] = line
    except CorruptionError:
        return {}
    return found


def _mend_stream(folder: Folder, stream_id: str, lines: dict[int, bytes]) -> Iterator[Repaired]:
    """Make every segment of a stream what the journal says it is."""
    filesystem, log = folder.filesystem, folder.stream(stream_id)
    folder.make_category(log)
    log.finish_roll()
    snapshot = SnapshotFiles(filesystem, folder.snapshots_path).load(stream_id)
    last = max(lines)
    start = min(last, snapshot.compacted_through + 1 if snapshot else 0)
    sealed = [first for first in log.sealed() if first <= last]
    live_first = (_after(log, sealed[-1]) if sealed else None) or _live_first(log)
    if live_first is None or not (sealed[-1] if sealed else -1) < live_first <= last:
        live_first = last + 1 if sealed else start
    firsts = sorted({min(start, *sealed, live_first), *sealed, live_first})
    for first, following in zip(firsts, [*firsts[1:], last + 1], strict=True):
        path = log.live_path if first == live_first else log.sealed_base(first) + LIVE
        text = b"".join(lines[version] + b"\n" for version in range(first, following) if version in lines)
        if _content(filesystem, path) != text:
            _replace(folder, path, text)
            filesystem.remove(path.removesuffix(LIVE) + ".index")
            yield Repaired(path, "the journal")


def _after(log: Log, first: int) -> int | None:
    """The version after a sealed segment, None if its end cannot be read."""
    with (
        contextlib.suppress(OSError, CorruptionError, LineError),
        contextlib.closing(log.open_sealed(first)) as segment,
    ):
        lines, _ = segment.lines_before(segment.end())
        return decode_record(lines[-1]).stream_version + 1 if lines else None
    return None


def _content(filesystem: FileSystem, path: str) -> bytes | None:
    try:
        return filesystem.read_file(path, os.path.getsize(path))
    except OSError:
        return None


def _replace(folder: Folder, path: str, text: bytes) -> None:
    """Put `text` in the place of a file, which is kept under another name."""
    filesystem = folder.filesystem
    content = _content(filesystem, path)
    if content is not None:
        filesystem.replace_file(path + DAMAGED, content)  # Not linked: nobody appends to a file with another name.
    elif os.path.lexists(path):
        filesystem.rename(path, path + DAMAGED)
    filesystem.replace_file(path, text)
