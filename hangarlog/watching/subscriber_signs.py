"""How named subscribers are doing, from the file of the cursors and the locks on names."""

from __future__ import annotations

import msgspec

from hangarlog.filestore.cursor_file import as_place, pairs_in, read_content
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.queues import owner_of
from hangarlog.watching.journal_signs import event_after, seconds_of

MOST_AGES = 100
"""So many different positions are read for the age of the event after them; the subscribers most behind come first."""


class SubscriberSigns(msgspec.Struct, frozen=True):
    """How a named subscriber is doing, or one of its shares. None stands for what cannot be told.

    Attributes:
        name: That of its cursor.
        position: Up to there, events are processed.
        lag: The number of events after it.
        lag_seconds: The age of the first of these, 0 without any.
        is_owned: True if a process works for it.
        owner: The id of that process, 0 if its own system does not tell.
    """

    name: str
    position: int
    lag: int | None
    lag_seconds: float | None
    is_owned: bool | None
    owner: int | None


def read_subscribers(
    folder: Folder, committed: int | None, first: int, now: float
) -> tuple[tuple[SubscriberSigns, ...], list[str]]:
    """Return (how each subscriber is doing, sorted by name; what is wrong).

    `first` is the first position that the journal still has, `now` the time in seconds. Raises `OSError`.
    """
    places, problems = dict[str, int](), list[str]()
    for pair in pairs_in(read_content(folder.filesystem, folder.cursors_path)):
        place = pair.surviving(committed) if committed is not None else next(iter(pair.whole), None)
        if place:
            at = place.position if committed is None else as_place(place, committed).position
            places.setdefault(place.cursor, at)
        elif pair.is_unreadable:
            problems.append("the position of a cursor cannot be read; run `hangarlog repair`")
    ages = {} if committed is None else _ages(folder, places, committed, first, now)
    found = []
    for name, position in sorted(places.items()):
        is_owned, owner = _owner(folder, name)
        lag = None if committed is None else committed - position
        found.append(SubscriberSigns(name, position, lag, 0.0 if lag == 0 else ages.get(position), is_owned, owner))
    return tuple(found), problems


def _owner(folder: Folder, name: str) -> tuple[bool | None, int | None]:
    try:
        owner = owner_of(folder.filesystem, folder.lock_path("subscribers"), name)
    except OSError:
        return None, None  # The locks are private to the store's user.
    return owner is not None, owner


def _ages(folder: Folder, places: dict[str, int], committed: int, first: int, now: float) -> dict[int, float | None]:
    """Return {position: seconds since the event after it was recorded} of those most behind."""
    ages: dict[int, float | None] = {}
    behind = sorted({position for position in places.values() if position < committed})[:MOST_AGES]
    for position in behind:
        event = event_after(folder, max(position, first - 1))
        recorded = seconds_of(event.recorded_at) if event else None
        ages[position] = None if recorded is None else max(0.0, now - recorded)
    return ages
