"""Checks of who follows a store: cursors, named subscribers and projections, how far they are, and who runs them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from time import monotonic

import msgspec

from hangarlog.doctor.finding import Finding, command, counted, duration, found
from hangarlog.doctor.look import Look, seconds_of
from hangarlog.errors import HangarlogError
from hangarlog.eventstore.parked import PARKED, REPLAYED, parked_stream
from hangarlog.eventstore.share import split_name
from hangarlog.filestore.cursor_file import Place, pairs_in, read_content
from hangarlog.filestore.projection_files import state_path
from hangarlog.filestore.queues import owner_of
from hangarlog.system.platform import BYTE_LOCKS

_ABANDONED_SECONDS = 86_400
_MOST_FOLLOWERS = 1000
_MOST_SECONDS = 3.0
_MOST_PARKED = 100_000
"""So many records of a stream of parked events are read."""


class _Noted(msgspec.Struct):
    position: int


def check_followers(look: Look) -> Iterator[Finding]:
    """Yield how far each cursor is, with its owner if it is that of a subscriber or a projection."""
    if look.meta is None:
        return
    content = read_content(look.filesystem, look.folder.cursors_path)
    committed = look.committed if content else 0
    places = sorted(
        (place for pair in pairs_in(content) if (place := pair.counting(committed))), key=lambda place: place.cursor
    )
    late, deadline = 0, None if look.thorough else monotonic() + _MOST_SECONDS
    searched = True
    for place in places[:_MOST_FOLLOWERS]:
        searched = deadline is None or monotonic() < deadline  # A search is slow where an index is missing.
        finding = _behind(look, place, committed, searched)
        if finding:
            late += 1
            yield finding
    if len(places) > _MOST_FOLLOWERS or not searched:
        look.skipped.append(look.folder.cursors_path)
    said = f"{counted(len(places), 'cursor')}, {late} of them behind"
    yield found("followers", "ok", said, look.folder.cursors_path, cursors=len(places), behind=late)
    for name in sorted({split_name(place.cursor)[0] for place in places[:_MOST_FOLLOWERS]}):
        yield from _parked(look, name)


def _behind(look: Look, place: Place, committed: int, search: bool) -> Finding | None:
    """Return the finding about a cursor that has events after it, None if it is at the end.

    Without `search`, the age of the first of these events is not looked up.
    """
    lag = committed - place.position
    if lag <= 0:
        return None
    what = "projection" if look.filesystem.is_there(state_path(look.folder, place.cursor, "saved")) else "subscriber"
    owner = _owner(look, place.cursor)
    first = look.record_at(place.position + 1) if search else None
    at, moved = (seconds_of(text) for text in (first.recorded_at if first else "", place.moved_at))
    age = max(0.0, look.now - at) if at is not None else 0.0
    idle = max(0.0, look.now - moved) if moved is not None else 0.0
    by = "nobody runs it" if owner is None else f"process {owner} runs it" if owner else "a process runs it"
    old = f", the first {duration(age)} old" if at is not None else ""
    said = f"{what} {place.cursor!r} has {counted(lag, 'event')} to process{old}; {by}, it moved {duration(idle)} ago"
    facts = {"name": place.cursor, "position": place.position, "lag": lag, "lag_seconds": age, "owner": owner}
    if owner is None and min(age, idle) > _ABANDONED_SECONDS and BYTE_LOCKS:
        program = (
            f"from hangarlog import FileEventStore as S; S.untyped({look.path!r}).cursor({place.cursor!r}).delete()"
        )
        text = f"start it again; or, if it is no longer used: {command(sys.executable, '-c', program)}"
        return found("follower-abandoned", "warning", said, place.cursor, text, **facts)
    return found("follower-behind", "note", said, place.cursor, command("hangarlog", "subscribers", look.path), **facts)


def _owner(look: Look, name: str) -> int | None:
    """Return the process that runs a follower, None if none does, 0 if it is not known."""
    path = look.folder.lock_path("subscribers")
    for queue in (name, f"running projection:{name}"):
        try:
            owner = owner_of(look.filesystem, path, queue)
        except OSError:
            return 0  # The locks are private.
        if owner is not None:
            return owner
    return None


def _parked(look: Look, name: str) -> Iterator[Finding]:
    """Yield how many events a subscriber has parked."""
    with contextlib.suppress(HangarlogError, UnicodeError):
        log = look.folder.stream(parked_stream(name))
        if not look.filesystem.is_file(log.active_path):
            return
        positions, count = set[int](), 0
        for block in log.forward(0):
            for record in block:
                if record.event_type == PARKED:
                    positions.add(msgspec.json.decode(record.data, type=_Noted).position)
                elif record.event_type == REPLAYED:
                    positions.discard(msgspec.json.decode(record.data, type=_Noted).position)
            count += len(block)
            if count > _MOST_PARKED:
                look.skipped.append(os.path.dirname(log.active_path))
                break
        if positions:
            said = f"subscriber {name!r} has parked {counted(len(positions), 'event')}, which wait for a replay"
            text = f"{command('hangarlog', 'replay', look.path, name)}  # shows them; --handler processes them"
            yield found("events-parked", "warning", said, name, text, name=name, count=len(positions))
