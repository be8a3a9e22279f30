"""MCP Hangar's SQLite event store: taken over into a store, and written back."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain, groupby, islice
from typing import Any, NamedTuple, TypeVar

import msgspec

from hangarlog.errors import CorruptionError, CorruptionWarning, EventSerializationError, SourceError, StreamIdError
from hangarlog.events.payload import checked_json, decode_object
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.filestore.store import FileEventStore
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.integrations.export import new_file
from hangarlog.integrations.sqlite_source import Source, source
from hangarlog.record.batch import Pending
from hangarlog.record.envelope import MAX_NUMBER, EncodedEvent, Envelope
from hangarlog.record.strict import refuse_repeated_keys

_BATCH_ROWS = 1000
_COLUMNS = {"global_position", "stream_id", "stream_version", "event_type", "data", "metadata", "created_at"}
_COUNT = "SELECT count(1) FROM main.events"  # Not count(*): that is one step, which nothing interrupts.
_SNAPSHOTS = "SELECT stream_id, version, state_data, created_at FROM main.snapshots ORDER BY stream_id"

Progress = Callable[[int], None]
_T = TypeVar("_T")


class Imported(msgspec.Struct):
    """What an import did: events `taken` now, events that were `already` there, streams seen, snapshots taken.

    `not_taken` names streams that cannot be continued, with the reason.
    """

    taken: int = 0
    already: int = 0
    streams: int = 0
    snapshots: int = 0
    not_taken: dict[str, str] = {}


class _Row(NamedTuple):
    position: int
    stream_id: str
    version: int
    event_type: str
    data: str
    metadata: str | None
    created_at: str


class _SnapshotRow(NamedTuple):
    stream_id: str
    version: int
    state: str
    created_at: str


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Source]:
    with source(path) as database:
        if not (database.columns("events") >= _COLUMNS and database.columns("streams") >= {"stream_id", "version"}):
            raise SourceError(path, "it is no MCP Hangar event store: the tables 'events' and 'streams' are not there")
        yield database


def count_events(path: str) -> int:
    """How many events a MCP Hangar database holds. Raises `SourceError`."""
    with _opened(path) as database:
        return int(database.value(_COUNT))


def _typed(path: str, what: str, found: Any, kind: type[_T]) -> _T:
    """SQLite holds a column to no type: what was found as the `kind` that MCP Hangar writes there."""
    try:
        return msgspec.convert(found, kind)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise SourceError(path, f"{what} is none that MCP Hangar wrote: {error}") from error


def import_database(store: FileEventStore, path: str, progress: Progress = lambda events: None) -> Imported:
    """Take over what a MCP Hangar database holds: order, versions, event ids, times, metadata, snapshots.

    Can be run again: what is there is not taken twice, what is new is. `progress` is told of events as they are done.

    Raises:
        SourceError: the database is none of MCP Hangar's, or contradicts what the store holds already.
        StorageError, OutcomeUnknownError: the store could not be written; run it again.
    """
    report = Imported()
    with _opened(path) as database:
        report.streams = database.value("SELECT count(DISTINCT stream_id) FROM main.events")
        for row in database.rows(_COMPACTED_AWAY):
            stream_id, _ = _typed(path, "a stream", row, tuple[str, int])
            report.not_taken[stream_id] = "all its events were compacted away, so it cannot be continued"
        done = _Done(store, path)
        rows = _events(path, database)
        while batch := list(islice(rows, _BATCH_ROWS)):
            taken = _take(store, path, batch, done)
            report.taken += taken
            report.already += len(batch) - taken
            progress(len(batch))
        report.snapshots = _take_snapshots(store, path, database)
        store.sync()
    return report


_COMPACTED_AWAY = """
SELECT stream_id, version FROM main.streams WHERE version >= 0 AND stream_id NOT IN (SELECT stream_id FROM main.events)
"""


def _events(path: str, database: Source) -> Iterator[_Row]:
    last: int | None = None
    for row in database.rows(
        "SELECT global_position, stream_id, stream_version, event_type, data, metadata, created_at "
        "FROM main.events ORDER BY global_position"
    ):
        event = _typed(path, f"the event at global_position {row[0]}", row, _Row)
        if last is not None and event.position <= last:
            raise SourceError(path, f"global_position {event.position} comes after {last}: it is damaged")
        if not 0 <= event.version <= MAX_NUMBER:
            cause = f"the event at global_position {event.position} has stream_version {event.version}"
            raise SourceError(path, f"{cause}; versions go from 0 to {MAX_NUMBER}")
        last = event.position
        yield event


class _Done:
    """The versions up to which the store has each stream already."""

    def __init__(self, store: FileEventStore, path: str) -> None:
        self._store, self._path = store, path
        self._versions: dict[str, int] = {}

    def __getitem__(self, stream_id: str) -> int:
        """The stream's version in the store, -1 where it has none."""
        if stream_id not in self._versions:
            try:
                self._versions[stream_id] = self._store.get_stream_version(stream_id)
            except StreamIdError as error:
                raise SourceError(self._path, str(error)) from error
        return self._versions[stream_id]

    def __setitem__(self, stream_id: str, version: int) -> None:
        self._versions[stream_id] = version


