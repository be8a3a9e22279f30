"""Stream ids and the file names they map to. The rules are in docs/format.md, section "File names"."""

from __future__ import annotations

import re
from functools import lru_cache

from hangarlog.errors import StreamIdError
from hangarlog.system.import_lock import importing

MAX_STREAM_ID_BYTES = 1024
# Leaves room for ".00000000000000000000.jsonl" and a temporary suffix below the usual 255 bytes of a file name.
_MAX_COMPONENT = 200
_KEPT_OF_LONG = 120

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
_ENCODED = [chr(b) if b in _SAFE else f"%{b:02X}" for b in range(256)]
_WINDOWS_DEVICES = frozenset(["con", "prn", "aux", "nul"] + [f"{d}{n}" for d in ("com", "lpt") for n in range(10)])
_PLAIN = re.compile(r"[a-z0-9_-]{1,120}(:[a-z0-9_-]{1,120})?").fullmatch
"""What most ids are: nothing is to be said of them."""
_CONTROLS = frozenset(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))  # Category Cc, which Unicode never changes.


def check_stream_id(stream_id: object) -> str:
    """Return `stream_id` if it can name a stream.

    Raises:
        StreamIdError: it is not text, empty, over 1,024 bytes of UTF-8, absolute, has a `..` part or an empty side of
            its first `:`, starts with the reserved `$`, or holds control characters or lone surrogates.
    """
    if not isinstance(stream_id, str):
        raise StreamIdError(stream_id, f"it must be text, not {type(stream_id).__name__}")
    cause = _why_not(stream_id)  # Remembered: it is asked at every append.
    if cause:
        raise StreamIdError(stream_id, cause)
    return stream_id if type(stream_id) is str else str.__str__(stream_id)


@lru_cache(maxsize=8192)
def _why_not(stream_id: str) -> str | None:
    if _PLAIN(stream_id):
        return None
    if not stream_id or stream_id.isspace():
        return "it is empty"
    try:
        size = len(stream_id.encode())
    except UnicodeEncodeError:
        return "it holds a lone surrogate, which is not valid text"
    if size > MAX_STREAM_ID_BYTES:
        return f"it is {size} bytes long, at most {MAX_STREAM_ID_BYTES} are allowed"
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


def category_of(stream_id: str) -> str:
    """The part before the first `:`, or "" where there is none."""
    category, colon, _ = stream_id.partition(":")
    return category if colon else ""


@lru_cache(maxsize=8192)
def stream_path(stream_id: str) -> tuple[str, str]:
    """The (folder, name) of a stream below `streams/`, folder "" for an id without a category."""
    category, colon, rest = stream_id.partition(":")
    return (_encode(category), _encode(rest)) if colon else ("", _encode(stream_id))


def _encode(text: str) -> str:
    if _PLAIN(text) and text not in _WINDOWS_DEVICES and ":" not in text:
        return text
    raw = text.encode()
    name = "".join(_ENCODED[b] for b in raw)
    if name in _WINDOWS_DEVICES:
        return f"%{raw[0]:02X}{name[1:]}"
    if len(name) <= _MAX_COMPONENT:
        return name
    with importing:
        from hashlib import sha256  # OpenSSL is slow to load, long ids are rare.
    # "~" is never produced above, so a shortened name cannot meet a whole one.
    return f"{_whole_escapes(name[:_KEPT_OF_LONG])}~{sha256(raw).hexdigest()}"


def _whole_escapes(name: str) -> str:
    return name[:-1] if name[-1:] == "%" else name[:-2] if name[-2:-1] == "%" else name


def stream_id_of(folder: str, name: str) -> str | None:
    """The stream id that maps to (folder, name), or None if no id does or the name is a shortened one."""
    if "~" in folder or "~" in name:
        return None
    try:
        stream_id = f"{_decode(folder)}:{_decode(name)}" if folder else _decode(name)
    except ValueError:
        return None
    return stream_id if _why_not(stream_id) is None and stream_path(stream_id) == (folder, name) else None


def _decode(name: str) -> str:
    first, *escaped = name.encode().split(b"%")
    return (first + b"".join(bytes((int(part[:2], 16),)) + part[2:] for part in escaped)).decode()
