"""Looks at a store again and again: its vital signs, what has changed since the last look, and what is busy."""

from __future__ import annotations

from time import monotonic

import msgspec

from hangarlog.watching.activity import Activity, Share
from hangarlog.watching.durations import SyncTimes
from hangarlog.watching.store_files import StoreFiles
from hangarlog.watching.vitals import Vitals, files_of, read_vitals

MOST_NAMES = 20
"""So many streams, types and subscribers a look names."""

_COUNTING_SHARE = 0.25
"""The part of the time between two looks that may go into counting events."""
_MOST_COUNTING_SECONDS = 0.25
_SCAN_SECONDS, _SCAN_SHARE = 5.0, 0.02
"""Files are listed so often at most, and take this part of the time at most: 100,000 streams take a second."""


class Rates(msgspec.Struct, frozen=True):
    """What has happened between two looks. None stands for what cannot be told.

    `sync_p50` and `sync_p99` are the seconds that half and 99 % of the syncs did not exceed.
    """

    seconds: float
    events_per_second: float | None = None
    bytes_per_second: float | None = None
    syncs_per_second: float | None = None
    sync_p50: float | None = None
    sync_p99: float | None = None


class Look(msgspec.Struct, frozen=True):
    """What one look has found.

    Attributes:
        vitals: The vital signs. Their files come later, and are those of the last listing.
        rates: What has happened since the last look, None at the first.
        streams, types: The most frequent among the recent events, the most frequent first.
        is_sample: True if there were too many events to count all.
        problems: What could not be read, and why.
    """

    vitals: Vitals
    rates: Rates | None
    streams: tuple[Share, ...]
    types: tuple[Share, ...]
    is_sample: bool
    problems: tuple[str, ...]


class Watcher:
    """Looks at the store at `path`, about every `seconds`."""

    def __init__(self, path: str, seconds: float) -> None:
        self._path, self._seconds = path, seconds
        self._activity = Activity(path)
        self._before: tuple[float, Vitals] | None = None
        self._files: StoreFiles | None = None
        self._scan_due = 0.0

    def look(self) -> Look:
        """Return how the store is doing. Raises `StoreOpenError` if it is gone."""
        before, now = self._before, monotonic()
        vitals = read_vitals(self._path)
        self._before = now, vitals
        self._activity.update(min(_MOST_COUNTING_SECONDS, _COUNTING_SHARE * self._seconds), vitals.first)
        if before is None:
            self._scan_due = now  # Not now: the first look should not have to wait for it.
        elif now >= self._scan_due:
            self._list_files()
        activity = self._activity
        problems = vitals.problems if activity.problem is None else (*vitals.problems, activity.problem)
        return Look(
            vitals=msgspec.structs.replace(vitals, files=self._files),
            rates=rates_between(before[1], vitals, now - before[0]) if before else None,
            streams=activity.streams.most(MOST_NAMES),
            types=activity.types.most(MOST_NAMES),
            is_sample=activity.is_sample,
            problems=problems,
        )

    def _list_files(self) -> None:
        began = monotonic()
        self._files = files_of(self._path, MOST_NAMES) or self._files
        took = monotonic() - began
        self._scan_due = monotonic() + max(_SCAN_SECONDS, took / _SCAN_SHARE)

    def close(self) -> None:
        """Close the store."""
        self._activity.close()


def rates_between(before: Vitals, after: Vitals, seconds: float) -> Rates:
    """Return what has happened between two looks that are `seconds` apart."""
    seconds = max(seconds, 1e-6)
    syncs = _since(before.state.syncs, after.state.syncs)
    return Rates(
        seconds,
        _rate(before.committed, after.committed, seconds),
        _rate(before.state.written_bytes, after.state.written_bytes, seconds),
        None if syncs is None else syncs.count / seconds,
        syncs.quantile(0.5) if syncs else None,
        syncs.quantile(0.99) if syncs else None,
    )


def _rate(before: int | None, after: int | None, seconds: float) -> float | None:
    """Return the rise a second, None if it is unknown or a fall: other files were put in place."""
    return None if before is None or after is None or after < before else (after - before) / seconds


def _since(before: SyncTimes | None, after: SyncTimes | None) -> SyncTimes | None:
    return None if before is None or after is None else after.since(before)