def _take(store: FileEventStore, path: str, batch: list[_Row], done: _Done) -> int:
    """Append the rows of a batch that the store has not, and say how many. Runs of one stream go in one commit."""
    taken = 0
    for stream_id, group in groupby(batch, key=lambda row: row.stream_id):
        rows = list(group)
        version = done[stream_id]
        known = [row for row in rows if row.version <= version]
        _refuse_other(store, path, known)
        new = rows[len(known) :]
        start = version + 1 if version >= 0 or not new else new[0].version
        if [row.version for row in new] != list(range(start, start + len(new))):
            raise SourceError(path, f"stream {stream_id!r} does not go on with version {start}, but {new[0].version}")
        if new and version < 0 and start:
            store.begin_stream(stream_id, start)  # It was compacted there: its history begins later here too.
        for _, part in groupby(new, key=lambda row: row.metadata):
            run = list(part)
            events = [_event(path, row) for row in run]
            pending = Pending(stream_id, events, version, _metadata(path, run[0]), start)
            version = store.append_encoded([pending])[stream_id]
        if new:
            done[stream_id] = version
        taken += len(new)
    return taken


def _event(path: str, row: _Row) -> EncodedEvent:
    try:
        raw = row.data.encode()
        event_id = decode_object(raw).get("event_id")
        recorded_at = datetime.fromisoformat(row.created_at)
        if recorded_at.tzinfo is None:
            recorded_at = recorded_at.replace(tzinfo=UTC)
        text = recorded_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        # Only the blanks go: numbers stay as they were written.
        data = checked_json(msgspec.json.format(raw, indent=-1))
        return row.event_type, event_id if isinstance(event_id, str) and event_id else None, data, text
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise SourceError(path, f"the event at global_position {row.position} cannot be stored: {error}") from error


def _metadata(path: str, row: _Row) -> bytes | None:
    if row.metadata is None:
        return None
    try:
        raw = row.metadata.encode()
        decode_object(raw)
        return checked_json(msgspec.json.format(raw, indent=-1))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SourceError(path, f"the metadata at global_position {row.position} is no object: {error}") from error


def _refuse_other(store: FileEventStore, path: str, known: list[_Row]) -> None:
    """Raise if the store has another event where the source has one of `known`, consecutive rows of one stream."""
    if not known:
        return
    stream_id, version = known[0].stream_id, known[0].version
    stored = chain.from_iterable(store.envelopes(stream_id, from_version=version, limit=len(known)))
    for row, envelope in zip(known, stored, strict=False):
        _, event_id, _, _ = _event(path, row)
        same = envelope.event_type == row.event_type and envelope.stream_version == row.version
        if not same or (event_id or envelope.event_id) != envelope.event_id:
            raise SourceError(
                path,
                f"stream {stream_id!r} version {row.version} is {row.event_type} {event_id} there, but "
                f"{envelope.event_type} {envelope.event_id} in the store; import into an empty store",
            )


def _take_snapshots(store: FileEventStore, path: str, database: Source) -> int:
    if not database.columns("snapshots"):
        return 0
    taken = 0
    for row in database.rows(_SNAPSHOTS):
        stream_id, version, state, created_at = _typed(path, f"the snapshot of {row[0]!r}", row, _SnapshotRow)
        try:
            present = store.load_snapshot(stream_id)
            if present is None or present["version"] < version:
                raw = state.encode()
                refuse_repeated_keys(raw)
                store.save_snapshot(stream_id, version, decode_object(raw), saved_at=created_at)
                taken += 1
        except (msgspec.MsgspecError, StreamIdError, EventSerializationError, ValueError, RecursionError) as error:
            raise SourceError(path, f"the snapshot of stream {stream_id!r} cannot be stored: {error}") from error
    return taken


