"""What is kept of a projection in a store: its state, with the position up to which events went into it."""

from __future__ import annotations

import contextlib
import re
from typing import Annotated, Any

import msgspec

from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.engine import StateSlot
from hangarlog.record.checked_json import with_crc, without_crc
from hangarlog.record.envelope import MAX_NUMBER, LineError

LATEST: tuple[StateSlot, StateSlot] = ("latest", "latest-2")
_LOOKS = 5
_HEAD_BYTES = 1 << 10  # Enough for all that stands before the state.
_generation = re.compile(rb'"generation":(\d+),').search
_Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]


class SavedState(msgspec.Struct, frozen=True):
    """The content of a state's file.

    `generation` counts the rebuilds: a higher one counts, whatever its position. `event_id` is that of the event at
    `position` ("" at 0, or if it was unreadable).
    """

    projection: str
    generation: _Number
    version: int
    position: _Number
    event_id: str
    saved_at: str
    state: msgspec.Raw


_decode = msgspec.json.Decoder(SavedState).decode


def parse(content: bytes) -> SavedState:
    """Return what a file has. Raises `LineError`, or `msgspec.MsgspecError`, if it is damaged."""
    return _decode(without_crc(content))


def read_saved(store: EventStore[Any], name: str, slot: StateSlot) -> SavedState | None:
    """Return what is in a slot; None if there is nothing, or something damaged."""
    content = store._read_state(name, slot)
    return _parsed(content, name) if content else None


def _parsed(content: bytes, name: str) -> SavedState | None:
    with contextlib.suppress(LineError, msgspec.MsgspecError, RecursionError):
        saved = parse(content)
        return saved if saved.projection == name else None
    return None


def write_saved(store: EventStore[Any], slot: StateSlot, saved: SavedState, *, sync: bool) -> None:
    """Replace what is in a slot."""
    store._write_state(saved.projection, slot, with_crc(saved), sync=sync)


def generation_of(store: EventStore[Any], name: str) -> int:
    """Return the generation of the state on the device, -1 if there is none."""
    found = _generation(store._read_state(name, "saved", _HEAD_BYTES) or b"")
    return int(found[1]) if found else -1


def current(store: EventStore[Any], name: str) -> tuple[SavedState | None, bool]:
    """Return (the state that counts, None if there is none; whether states were found that cannot be used).

    A state is of no use if it is damaged, or of another history than the store's events.
    """
    # The saved one last: a rebuild that ends meanwhile replaces it before it deletes the others.
    found = [*_latest(store, name), read_saved(store, name, "saved")]
    states = sorted(filter(None, found), key=lambda saved: (saved.generation, saved.position), reverse=True)
    usable = (saved for saved in states if is_of_history(store, saved.position, saved.event_id))
    return next(usable, None), bool(states) or store._read_state(name, "saved", 1) is not None


def _latest(store: EventStore[Any], name: str) -> list[SavedState]:
    """Return the states that may be newer than the one on the device. One that is being written is read again."""
    whole: list[SavedState] = []
    for _ in range(_LOOKS):
        contents = [store._read_state(name, slot) for slot in LATEST]
        whole = [saved for content in contents if content and (saved := _parsed(content, name))]
        if len(whole) == sum(map(bool, contents)):
            break
    return whole


def event_id_at(store: EventStore[Any], position: int) -> str:
    """Return the id of the event at a position, "" if there is none, or it is damaged or dropped."""
    if position < store.first_position:
        return ""
    for block in store.envelopes(from_position=position - 1, limit=1, on_damage="skip") if position else ():
        if block:
            return block[0].event_id if block[0].position == position else ""
    return ""


def is_of_history(store: EventStore[Any], position: int, event_id: str) -> bool:
    """True if the event that was at a position when something was saved is there now."""
    if position > store.last_position:
        return False
    return not event_id or event_id_at(store, position) in ("", event_id)
