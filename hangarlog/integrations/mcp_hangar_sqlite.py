"""Import from and export to MCP Hangar's SQLite event store."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, groupby, islice
from typing import Any, NamedTuple, TypeVar

import msgspec

from hangarlog.errors import (
    CorruptionError,
    CorruptionWarning,
    EventSerializationError,
    SnapshotError,
    SourceError,
    StreamIdError,
    StreamNotFoundError,
)
from hangarlog.events.payload import checked_json, decode_object
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.progress import Progress
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.integrations.export import new_file
from hangarlog.integrations.imported import Imported
from hangarlog.integrations.sqlite_source import Source, source
from hangarlog.record.batch import Pending
from hangarlog.record.envelope import MAX_NUMBER, Encoded, Envelope
from hangarlog.record.strict import refuse_repeated_keys
from hangarlog.record.timestamp import as_recorded

_BATCH_ROWS = 1000
_COLUMNS = {"global_position", "stream_id", "stream_version", "event_type", "data", "metadata", "created_at"}
_COUNT = "SELECT count(1) FROM main.events"  # Not count(*), which is one step and cannot be interrupted.
_SNAPSHOTS = "SELECT stream_id, version, state_data, created_at FROM main.snapshots ORDER BY stream_id"

_T = TypeVar("_T")


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
            raise SourceError(path, "it is not an MCP Hangar event store: it lacks the tables 'events' and 'streams'")
        yield database


def count_events(path: str) -> int:
    """Return the number of events in an MCP Hangar database.

    Raises:
        SourceError: it is not such a database, or cannot be read.
    """
    with _opened(path) as database:
        return int(database.value(_COUNT))


def list_streams(path: str) -> list[str]:
    """Return the ids of the streams in an MCP Hangar database.

    Raises:
        SourceError: it is not such a database, or cannot be read.
    """
    with _opened(path) as database:
        rows = database.rows("SELECT DISTINCT stream_id FROM main.events")
        return [_convert(path, "a stream", row, tuple[str])[0] for row in rows]


def _convert(path: str, what: str, found: Any, kind: type[_T]) -> _T:
    """Convert a value or a row to the type that MCP Hangar writes, because SQLite does not enforce column types."""
    try:
        return msgspec.convert(found, kind)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise SourceError(path, f"{what} was not written by MCP Hangar: {error}") from error


def import_database(
    store: EventStore[Any],
    path: str,
    progress: Progress = lambda events: None,
    report: Imported | None = None,
) -> Imported:
    """Import an MCP Hangar database: events with their order, versions, ids, times and metadata, and snapshots.

    You can run it again: it imports only what is new. `progress` counts events, including those the store had already.
    `report`, if given, says after an error how far it came.

    Raises:
        SourceError: the database is not MCP Hangar's, cannot be read, or contradicts the store.
        StorageError, OutcomeUnknownError: the store could not be written. Run the import again.
    """
    report = Imported() if report is None else report
    with _opened(path) as database:
        report.streams = database.value("SELECT count(DISTINCT stream_id) FROM main.events")
        for row in database.rows(_COMPACTED_AWAY):
            stream_id, _ = _convert(path, "a stream", row, tuple[str, int])
            report.not_taken[stream_id] = "all its events were compacted away, so it cannot be continued"
        stored_versions = _StoredVersions(store, path)
        rows = _read_rows(path, database)
        while batch := list(islice(rows, _BATCH_ROWS)):
            taken = _append_batch(store, path, batch, stored_versions)
            report.taken += taken
            report.already += len(batch) - taken
            progress(len(batch))
        _import_snapshots(store, path, database, report)
        store.sync()
    return report


_COMPACTED_AWAY = """
SELECT stream_id, version FROM main.streams WHERE version >= 0 AND stream_id NOT IN (SELECT stream_id FROM main.events)
"""


def _read_rows(path: str, database: Source) -> Iterator[_Row]:
    last: int | None = None
    for row in database.rows(
        "SELECT global_position, stream_id, stream_version, event_type, data, metadata, created_at "
        "FROM main.events ORDER BY global_position"
    ):
        event = _convert(path, f"the event at global_position {row[0]}", row, _Row)
        if last is not None and event.position <= last:
            raise SourceError(path, f"it is damaged: global_position {event.position} comes after {last}")
        if not 0 <= event.version <= MAX_NUMBER:
            cause = f"the event at global_position {event.position} has stream_version {event.version}"
            raise SourceError(path, f"{cause}; versions go from 0 to {MAX_NUMBER}")
        last = event.position
        yield event


class _StoredVersions:
    """The last version of each stream in the store, read once."""

    def __init__(self, store: EventStore[Any], path: str) -> None:
        self._store, self._path = store, path
        self._versions: dict[str, int] = {}

    def __getitem__(self, stream_id: str) -> int:
        """Return the stream's last version in the store, -1 if there is no such stream."""
        if stream_id not in self._versions:
            try:
                self._versions[stream_id] = self._store.get_stream_version(stream_id)
            except StreamIdError as error:
                raise SourceError(self._path, str(error)) from error
        return self._versions[stream_id]

    def __setitem__(self, stream_id: str, version: int) -> None:
        self._versions[stream_id] = version


