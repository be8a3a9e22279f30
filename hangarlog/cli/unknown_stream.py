"""What to say of a stream that does not exist: the category of that name, or ids that are close to it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any

from hangarlog import EventStore, FileEventStore, HangarlogError, StreamNotFoundError
from hangarlog.opening import shown_address

_MOST_IDS = 10_000
"""So many ids are compared: a store may have millions of streams."""


class UnknownStreamError(StreamNotFoundError):
    """The stream does not exist, but something like it does. Fields: `stream_id`, `suggestion`."""

    def __init__(self, stream_id: str, suggestion: str) -> None:
        HangarlogError.__init__(self, stream_id, suggestion)
        self.stream_id, self.suggestion = stream_id, suggestion

    def __str__(self) -> str:
        return f"stream not found: {self.stream_id!r}; {self.suggestion}"


def unknown_stream(store: EventStore[Any], stream_id: str, words: Sequence[str]) -> StreamNotFoundError:
    """Return the error for a stream that does not exist, for the words of a command such as `read STORE`."""
    found = suggestion(store, stream_id, words) or f"list the streams with {_list(words)}"
    return UnknownStreamError(stream_id, found)


def _list(words: Sequence[str]) -> str:
    return f"`{shlex.join(['hangarlog', 'streams', shown_address(words[1])])}`"


def suggestion(store: EventStore[Any], stream_id: str, words: Sequence[str]) -> str | None:
    """Return what the user may have meant by the id of a stream that does not exist, None if nothing is like it."""
    if ":" not in stream_id and any(_shows(store, each) for each in _ids(store, f"{stream_id}:")):
        shown = [*map(shown_address, words), "--category", stream_id]
        return f"it is a category: `{shlex.join(['hangarlog', *shown])}`"
    category, colon, _ = stream_id.partition(":")
    near = _close(store, stream_id, f"{category}:" if colon else "") or (_close(store, stream_id, "") if colon else [])
    if not near:
        return None
    return f"did you mean {' or '.join(map(repr, near))}? List the streams with {_list(words)}"


def _close(store: EventStore[Any], stream_id: str, prefix: str) -> list[str]:
    ids = islice(_ids(store, prefix), _MOST_IDS)
    return [each for each in get_close_matches(stream_id, ids, 3, 0.75) if _shows(store, each)]


def _ids(store: EventStore[Any], prefix: str) -> Iterable[str]:
    return store.folder.stream_ids(prefix) if isinstance(store, FileEventStore) else store.list_streams(prefix)


def _shows(store: EventStore[Any], stream_id: str) -> bool:
    """True if reads of the stream show an event: it was not deleted."""
    with contextlib.suppress(HangarlogError):
        return any(store.envelopes(stream_id, limit=1))
    return False
