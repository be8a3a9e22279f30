"""Export for other tools, as the journal's own lines or as CloudEvents, and new files that appear only when whole."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from hangarlog.eventstore.base import EventStore
from hangarlog.filestore import salvage
from hangarlog.filestore.store import FileEventStore
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.record.envelope import Envelope
from hangarlog.system.filesystem import FileSystem

UNFINISHED = ".unfinished"
"""The suffix of a file that is still being written."""


@contextlib.contextmanager
def new_file(path: str, filesystem: FileSystem | None = None) -> Iterator[BinaryIO]:
    """Open a new file for writing.

    It appears at `path`, durably, when the block ends; if the block fails, never. The file is readable only by the
    user. It is written only through its descriptor, because another owner of the folder may put a link in its place.

    Raises:
        FileExistsError: `path` exists, before the block or at its end.
        OSError: the file was replaced meanwhile, or the operating system refused a call.
    """
    filesystem = filesystem or FileSystem()  # Not the store's own, which may be read-only.
    if os.path.lexists(path):
        raise _exists(path)
    unfinished = f"{path}.{os.urandom(4).hex()}{UNFINISHED}"  # Random, so that two exports do not share a file.
    fd = -1
    try:  # Before the file is there: an interrupt may come as soon as it is.
        try:
            fd = filesystem.open_new(unfinished)
        except OSError as error:
            error.filename = path  # The name that the user knows.
            raise
        with open(fd, "wb", closefd=False) as file:
            yield file
        filesystem.sync_data(fd)
        _check_same_file(filesystem, unfinished, fd)
        _give_name(filesystem, unfinished, path)
        _check_same_file(filesystem, path, fd)  # The name may have come to lead to another file.
    finally:
        if fd >= 0:
            filesystem.close(fd)
        filesystem.remove(unfinished)
    filesystem.sync_folder(os.path.dirname(path))


def _check_same_file(filesystem: FileSystem, path: str, fd: int) -> None:
    """Raise `OSError` unless `path` is the open file."""
    if not filesystem.is_file(path) or filesystem.identity_at(path) != filesystem.identity(fd):
        raise OSError(errno.ESTALE, "it was replaced while it was written; export to a folder of your own", path)


def _give_name(filesystem: FileSystem, unfinished: str, path: str) -> None:
    """Give a file its name unless that is taken; a rename alone would replace a file made meanwhile."""
    try:
        filesystem.link(unfinished, path)
    except FileExistsError:
        raise _exists(path) from None
    except (OSError, NotImplementedError):  # No hard links here: an empty file reserves the name until the rename.
        try:
            filesystem.close(filesystem.open_new(path))
        except FileExistsError:
            raise _exists(path) from None
        filesystem.rename(unfinished, path)


def _exists(path: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "it exists already; export to a new file", path)


def journal_lines(store: EventStore[Any], *, skip_damaged: bool = False, last: int | None = None) -> Iterator[bytes]:
    """Yield blocks of committed lines as they are stored, in commit order, joined by newlines; up to position `last`.

    A damaged line is read from its other copy. With `skip_damaged`, an event that is damaged in both copies is skipped
    with a `CorruptionWarning`.

    Raises:
        CorruptionError: an event is damaged in both copies.
    """
    if isinstance(store, FileEventStore):
        end = store.last_position if last is None else last
        for lines in salvage.journal_lines(store.folder, end, skip=skip_damaged):
            yield b"\n".join(lines)
        return
    blocks = store.envelopes(to_position=last, on_damage="skip" if skip_damaged else "raise")
    for _, stored in as_stored(store, blocks, skip_damaged=skip_damaged):
        yield b"\n".join(stored)


def cloud_events(store: EventStore[Any], *, skip_damaged: bool = False, last: int | None = None) -> Iterator[bytes]:
    """Yield each event up to position `last` in the JSON format of CloudEvents 1.0, in commit order, without newlines.

    `source` is the store, `subject` the stream. Extension attributes are `sequence` (the position), `streamversion`,
    and from the metadata `correlationid` and `causationid`. Damage is handled as by `journal_lines`.
    """
    source = (
        f"urn:uuid:{store.meta.store_id}"
        if isinstance(store, FileEventStore)
        else f"nats:{getattr(store, 'name', 'hangarlog')}"
    )
    blocks = store.envelopes(to_position=last, on_damage="skip" if skip_damaged else "raise")
    for block, _ in as_stored(store, blocks, skip_damaged=skip_damaged):
        for envelope in block:
            yield msgspec.json.encode(_cloud_event(source, envelope))


def _cloud_event(source: str, envelope: Envelope) -> dict[str, object]:
    metadata = msgspec.json.decode(envelope.metadata_json or b"{}", type=dict[str, object])
    extensions = {
        name.replace("_", ""): metadata[name] for name in ("correlation_id", "causation_id") if metadata.get(name)
    }
    return {
        "specversion": "1.0",
        "id": envelope.event_id,
        "source": source,
        "type": envelope.event_type,
        "subject": envelope.stream_id,
        "time": envelope.recorded_at,
        "datacontenttype": "application/json",
        "sequence": f"{envelope.position:020d}",
        "streamversion": envelope.stream_version,
        **extensions,
        "data": envelope.data,
    }