def _append_batch(store: EventStore[Any], path: str, batch: list[_Row], stored_versions: _StoredVersions) -> int:
    """Append the rows that the store does not have yet, and return their number.

    Consecutive rows of one stream with the same metadata are committed together.
    """
    taken = 0
    for stream_id, group in groupby(batch, key=lambda row: row.stream_id):
        rows = list(group)
        version = stored_versions[stream_id]
        known = [row for row in rows if row.version <= version]
        _check_same_events(store, path, known)
        new = rows[len(known) :]
        start = version + 1 if version >= 0 or not new else new[0].version
        if [row.version for row in new] != list(range(start, start + len(new))):
            raise SourceError(path, f"stream {stream_id!r} does not continue without a gap from version {start}")
        if new and version < 0 and start:
            store.begin_stream(stream_id, start)  # The stream was compacted in the source, so it begins later here too.
        for _, part in groupby(new, key=lambda row: row.metadata):
            run = list(part)
            events = [_encoded_event(path, row) for row in run]
            pending = Pending(stream_id, events, version, _metadata(path, run[0]), start)
            version = store.append_encoded([pending])[stream_id]
        if new:
            stored_versions[stream_id] = version
        taken += len(new)
    return taken


def _encoded_event(path: str, row: _Row) -> Encoded:
    try:
        raw = row.data.encode()
        event_id = decode_object(raw).get("event_id")
        # Reformatting removes white space only. Decoding and encoding would change how numbers are written.
        data = checked_json(msgspec.json.format(raw, indent=-1))
        return (
            row.event_type,
            event_id if isinstance(event_id, str) and event_id else None,
            data,
            as_recorded(_time(row.created_at)),
            None,
        )
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise SourceError(path, f"the event at global_position {row.position} cannot be stored: {error}") from error


def _time(text: str) -> datetime:
    """Return a time of the database; one without an offset is in UTC. Raises `ValueError`."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _metadata(path: str, row: _Row) -> bytes | None:
    if row.metadata is None:
        return None
    try:
        raw = row.metadata.encode()
        decode_object(raw)
        return checked_json(msgspec.json.format(raw, indent=-1))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SourceError(path, f"the metadata at global_position {row.position} is not an object: {error}") from error


def _check_same_events(store: EventStore[Any], path: str, known: list[_Row]) -> None:
    """Raise `SourceError` if the store's events differ from `known`, consecutive rows of one stream."""
    if not known:
        return
    stream_id, version = known[0].stream_id, known[0].version
    stored = chain.from_iterable(store.envelopes(stream_id, from_version=version, limit=len(known)))
    for row, envelope in zip(known, stored, strict=False):
        _, event_id, *_ = _encoded_event(path, row)
        same = envelope.event_type == row.event_type and envelope.stream_version == row.version
        if not same or (event_id or envelope.event_id) != envelope.event_id:
            raise SourceError(
                path,
                f"stream {stream_id!r} version {row.version} is {row.event_type} {event_id} in the database, but "
                f"{envelope.event_type} {envelope.event_id} in the store; import into an empty store",
            )


