"""Parts of stream ids made of names that anybody may have chosen: of files, loggers, sessions."""

from __future__ import annotations

import re
from hashlib import blake2b

from hangarlog.eventstore.stream_id import MAX_STREAM_ID_BYTES

_unsafe = re.compile(r"[\x00-\x1f\x7f-\x9f%:\\/\ud800-\udfff]")


def as_part(name: str) -> str:
    """Return a name as a part of a stream id: what ids may not hold, separators and % become %XX, byte for byte."""
    if name in (".", ".."):
        return name.replace(".", "%2E")
    return _unsafe.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass")), name
    )


def shortened(stream_id: str) -> str:
    """Return an id that is short enough: the end of a longer one becomes a digest of all of it."""
    raw = stream_id.encode()
    if len(raw) <= MAX_STREAM_ID_BYTES:
        return stream_id
    mark = blake2b(raw, digest_size=16).hexdigest()
    return raw[: MAX_STREAM_ID_BYTES - len(mark) - 1].decode(errors="ignore") + "~" + mark
