"""Reading a store and its archive as one: the events of both in one order, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

from hangarlog import ArchiveError, FileEventStore
from hangarlog.cli.display import with_lines
from hangarlog.record.line import StoredEnvelope

Found = TypeVar("Found")


def bound(store: FileEventStore, archive: FileEventStore, stream: str | None = None) -> int:
    """Return the first position, or version of a stream, to read in the store. What is before is in the archive.

    Raises:
        ArchiveError: it is not the archive of this store, or events between are in neither.
    """
    if not archive.meta.archive or archive.meta.store_id != store.meta.store_id:
        raise ArchiveError(archive.path, f"it is no archive of the store {store.path}; name the folder of its archive")
    first, last = store.first_position, archive.last_position
    if last < first - 1:
        cause = f"the store has dropped positions {last + 1} to {first - 1}, which it lacks; read each by itself"
        raise ArchiveError(archive.path, cause)
    return first if stream is None else archive.get_stream_version(stream) + 1


def unmoved(found: Iterator[Found], path: str, first: int, now: Callable[[], int]) -> Iterator[Found]:
    """Yield what is found in a store from `first` on. Raises `ArchiveError` if events were moved meanwhile."""
    yield from found
    if now() != first:
        raise ArchiveError(path, "events were moved into it meanwhile, so some may be missing; read again")


def records_of_both(
    store: FileEventStore,
    archive: FileEventStore,
    stream: str | None,
    start: int | None,
    limit: int | None,
    *,
    reverse: bool,
    skip_damaged: bool,
    **options: Any,
) -> Iterator[tuple[StoredEnvelope, bytes]]:
    """Yield the wanted records of an archive and of its store with their lines; `start` is as in `envelopes`."""
    first = bound(store, archive, stream)
    begin, end = ("from_position", "to_position") if stream is None else ("from_version", "to_version")
    last = first if reverse and stream is None else first - 1  # A position to read back from is exclusive.
    damage: Literal["skip", "raise"] = "skip" if skip_damaged else "raise"

    def read(part: FileEventStore, most: int | None, **bounds: Any) -> Iterator[tuple[StoredEnvelope, bytes]]:
        found = part.envelopes(stream, limit=most, reverse=reverse, on_damage=damage, **bounds, **options)
        return with_lines(part, found, skip_damaged)

    def here(most: int | None) -> Iterator[tuple[StoredEnvelope, bytes]]:
        if reverse:
            wanted = start is None or start > last
            found = read(store, most, **{begin: start, end: first}) if wanted else iter(())
        else:
            least = first - 1 if stream is None else first
            found = read(store, most, **{begin: least if start is None else max(start, least)})
        return unmoved(found, archive.path, first, lambda: bound(store, archive, stream))

    def there(most: int | None) -> Iterator[tuple[StoredEnvelope, bytes]]:
        if reverse:
            return (
                read(archive, most, **{begin: last if start is None else min(start, last)}) if last >= 0 else iter(())
            )
        return read(archive, most, **{begin: start, end: first - 1}) if (start or 0) < first else iter(())

    count = 0
    for part in (here, there) if reverse else (there, here):
        for each in part(None if limit is None else limit - count):
            count += 1
            yield each