def _import_snapshots(store: EventStore[Any], path: str, database: Source, report: Imported) -> None:
    if not database.columns("snapshots"):
        return
    for row in database.rows(_SNAPSHOTS):
        stream_id, version, state, created_at = _convert(path, f"the snapshot of {row[0]!r}", row, _SnapshotRow)
        try:
            present = store.load_snapshot(stream_id)
            if present is None or present["version"] < version:
                raw = state.encode()
                refuse_repeated_keys(raw)
                store.save_snapshot(stream_id, version, decode_object(raw), saved_at=_time(created_at))
                report.snapshots += 1
        except (SnapshotError, StreamNotFoundError):
            last = store.get_stream_version(stream_id)
            if version > last and stream_id not in report.not_taken:  # Otherwise its events were deleted here.
                cause = f"it is of version {version}, but the stream " + (
                    f"is at {last}" if last >= 0 else "has no events"
                )
                report.snapshots_not_taken[stream_id] = cause
        except (msgspec.MsgspecError, StreamIdError, EventSerializationError, ValueError, RecursionError) as error:
            raise SourceError(path, f"the snapshot of stream {stream_id!r} cannot be stored: {error}") from error


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
    store: EventStore[Any], path: str, progress: Progress = lambda events: None, *, skip_damaged: bool = False
) -> int:
    """Write all events and snapshots to a new MCP Hangar database at `path`.

    Return the number of events. The database is built in the system's folder for temporary files, and then copied. With
    `skip_damaged`, events that are damaged in both copies and damaged snapshots are skipped with a `CorruptionWarning`.
    If the export fails, nothing is left at `path`.

    Raises:
        FileExistsError: `path` exists.
        CorruptionError: an event is damaged in both copies, or a snapshot is damaged.
        OSError: there is no room for the database, or the operating system refused a call.
    """
    # SQLite opens files by name. In another user's folder, the name may come to lead to another file.
    with new_file(path) as file, tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "export.db")
        try:
            count = _write_database(store, made, progress, skip_damaged)
        except sqlite3.OperationalError as error:
            cause = f"the database cannot be written here ({error}); set TMPDIR to a folder with room for it"
            raise OSError(errno.EIO, cause, folder) from error
        with open(made, "rb") as database:
            shutil.copyfileobj(database, file, 1 << 20)
    return count


def _write_database(store: EventStore[Any], path: str, progress: Progress, skip_damaged: bool) -> int:
    with contextlib.closing(sqlite3.connect(path)) as target:
        target.executescript(_SCHEMA)
        count = 0
        blocks = store.envelopes(on_damage="skip" if skip_damaged else "raise")
        for block, _ in as_stored(store, blocks, skip_damaged=skip_damaged):
            try:
                target.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", map(_row, block))
            except sqlite3.IntegrityError as error:
                between = f"between positions {block[0].position} and {block[-1].position}"
                cause = f"an event {between} has the same stream and version as another ({error})"
                raise CorruptionError(str(getattr(store, "path", "")), "journal", 0, cause) from error
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


def _export_snapshot(store: EventStore[Any], target: sqlite3.Connection, stream_id: str, skip_damaged: bool) -> None:
    try:
        snapshot = store.load_snapshot(stream_id)
    except CorruptionError as damage:
        if not skip_damaged:
            raise
        warnings.warn(CorruptionWarning(f"passed over: {damage}"), stacklevel=2)
        return
    kept = store._load_snapshot(stream_id) if snapshot else None
    if kept:
        state = msgspec.json.format(bytes(kept.state), indent=0)  # With spaces, as MCP Hangar writes it.
        saved_at = kept.saved_at
        with contextlib.suppress(ValueError):  # An older version took any text.
            saved_at = _time(saved_at).isoformat()  # As the database has the times of events.
        row = (stream_id, kept.version, state.decode(), saved_at)
        target.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?)", row)
