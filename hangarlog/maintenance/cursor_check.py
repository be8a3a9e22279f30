"""The cursors of a store in a verification, a repair and a backup."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from msgspec.structs import replace

from hangarlog.errors import CorruptionError
from hangarlog.filestore.cursor_file import (
    LINE_BYTES,
    PAIR_BYTES,
    UNKNOWN,
    Pair,
    Place,
    content_of,
    cursor_damage,
    encode_place,
    pairs_in,
    read_content,
)
from hangarlog.filestore.folder import Folder
from hangarlog.maintenance.store_view import StoreView
from hangarlog.record.line import is_erased
from hangarlog.system.file_copy import keep_damaged
from hangarlog.system.filesystem import NO_FILE, FileSystem


def cursors_damage(folder: Folder, view: StoreView) -> list[CorruptionError]:
    """Return the damage of the file of cursors: lines that are not whole, and cursors of another history."""
    path = folder.cursors_path
    try:
        content = read_content(folder.filesystem, path)
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        return [cursor_damage(path, 0, f"it cannot be opened as a file ({error.strerror}); move it away")]
    found, names = list[CorruptionError](), set[str]()
    for pair in pairs_in(content):
        found += _pair_damage(folder, view, pair)
        if pair.name is not None and pair.name in names:
            found.append(cursor_damage(path, pair.offset, f"cursor {pair.name!r} comes twice; delete it"))
        names.add(pair.name or "")
    return found


def _pair_damage(folder: Folder, view: StoreView, pair: Pair) -> Iterator[CorruptionError]:
    path, advice = folder.cursors_path, "call reset(position)"
    if pair.is_unreadable:
        yield cursor_damage(
            path, pair.offset, f"the position of a cursor cannot be read; repair the store, or {advice}"
        )
    if not pair.whole:
        return
    for n in (0, 1):
        if pair.damaged[n]:
            cause = f"this line of cursor {pair.name!r} is damaged; its next move, or the next recovery, writes it anew"
            yield cursor_damage(path, pair.offset + n * LINE_BYTES, cause)
    place = pair.counting(view.committed)
    if place is None or not view.is_committed(place.tip):
        return  # It was moved since, or the next recovery sets it back.
    crc = None
    with contextlib.suppress(CorruptionError):
        block = next(folder.journal.forward(place.tip, 1), None) if place.tip else None
        there = block and block[0].position == place.tip and not is_erased(block[0])
        crc = block[0].crc if block and there else None
    if place.tip_crc == UNKNOWN or crc not in (None, place.tip_crc):
        cause = f"cursor {pair.name!r} was at position {place.position} of another history; {advice}"
        yield cursor_damage(path, pair.offset, cause)


def drop_damaged_cursors(folder: Folder) -> str | None:
    """Delete the lines that are damaged, and return where the file is kept as it was; None if all are whole."""
    filesystem, path = folder.filesystem, folder.cursors_path
    try:
        content = read_content(filesystem, path)
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        return keep_damaged(filesystem, path, remove=True)
    pairs = list(pairs_in(content))
    if not any(any(pair.damaged) for pair in pairs):
        return None
    kept = keep_damaged(filesystem, path)
    filesystem.replace_file(path, content_of({p.offset: encode_place(p.whole[0]) * 2 for p in pairs if p.whole}))
    return kept


def cursors_for_copy(folder: Folder, committed: int) -> bytes:
    """Return the content of the file in a copy of the store that has the events up to `committed`, or more."""
    pairs: dict[int, bytes] = {}
    try:
        content = read_content(folder.filesystem, folder.cursors_path)
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        return b""  # A link or a folder is in its place, as `verify` says.
    for pair in pairs_in(content):
        place = pair.surviving(committed)
        if place:
            place = replace(place, position=min(place.position, committed))
            pairs[len(pairs) * PAIR_BYTES] = encode_place(place) * 2
    return content_of(pairs) if pairs else b""


def with_new_cursors(folder: Folder, content: bytes, committed: int) -> bytes:
    """Add the cursors that were created since `content` was read, up to position `committed`.

    They are at 0: the copy's recovery makes the moves that its records carry, for cursors that exist.
    """
    pairs = {pair.offset: content[pair.offset : pair.offset + PAIR_BYTES] for pair in pairs_in(content)}
    names = {pair.name for pair in pairs_in(content)}
    with contextlib.suppress(OSError):
        for pair in pairs_in(read_content(folder.filesystem, folder.cursors_path)):
            if pair.whole and pair.name not in names and pair.whole[0].created <= committed:
                latest = pair.whole[0]
                place = Place(latest.cursor, 0, latest.moved_at, 1, created=latest.created)
                pairs[len(pairs) * PAIR_BYTES] = encode_place(place) * 2
    return content_of(pairs) if pairs else b""


def put_cursors(filesystem: FileSystem, path: str, content: bytes) -> None:
    """Put the file of cursors into a copy. Delete the one there if there are none."""
    if content:
        filesystem.replace_file(path, content)
    else:
        filesystem.remove(path)
