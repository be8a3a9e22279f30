"""Stream ids: the rules for a valid one, and its category."""

from __future__ import annotations

import re
from functools import lru_cache

from hangarlog.errors import StreamIdError

MAX_STREAM_ID_BYTES = 1024
PLAIN = re.compile(r"[a-z0-9_-]{1,120}(:[a-z0-9_-]{1,120})?").fullmatch
"""Match the usual form of an id, which needs no further check."""
_CONTROLS = frozenset(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))  # The category Cc, which Unicode never changes.


class _NotTextError(StreamIdError, TypeError):
    """The stream id is not text."""


def check_stream_id(stream_id: object) -> str:
    """Return `stream_id` if it is valid.

    Raises:
        StreamIdError: it is not text (this is a `TypeError` too), is empty, is longer than 1,024 bytes of UTF-8, is an
            absolute path, has a `.` or `..` part, has nothing before or after its first `:`, starts with the reserved
            `$`, or holds a control character or a lone surrogate.
    """
    if not isinstance(stream_id, str):
        raise _NotTextError(stream_id, f"it must be text, not {type(stream_id).__name__}")
    cause = why_not_an_id(stream_id)
    if cause:
        raise StreamIdError(stream_id, cause)
    return stream_id if type(stream_id) is str else str.__str__(stream_id)


@lru_cache(maxsize=8192)  # Every append asks.
def why_not_an_id(stream_id: str) -> str | None:
    """Return why a text is not a valid stream id, None if it is valid."""
    if PLAIN(stream_id):
        return None
    if not stream_id or stream_id.isspace():
        return "it is empty"
    try:
        size = len(stream_id.encode())
    except UnicodeEncodeError:
        return "it holds a lone surrogate, which is not valid text"
    if size > MAX_STREAM_ID_BYTES:
        return f"it is {size} bytes long, the limit is {MAX_STREAM_ID_BYTES}"
    if stream_id.startswith("$"):
        return "ids that start with '$' are reserved"
    drive = stream_id[0].isascii() and stream_id[0].isalpha() and stream_id[1:3] in (":/", ":\\")
    if stream_id[0] in "/\\" or drive:
        return "it is an absolute path"
    if not {".", ".."}.isdisjoint(stream_id.replace("\\", "/").replace(":", "/").split("/")):
        return "it has a '.' or '..' part"
    if not _CONTROLS.isdisjoint(stream_id):
        return "it holds a control character"
    category, colon, rest = stream_id.partition(":")
    if colon and not (category and rest):
        return "the category before the first ':' and the name after it must not be empty"
    return None


def why_no_stream_has(stream_id: str) -> str | None:
    """Return why no stored stream may have this id, None if one may: a later version may have begun one with `$`."""
    return why_not_an_id(stream_id.removeprefix("$"))


def category_of(stream_id: str) -> str:
    """Return the part of a stream id before its first `:`, "" if it has no `:`."""
    category, colon, _ = stream_id.partition(":")
    return category if colon else ""
