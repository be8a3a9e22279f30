"""What a run means, in words: warnings about its figures, and a verdict."""

from __future__ import annotations

from hangarlog.benchmark.results import Result, Results

MEMORY_TYPES = frozenset(["tmpfs", "ramfs"])
QUICK_SYNC_US = 25.0
"""A `write` with an `fdatasync` that takes less is suspicious: flash takes longer to write a page."""
NOISY_SPREAD = 1.5
"""Rounds that differ by more are noise. Their calls must be this many for that:"""
NOISY_CALLS = 50
_BOUND_SHARE = 0.7
_GOOD_RATE = 0.8
"""A batch size is enough if it has this share of the best rate."""


def warnings(results: Results) -> list[str]:
    """Return what makes the figures of a run doubtful, one sentence or two each."""
    found, machine = [], results.machine
    synced, plain = results.find("bare_synced"), results.find("bare")
    if machine.file_system in MEMORY_TYPES:
        found.append(
            f"{machine.folder} is on {machine.file_system}: this is memory, not a disk. Nothing here is durable, and "
            "the durable figures say nothing about a disk"
        )
    elif synced and synced.p50_us is not None and synced.p50_us < QUICK_SYNC_US:
        found.append(
            f"write + fdatasync takes {synced.p50_us:.0f} µs, which is quicker than flash is written. The device has a "
            "cache that outlives a power cut, or something (a virtual machine's host, a mount option) says that it "
            "has synced and has not. Then a power cut takes events that were acknowledged"
        )
    elif synced and plain and synced.p50_us and plain.p50_us and synced.p50_us < 2 * plain.p50_us:
        found.append("fdatasync costs hardly more than write alone: it seems to do nothing here")
    if machine.load is not None and machine.load > machine.cores / 2:
        found.append(
            f"the machine was busy before the run (load {machine.load:.1f} on {_cores(machine.cores)}): the figures "
            "are lower bounds"
        )
    noisy = [result for result in results.measures if is_noisy(result)]
    if noisy:
        worst = max(noisy, key=lambda result: result.spread or 0)
        found.append(
            f"{len(noisy)} of {len(results.measures)} measures (marked ~) differ between rounds by more than "
            f"{NOISY_SPREAD:g} times, most of all '{worst.group}: {worst.title}' ({worst.spread:.1f} times). Something "
            "else used the processor or the disk. Compare within the run, and measure again when the machine is quiet"
        )
    if results.stopped is None and results.rounds < 2:
        found.append("there was a single round, so nothing shows how far the figures vary; take more --seconds")
    return [f"{text}." for text in found]


def is_noisy(result: Result) -> bool:
    """True if the rounds of a measure differ too much."""
    return result.spread is not None and result.spread > NOISY_SPREAD and result.calls >= NOISY_CALLS


def verdict(results: Results) -> list[str]:
    """Return what to expect here, one sentence or two each; nothing about what was not measured."""
    said = [_bound(results), _processes(results), _batch(results), _relaxed(results), _follow(results)]
    return [f"{text}." for text in said if text]


def _bound(results: Results) -> str:
    durable = results.find("durable")
    if durable is None or not durable.p50_us or durable.disk_us is None:
        return ""
    share = durable.disk_us / durable.p50_us
    memory = results.machine.file_system in MEMORY_TYPES
    device = "this memory" if memory else "the disk"
    if share >= _BOUND_SHARE:
        why = (
            f"{device} bounds durable appends: the sync takes {share:.0%} of the time. A faster processor helps little"
        )
    elif share >= 1 - _BOUND_SHARE:
        why = f"{device} and the processor both count: the sync takes {share:.0%} of the time of durable appends"
    else:
        why = f"the processor bounds durable appends: the sync takes only {share:.0%} of their time"
    return f"{why[0].upper()}{why[1:]}. One process appends {_rate(durable)} events/s"


def _processes(results: Results) -> str:
    own, one, alone = (results.find(name) for name in ("processes_own", "processes_one", "durable"))
    if not (own and one and alone) or own.processes < 2:
        return ""
    times = own.events_per_second / max(1e-9, alone.events_per_second)
    return (
        f"{own.processes} processes together append {_rate(own)} durable events/s to streams of their own "
        f"({times:.1f} times one process), and {_rate(one)} to one stream"
    )


def _batch(results: Results) -> str:
    alone = results.find("durable")
    batches = [result for result in results.measures if result.name.startswith("durable_")]
    if not batches or alone is None:
        return ""
    best = max(result.events_per_second for result in batches)
    enough = next(result for result in batches if result.events_per_second >= _GOOD_RATE * best)
    times = enough.events_per_second / max(1e-9, alone.events_per_second)
    if times < 1.5:
        return "Batches help little here"
    more = "" if enough is batches[-1] else "; larger ones add little"
    return (
        f"Batches help: {enough.batch:,} events in one append make {_rate(enough)} durable events/s, {times:.0f} times "
        f"single ones{more}"
    )


def _relaxed(results: Results) -> str:
    interval, alone = results.find("interval"), results.find("durable")
    if interval is None or alone is None:
        return ""
    times = interval.events_per_second / max(1e-9, alone.events_per_second)
    if times < 1.5:
        return ""
    return (
        f"If you may lose the last moment in a power cut: syncs at intervals make {_rate(interval)} events/s, "
        f"{times:.0f} times durable ones"
    )


def _follow(results: Results) -> str:
    follow = results.find("follow")
    if follow is None or follow.p50_us is None:
        return ""
    slow = "" if follow.p99_us is None else f", 1 in 100 takes over {_time(follow.p99_us)}"
    when = "before" if follow.p50_us < 0.5 else f"{_time(follow.p50_us)} after"
    return f"A follower in another process has an event {when} its append returned{slow}"


def _cores(count: int) -> str:
    return "1 core" if count == 1 else f"{count} cores"


def _time(microseconds: float) -> str:
    return f"{microseconds:.0f} µs" if microseconds < 1000 else f"{microseconds / 1000:.1f} ms"


def _rate(result: Result) -> str:
    return f"{rounded(result.events_per_second):,}"


def rounded(number: float) -> int:
    """Return a number with three digits that count: more would be noise."""
    return int(round(number, min(0, 3 - len(str(int(number))))))
