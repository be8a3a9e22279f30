"""Events written out for other tools: the journal's own lines, or CloudEvents; and new files that are whole or not."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from hangarlog.filestore import salvage
from hangarlog.filestore.store import FileEventStore
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.record.envelope import Envelope
from hangarlog.system.filesystem import FileSystem

UNFINISHED = ".unfinished"
"""What the name of a file ends in that is still being written."""


@contextlib.contextmanager
def new_file(path: str, filesystem: FileSystem | None = None) -> Iterator[BinaryIO]:
    """Where to write what is to be at `path`: it comes there when the block ends, durably; if it fails nothing is left.

    It is private to the user, and written through its descriptor only: whoever owns the folder may put a link in the
    place of its name. Raises `FileExistsError` if there is something at `path` already, or by then.
    """
    filesystem = filesystem or FileSystem()  # Not the store's, which may be one to be read only.
    if os.path.lexists(path):
        raise _exists(path)
    unfinished = f"{path}.{os.urandom(4).hex()}{UNFINISHED}"  # Two exports to one name do not mix.
    try:
        fd = filesystem.open_new(unfinished)
    except OSError as error:
        error.filename = path  # Nobody has asked for the other name.
        raise
    try:
        with open(fd, "wb", closefd=False) as file:
            yield file
        filesystem.sync_data(fd)
        _check(filesystem, unfinished, fd)
        _place(filesystem, unfinished, path)
        _check(filesystem, path, fd)  # It is still a name that was given, not the file.
    finally:
        filesystem.close(fd)
        filesystem.remove(unfinished)
    filesystem.sync_folder(os.path.dirname(path))


def _check(filesystem: FileSystem, path: str, fd: int) -> None:
    if not filesystem.is_file(path) or filesystem.identity_at(path) != filesystem.identity(fd):
        raise OSError(errno.ESTALE, "it was replaced while it was written; export to a folder of your own", path)


def _place(filesystem: FileSystem, unfinished: str, path: str) -> None:
    """Give a file its name unless that is taken. A rename alone would replace a file made there meanwhile."""
    try:
        filesystem.link(unfinished, path)
    except FileExistsError:
        raise _exists(path) from None
    except (OSError, NotImplementedError):  # No hard links here: an empty file holds the name until the rename.
        try:
            filesystem.close(filesystem.open_new(path))
        except FileExistsError:
            raise _exists(path) from None
        filesystem.rename(unfinished, path)


def _exists(path: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "it exists already; export to a new file", path)


def journal_lines(store: FileEventStore, *, skip_damaged: bool = False) -> Iterator[bytes]:
    """Every committed line as it is stored, in commit order, without newlines; blocks of them joined by newlines.

    A damaged line comes from its other copy. What is damaged in both is raised in its turn, or passed over with a
    `CorruptionWarning`. Raises `CorruptionError`.
    """
    for lines in salvage.journal_lines(store.folder, store.get_event_count(), skip=skip_damaged):
        yield b"\n".join(lines)


def cloud_events(store: FileEventStore, *, skip_damaged: bool = False) -> Iterator[bytes]:
    """Every event in the JSON format of CloudEvents 1.0, in commit order, without newlines.

    The source is the store, the subject the stream; `sequence` (the position), `streamversion` and metadata's
    `correlation_id` and `causation_id` become extension attributes. What is damaged is treated as in `journal_lines`.
    """
    source = f"urn:uuid:{store.meta.store_id}"
    blocks = store.envelopes(on_damage="skip" if skip_damaged else "raise")
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