_SCHEMA = """
CREATE TABLE events (
    global_position INTEGER PRIMARY KEY AUTOINCREMENT,
    stream_id TEXT NOT NULL,
    stream_version INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    data TEXT NOT NULL,
    metadata TEXT,
    created_at TEXT NOT NULL,
    UNIQUE(stream_id, stream_version)
);
CREATE INDEX idx_events_stream ON events(stream_id, stream_version);
CREATE INDEX idx_events_global ON events(global_position);
CREATE TABLE streams (
    stream_id TEXT PRIMARY KEY,
    version INTEGER NOT NULL DEFAULT -1,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
);
CREATE TABLE snapshots (
    stream_id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    state_data TEXT NOT NULL,
    created_at TEXT NOT NULL
);
"""


def export_database(
    store: FileEventStore, path: str, progress: Progress = lambda events: None, *, skip_damaged: bool = False
) -> int:
    """Write all events and snapshots as a MCP Hangar database at `path`, which must not exist; the number of events.

    With `skip_damaged` events that are damaged in both copies, and damaged snapshots, are passed over, with a warning.

    It is made in the system's folder for temporary files, and copied.

    Raises:
        FileExistsError: there is a file already.
        CorruptionError: an event is damaged in both copies, or a snapshot is damaged; nothing is left at `path`.
        OSError: there is no room for it.
    """
    # SQLite opens files by name, which in somebody else's folder may come to be another file's.
    with new_file(path) as file, tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "export.db")
        try:
            count = _make_database(store, made, progress, skip_damaged)
        except sqlite3.OperationalError as error:
            cause = f"the database cannot be made here ({error}); let TMPDIR name a folder with room for it"
            raise OSError(errno.EIO, cause, folder) from error
        with open(made, "rb") as database:
            shutil.copyfileobj(database, file, 1 << 20)
    return count


def _make_database(store: FileEventStore, path: str, progress: Progress, skip_damaged: bool) -> int:
    with contextlib.closing(sqlite3.connect(path)) as target:
        target.executescript(_SCHEMA)
        count = 0
        blocks = store.envelopes(on_damage="skip" if skip_damaged else "raise")
        for block, _ in as_stored(store, blocks, skip_damaged=skip_damaged):
            try:
                target.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", map(_row, block))
            except sqlite3.IntegrityError as error:
                journal = store.folder.journal.live_path
                cause = (
                    f"an event between positions {block[0].position} and {block[-1].position} has the place of another"
                )
                raise CorruptionError(journal, os.path.basename(journal), 0, f"{cause} ({error})") from error
            count += len(block)
            progress(len(block))
        target.execute(
            "INSERT INTO streams SELECT stream_id, max(stream_version), min(created_at), max(created_at) "
            "FROM events GROUP BY stream_id ORDER BY min(global_position)"
        )
        for (stream_id,) in target.execute("SELECT stream_id FROM streams").fetchall():
            _export_snapshot(store, target, stream_id, skip_damaged)
        target.commit()
    return count


def _row(envelope: Envelope) -> _Row:
    return _Row(
        envelope.position,
        envelope.stream_id,
        envelope.stream_version,
        envelope.event_type,
        bytes(envelope.data).decode(),
        bytes(envelope.metadata).decode() or None,
        datetime.fromisoformat(envelope.recorded_at).isoformat(),
    )


def _export_snapshot(store: FileEventStore, target: sqlite3.Connection, stream_id: str, skip_damaged: bool) -> None:
    try:
        snapshot = store.load_snapshot(stream_id)
    except CorruptionError as damage:
        if not skip_damaged:
            raise
        warnings.warn(CorruptionWarning(f"passed over: {damage}"), stacklevel=2)
        return
    kept = SnapshotFiles(store.folder.filesystem, store.folder.snapshots_path).load(stream_id) if snapshot else None
    if kept:
        state = msgspec.json.format(bytes(kept.state), indent=0)  # With blanks, as MCP Hangar has it.
        row = (stream_id, kept.version, state.decode(), kept.saved_at)
        target.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?)", row)
