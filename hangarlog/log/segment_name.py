"""The names of a log's files. The base of a log or of a sealed segment is its path without a suffix.

`NAME.jsonl` is the active segment, `NAME.<number of its first record>.jsonl` a sealed one, which may be compressed:
`NAME.<…>.jsonl.zst`. Each may have caches beside it: its index, and its times. A compressed segment needs no index.
"""

from __future__ import annotations

import os

from hangarlog.record.envelope import MAX_NUMBER

TEXT = ".jsonl"
COMPRESSED = TEXT + ".zst"
INDEX = ".index"
TIMES = ".times"
CACHES = (INDEX, TIMES)
ERASED = ".erased"

_DIGITS = 20


def text_path(base: str) -> str:
    """Return the path of the segment with this base."""
    return base + TEXT


def compressed_path(base: str) -> str:
    """Return the path of the compressed segment with this base."""
    return base + COMPRESSED


def is_compressed(path: str) -> bool:
    """True if a file has the name of a compressed segment, also of one that waits to take its place."""
    return COMPRESSED in os.path.basename(path)


def base_of(path: str) -> str:
    """Return the base of the segment at `path`."""
    return path.removesuffix(COMPRESSED).removesuffix(TEXT)


def index_path(base: str) -> str:
    """Return the path of the index of the segment with this base."""
    return base + INDEX


def times_path(base: str) -> str:
    """Return the path of the recorded times of the segment with this base."""
    return base + TIMES


def sealed_times_path(base: str) -> str:
    """Return the path of the recorded times of the sealed segments of the log with this base."""
    return f"{base}.sealed{TIMES}"


def index_beside(path: str) -> str:
    """Return the path of the index of the segment at `path`."""
    return base_of(path) + INDEX


def erased_path(path: str) -> str:
    """Return the path of what waits to replace a file after events were erased. Nothing but the erasing reads it."""
    return path + ERASED


def sealed_base(base: str, first: int) -> str:
    """Return the base of a log's sealed segment that begins with record `first`."""
    return f"{base}.{first:0{_DIGITS}d}"


def first_of(file_name: str, name: str) -> int | None:
    """Return the first record number in the name of a sealed segment of the log `name`, None for any other file."""
    base = file_name.removesuffix(COMPRESSED) if file_name.endswith(COMPRESSED) else file_name.removesuffix(TEXT)
    digits = base[len(name) + 1 :]
    whole = len(digits) == _DIGITS and digits.isascii() and digits.isdecimal() and base == f"{name}.{digits}"
    return int(digits) if whole and base != file_name and int(digits) <= MAX_NUMBER else None
