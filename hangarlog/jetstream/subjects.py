"""The subjects of a store: each stream of hangarlog has one of its own, and ids never share one.

A byte that may not stand in a subject is written as % and two hexadecimal digits, as in an address.
"""

from __future__ import annotations

import re

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_ENCODED = [chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in range(256)]
_plain = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_NO_CATEGORY = "%"  # An escape has two digits behind it, so no category is written like this.


def token(text: str) -> str:
    """Return text as one token of a subject, or as a header."""
    return text if _plain(text) else "".join([_ENCODED[byte] for byte in text.encode()])


def untoken(encoded: str) -> str:
    """Return the text of a token. Raises `ValueError` if no text has this token."""
    first, *rest = encoded.encode().split(b"%")
    text = (first + b"".join([bytes.fromhex(part[:2].decode()) + part[2:] for part in rest])).decode()
    if token(text) != encoded:
        raise ValueError(f"{encoded!r} is not how {text!r} is written")
    return text


def stream_tokens(stream_id: str) -> str:
    """Return the last two tokens of a stream's subject: category and name."""
    category, colon, name = stream_id.partition(":")
    return f"{token(category)}.{token(name)}" if colon else f"{_NO_CATEGORY}.{token(stream_id)}"


def stream_id_of(subject: str) -> str:
    """Return the stream whose subject this is. Raises `ValueError`."""
    category, name = subject.split(".")[-2:]
    return untoken(name) if category == _NO_CATEGORY else f"{untoken(category)}:{untoken(name)}"
