"""The names of a log's files. The base of a log or of a sealed segment is its path without a suffix.

`NAME.jsonl` is the active segment, `NAME.<number of its first record>.jsonl` a sealed one. Each may have caches beside
it: its index, and its times.
"""

from __future__ import annotations

from hangarlog.record.envelope import MAX_NUMBER

TEXT = ".jsonl"
INDEX = ".index"
TIMES = ".times"
CACHES = (INDEX, TIMES)

_DIGITS = 20


def text_path(base: str) -> str:
    """Return the path of the segment with this base."""
    return base + TEXT


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
    return path.removesuffix(TEXT) + INDEX


def sealed_base(base: str, first: int) -> str:
    """Return the base of a log's sealed segment that begins with record `first`."""
    return f"{base}.{first:0{_DIGITS}d}"


def first_of(file_name: str, name: str) -> int | None:
    """Return the first record number in the name of a sealed segment of the log `name`, None for any other file."""
    digits = file_name[len(name) + 1 : -len(TEXT)]
    whole = len(digits) == _DIGITS and digits.isascii() and digits.isdecimal() and file_name == f"{name}.{digits}{TEXT}"
    return int(digits) if whole and int(digits) <= MAX_NUMBER else None
