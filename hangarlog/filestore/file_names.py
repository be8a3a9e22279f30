"""The file names that stream ids map to. The rules are in docs/format.md, section "File names"."""

from __future__ import annotations

from functools import lru_cache

from hangarlog.eventstore.stream_id import PLAIN, why_not_an_id
from hangarlog.system.import_lock import importing

# Leaves room for ".00000000000000000000.jsonl" and a temporary suffix within the usual 255 bytes of a file name.
_MAX_NAME_BYTES = 200
_KEPT_BYTES = 120

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
_ENCODED = [chr(b) if b in _SAFE else f"%{b:02X}" for b in range(256)]
_WINDOWS_DEVICES = frozenset(["con", "prn", "aux", "nul"] + [f"{d}{n}" for d in ("com", "lpt") for n in range(10)])


@lru_cache(maxsize=8192)
def stream_path(stream_id: str) -> tuple[str, str]:
    """Return the (folder, name) of a stream below `streams/`; folder "" for an id without a category."""
    category, colon, rest = stream_id.partition(":")
    return (_encode(category), _encode(rest)) if colon else ("", _encode(stream_id))


def file_name(name: str) -> str:
    """Return the file name of a name that is no stream: all of it is one part."""
    return _encode(name)


def _encode(text: str) -> str:
    if PLAIN(text) and text not in _WINDOWS_DEVICES and ":" not in text:
        return text
    raw = text.encode()
    name = "".join(_ENCODED[b] for b in raw)
    if name in _WINDOWS_DEVICES:
        return f"%{raw[0]:02X}{name[1:]}"
    if len(name) <= _MAX_NAME_BYTES:
        return name
    with importing:
        from hashlib import sha256  # OpenSSL is slow to load, and long ids are rare.
    # The code above never produces "~", so a shortened name cannot equal a full one.
    return f"{_whole_escapes(name[:_KEPT_BYTES])}~{sha256(raw).hexdigest()}"


def _whole_escapes(name: str) -> str:
    return name[:-1] if name[-1:] == "%" else name[:-2] if name[-2:-1] == "%" else name


def stream_id_of(folder: str, name: str) -> str | None:
    """Return the stream id that maps to (folder, name), or None if no id does or the name is shortened."""
    if "~" in folder or "~" in name:
        return None
    try:
        stream_id = f"{_decode(folder)}:{_decode(name)}" if folder else _decode(name)
    except ValueError:
        return None
    return stream_id if why_not_an_id(stream_id) is None and stream_path(stream_id) == (folder, name) else None


def _decode(name: str) -> str:
    first, *escaped = name.encode().split(b"%")
    return (first + b"".join(bytes((int(part[:2], 16),)) + part[2:] for part in escaped)).decode()
