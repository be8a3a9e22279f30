"""Checks of the machine, and of stores beside this one that have its id."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import zlib
from collections.abc import Iterator
from itertools import islice

import msgspec

from hangarlog.doctor.finding import Finding, command, found
from hangarlog.doctor.look import Look
from hangarlog.errors import HangarlogError
from hangarlog.record.line import is_erased

_MOST_NEIGHBOURS = 1000
_META = "hangarlog.json"


def check_checksums(look: Look) -> Iterator[Finding]:
    """Yield which library computes checksums in this Python."""
    if _has_isal():
        yield found("checksums", "ok", "isal computes checksums", "this Python")
    elif "zlib-ng" in zlib.ZLIB_RUNTIME_VERSION:
        yield found("checksums", "ok", "zlib-ng computes checksums", "this Python")
    else:
        text = command("pip", "install", "hangarlog[fast]")
        yield found("checksums-slow", "note", "zlib computes checksums; isal takes a tenth", "this Python", text)


def _has_isal() -> bool:
    with contextlib.suppress(ImportError, ValueError):
        return importlib.util.find_spec("isal") is not None
    return False


class _Named(msgspec.Struct):
    store_id: str


def check_neighbours(look: Look) -> Iterator[Finding]:
    """Yield the stores beside this one that have its id: copies, or two histories."""
    if look.meta is None:
        return
    above = os.path.dirname(look.path)
    entries = [*islice(look.filesystem.entries(above), _MOST_NEIGHBOURS + 1)]
    if len(entries) > _MOST_NEIGHBOURS:
        look.skipped.append(above)
    for path in sorted(os.path.join(above, entry.name) for entry in entries[:_MOST_NEIGHBOURS]):
        if path != look.path and not os.path.islink(path) and _id_of(look, path) == look.meta.store_id:
            yield _compared(look, path)


def _id_of(look: Look, folder: str) -> str | None:
    with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError, RecursionError):
        content = look.filesystem.read_file(os.path.join(folder, _META))
        return msgspec.json.decode(content, type=_Named).store_id
    return None


def _compared(look: Look, path: str) -> Finding:
    """Return the finding about a store with the same id, by the last record that both must have."""
    with contextlib.closing(Look(path, filesystem=look.filesystem)) as other, contextlib.suppress(HangarlogError):
        both = min(look.committed, other.committed)
        mine, its = look.record_at(both), other.record_at(both)
        if both and mine and its and mine.crc != its.crc and not (is_erased(mine) or is_erased(its)):
            said = f"it has another event at position {both}: two histories have one id"
            export, take = command("hangarlog", "export", path, "-"), command("hangarlog", "import", f"{path}-own", "-")
            return found("store-id-shared", "warning", said, path, f"{export} | {take}", position=both)
    return found("store-id-shared", "note", "it has the same id: a copy, or a backup", path)
