"""Figures from samples: percentiles, the device's share, histograms. Samples are in nanoseconds."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from hangarlog.benchmark.turn import Turn

_LEAST_SAMPLES = {0.99: 100, 0.999: 1000}
"""How many samples a percentile needs: with fewer it would be the slowest one."""
_STEPS = (1, 1.5, 2, 3, 4, 6, 8)
"""Bounds of a histogram's buckets: these times powers of ten, from 100 ns on."""


def percentile(ordered: Sequence[int], fraction: float) -> int | None:
    """Return the sample that `fraction` (0 to 1) of the sorted samples do not exceed; None if they are too few."""
    if len(ordered) < _LEAST_SAMPLES.get(fraction, 1):
        return None
    return ordered[max(0, ceil(len(ordered) * fraction) - 1)]


def typical_wait(turns: Sequence[Turn]) -> float:
    """Return which share of a typical call, 0 to 1, was spent in syncs.

    Typical are the calls whose times are in the middle tenth. Of the median call alone it would be chance, and of all
    calls a few slow ones would decide.
    """
    calls = sorted((sample, wait) for turn in turns for sample, wait in zip(turn.samples, turn.waits, strict=True))
    middle, half = len(calls) // 2, len(calls) // 20
    typical = calls[max(0, middle - half) : middle + half + 1]
    return sum(wait for _, wait in typical) / max(1, sum(sample for sample, _ in typical))


def histogram(samples: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (from, to, samples) of each bucket between the first and the last that has samples."""
    if not samples:
        return []
    bounds = [0, *(int(step * 10**power) for power in range(2, 12) for step in _STEPS)]
    counts = [0] * len(bounds)
    place = 0
    for sample in sorted(samples):
        while place + 1 < len(bounds) and sample >= bounds[place + 1]:
            place += 1
        counts[place] += 1
    used = [place for place, count in enumerate(counts) if count]
    bounds.append(max(samples) + 1)
    return [(bounds[place], bounds[place + 1], counts[place]) for place in range(used[0], used[-1] + 1)]


def spread(turns: Sequence[Turn]) -> float | None:
    """Return how many times as many events a second the quickest turn had as the slowest; None for a single turn."""
    rates = [turn.events / max(1, turn.end - turn.begin) for turn in turns]
    return max(rates) / min(rates) if len(rates) > 1 else None
