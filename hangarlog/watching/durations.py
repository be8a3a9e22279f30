"""Durations of syncs, as the histogram in the shared state has them."""

from __future__ import annotations

import msgspec

from hangarlog.filestore.counters import BOUNDS_NS

BOUNDS_SECONDS = tuple(bound / 1e9 for bound in BOUNDS_NS)
"""The longest time of each bucket but the last."""


class SyncTimes(msgspec.Struct, frozen=True):
    """How long syncs took: (number of syncs, sum of their nanoseconds) of each bucket."""

    buckets: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """The number of syncs."""
        return sum(count for count, _ in self.buckets)

    @property
    def seconds(self) -> float:
        """The time that they took together."""
        return sum(total for _, total in self.buckets) / 1e9

    def since(self, before: SyncTimes) -> SyncTimes:
        """Return the syncs after `before`. If the counters have begun anew meanwhile, return all."""
        pairs = list(zip(self.buckets, before.buckets, strict=True))
        if any(now[0] < then[0] or now[1] < then[1] for now, then in pairs):
            return self
        return SyncTimes(tuple((now[0] - then[0], now[1] - then[1]) for now, then in pairs))

    def quantile(self, fraction: float) -> float | None:
        """Return the seconds that `fraction` (0 to 1) of the syncs did not exceed, None without syncs.

        Within a bucket the syncs are taken to be spread evenly around their mean. The true value lies in the same
        bucket, so this is at most 41 % off.
        """
        wanted, passed = self.count * fraction, 0
        for number, (count, total) in enumerate(self.buckets):
            if count and passed + count >= wanted:
                return _within(number, (wanted - passed) / count, total / count / 1e9)
            passed += count
        return None


def _within(number: int, share: float, mean: float) -> float:
    """Return the time that `share` of the syncs in a bucket do not exceed, given their mean."""
    low = BOUNDS_SECONDS[number - 1] if number else 0.0
    if number == len(BOUNDS_SECONDS):
        return max(low, mean)  # It has no upper bound.
    high = BOUNDS_SECONDS[number]
    mean = min(max(mean, low), high)  # A damaged state may claim any sum.
    if share <= 0.5:
        return low + (mean - low) * share * 2
    return mean + (high - mean) * (share * 2 - 1)
