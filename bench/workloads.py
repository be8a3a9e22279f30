"""The workloads in the order of the page, and the points of the curves, which are workloads too."""

from __future__ import annotations

from bench.harness.workload import Measure, Workload
from bench.measures import appending, followers, growing, memory, opening, reading, starting, waking, writers

_PEERS = ("eventsourcing", "eventsourcing:mapper", "mcp_hangar", "umadb", "salamander", "jetstream", "node")
_WRITING_PEERS = tuple(peer for peer in _PEERS if peer != "eventsourcing:mapper")  # It writes like the recorder.
_RATE = {"rate": "events/s"}
_EACH = {"rate": "events/s", "p50": "p50 µs", "p99": "p99 µs"}
_WRITERS = {
    "rate": "events/s",
    "p50": "p50 µs",
    "p99": "p99 µs",
    "longest": "longest µs",
    "fairness": "slowest / fastest",
    "conflicts": "conflicts per append",
}
_LARGE_STORE = {"streams": 1000, "each": 1000, "block": 100}
_SMALL_STORE = {"streams": 20, "each": 100, "block": 50}
_WOKEN = {"ratio": "rate / alone", "p50": "p50 µs", "p99": "p99 µs", "rate": "events/s", "alone": "alone, events/s"}
_WOKEN_NOTE = (
    "One process appends single events to one stream, first alone, then while others follow, then alone again. Times "
    "are from the return of an append to the typed event in a follower. hangarlog and JetStream wake followers; "
    "sqlite3 and UmaDB, whose Python client cannot wait, are polled every millisecond."
)
_FOLLOWERS = (1, 8, 64)
_CHAINS = ("hangarlog", "hangarlog:chain of 1", "hangarlog:chain of 5", "hangarlog:chain of 20")

_ALL = [
    Workload(
        "W1",
        "One durable append per call",
        appending.one_per_call,
        _EACH,
        ("hangarlog", "floor", "sqlite3", *_PEERS, "jsonlog"),
        sizes={"events": 3000, "seconds": 1.0},
        quick_sizes={"events": 30, "seconds": 0.2},
        durable=True,
        note="One process appends to one stream at its expected version. The floor writes only the payload and syncs.",
    ),
    Workload(
        "W2",
        "One relaxed append per call",
        appending.one_per_call,
        _EACH,
        ("hangarlog", "hangarlog:exclusive", "floor", "floor:whole lines", "sqlite3", *_PEERS, "jsonlog"),
        sizes={"events": 30_000, "seconds": 1.0},
        quick_sizes={"events": 300, "seconds": 0.2},
        note="As W1, but the operating system decides when the data reaches the device.",
    ),
    Workload(
        "W3 relaxed",
        "Batches of 1,000, relaxed",
        appending.batches,
        {"rate": "events/s", "batch_ms": "ms per batch"},
        ("hangarlog", "hangarlog:exclusive", "floor", "floor:whole lines", "sqlite3", *_PEERS, "jsonlog"),
        sizes={"batch": 1000, "batches": 100, "seconds": 1.0},
        quick_sizes={"batch": 100, "batches": 3, "seconds": 0.2},
        note="One process appends to one stream. The floor encodes the payloads, joins them and writes; `whole lines` "
        "are as long as hangarlog's.",
    ),
    Workload(
        "W3 durable",
        "Batches of 1,000, durable",
        appending.batches,
        {"rate": "events/s", "batch_ms": "ms per batch"},
        ("hangarlog", "floor", "floor:whole lines", "sqlite3", *_PEERS, "jsonlog"),
        sizes={"batch": 1000, "batches": 100, "seconds": 1.0},
        quick_sizes={"batch": 100, "batches": 3, "seconds": 0.2},
        durable=True,
    ),
    Workload(
        "W4",
        "One stream into typed objects",
        reading.one_stream,
        _RATE,
        ("hangarlog", "floor:line by line", "floor:one pass", "sqlite3", *_PEERS, "jsonlog"),
        sizes={"events": 200_000},
        quick_sizes={"events": 2000},
        slow_sizes={"events": 50_000},
        recipe="one stream",
        note="A fresh process opens the store and reads 200,000 events, or 50,000 with slow readers (mcp_hangar, "
        "jetstream, salamander). Imports are not timed. The page cache is warm.",
    ),
    Workload(
        "W5",
        "All streams in order",
        reading.all_streams,
        _RATE,
        ("hangarlog", "floor:line by line", "floor:one pass", "sqlite3", *_PEERS, "jsonlog"),
        sizes={"streams": 1000, "each": 200, "block": 20},
        quick_sizes={"streams": 20, "each": 100, "block": 10},
        slow_sizes={"each": 40},
        recipe="interleaved",
        note="A fresh process reads 1,000 streams of 200 events, or of 40 with slow readers, as typed objects. The "
        "streams were written in turn, twenty events at a time.",
    ),
    Workload(
        "W6a",
        "Eight durable writers, a stream each",
        writers.together,
        _WRITERS,
        ("hangarlog", "floor:group commit", "sqlite3", *_WRITING_PEERS, "jsonlog"),
        sizes={"processes": 8, "seconds": 3.0, "shared": 0},
        quick_sizes={"processes": 2, "seconds": 0.2, "shared": 0},
        durable=True,
        note="Each process appends one event per call at its expected version. The floor is one file under flock, with "
        "one fdatasync for all waiting processes, a futex to wake them, and no versions. Percentiles cover the "
        "appends of all processes; `longest` and `slowest / fastest` show whether a few processes made nearly all "
        "of them.",
    ),
    Workload(
        "W6b",
        "Eight durable writers, one stream",
        writers.together,
        _WRITERS,
        ("hangarlog", "sqlite3", *_WRITING_PEERS),
        sizes={"processes": 8, "seconds": 3.0, "shared": 1},
        quick_sizes={"processes": 2, "seconds": 0.2, "shared": 1},
        durable=True,
        note="As W6a, but after a conflict a writer retries at the version that the conflict reports. Times are until "
        "success.",
    ),
    Workload(
        "W7",
        "New streams",
        appending.new_streams,
        {"rate": "streams/s", "streams": "streams created", "files": "files per stream", "kilobytes": "KB per stream"},
        ("hangarlog", "floor:file per stream", "sqlite3", *_PEERS),
        sizes={"streams": 100_000, "seconds": 8.0, "peer_seconds": 2.0},
        quick_sizes={"streams": 200, "seconds": 0.5},
        note="One relaxed append creates each of 100,000 streams of 1 to 5 events; the limit is 8 s, and 2 s for "
        "peers. KB counts the blocks on disk without the journal. The floor opens, writes and closes a file per "
        "stream, with the same lines.",
    ),
    Workload(
        "W7 read",
        "A thousand of 100,000 streams",
        reading.some_streams,
        {"rate": "streams/s"},
        ("hangarlog", "floor:file per stream", "sqlite3", "eventsourcing", "eventsourcing:mapper", "salamander"),
        sizes={"streams": 100_000, "read": 1000, "seconds": 15.0, "peer_seconds": 2.0},
        quick_sizes={"streams": 200, "read": 50, "seconds": 0.5},
        recipe="short streams",
        note="A fresh process opens the store and reads random streams as typed objects. The time includes the "
        "opening. Slow peers stop after 2 s. Peers that would need minutes to write 100,000 streams do not take "
        "part.",
    ),
    Workload(
        "W10 version",
        "One event by stream and version, 1 M events",
        reading.one_by_version,
        {"p50": "p50 µs", "p99": "p99 µs"},
        ("hangarlog", "sqlite3", *_PEERS),
        sizes={**_LARGE_STORE, "reads": 2000},
        quick_sizes={**_SMALL_STORE, "reads": 50},
        recipe="interleaved",
        more_is_better=False,
        note="The events are at random places in 1,000 streams of 1,000 events. A first read of each loads the page "
        "cache.",
    ),
    Workload(
        "W10 position",
        "One event by position, 1 M events",
        reading.one_by_position,
        {"p50": "p50 µs", "p99": "p99 µs"},
        ("hangarlog", "sqlite3", *_PEERS),
        sizes={**_LARGE_STORE, "reads": 2000},
        quick_sizes={**_SMALL_STORE, "reads": 50},
        recipe="interleaved",
        more_is_better=False,
    ),
    Workload(
        "W8 clean",
        "Open until the first append, 1 M events",
        opening.clean,
        {"ms": "ms"},
        ("hangarlog", "sqlite3", *_PEERS),
        sizes=_LARGE_STORE,
        quick_sizes=_SMALL_STORE,
        recipe="interleaved",
        more_is_better=False,
        note="A fresh process opens a store of 1,000 streams of 1,000 events and makes a relaxed append to one of "
        "them. The time includes the start of a server. Imports are not timed.",
    ),
    Workload(
        "W8 killed",
        "Open after kill -9 of a writer, 1 M events",
        opening.after_a_kill,
        {"ms": "ms"},
        ("hangarlog", "sqlite3", *_PEERS),
        sizes=_LARGE_STORE,
        quick_sizes=_SMALL_STORE,
        recipe="interleaved",
        more_is_better=False,
        note="As W8 clean, but a process that appends single relaxed events is killed first, with its server if it has "
        "one.",
    ),
    Workload(
        "W8 power cut",
        "Open after a power cut, 1 M events",
        opening.after_a_power_cut,
        {"rate": "events replayed/s", "ms": "ms", "replayed": "events replayed"},
        ("hangarlog:no checkpoint",),
        sizes=_LARGE_STORE,
        quick_sizes=_SMALL_STORE,
        recipe="interleaved",
        note="Simulated: without shared state and checkpoint, opening compares both copies of every event. With a "
        "checkpoint it compares only the events after it, as after a death.",
    ),
    *(
        Workload(
            f"W9 {key} {followers}",
            f"{title}, {followers} follower{'s' * (followers > 1)}",
            waking.woken,
            _WOKEN,
            ("hangarlog", "sqlite3", "umadb", "jetstream"),
            sizes={"events": events, "processes": followers, "pause_us": pause_us},
            quick_sizes={"events": 20, "processes": min(followers, 2), "pause_us": pause_us},
            durable=durable,
            max_rounds=3,
            note=_WOKEN_NOTE,
        )
        for key, title, events, pause_us, durable in (
            ("paced", "Relaxed appends 1 ms apart", 1000, 1000, False),
            ("full", "Relaxed appends at full speed", 20_000, 0, False),
            ("durable", "Durable appends at full speed", 3000, 0, True),
        )
        for followers in _FOLLOWERS
    ),
    Workload(
        "W9 idle",
        "64 followers for whom nothing comes",
        waking.idle,
        {"ms": "ms of processor a second"},
        ("hangarlog", "sqlite3", "umadb", "jetstream"),
        sizes={"processes": 64, "seconds": 5.0},
        quick_sizes={"processes": 2, "seconds": 0.2},
        more_is_better=False,
        max_rounds=3,
    ),
    *(
        Workload(
            f"W8 alone {events}/{streams}",
            f"Open a closed store, {events} events in {streams} stream{'s' * (streams != '1')}",
            opening.alone,
            {"ms": "ms"},
            ("hangarlog", "sqlite3"),
            sizes={"streams": count, "each": each, "block": min(each, 1000)},
            quick_sizes={"streams": min(count, 10), "each": 10, "block": 10},
            recipe="interleaved",
            more_is_better=False,
            note="A fresh process opens the store, which no other process has open, and makes a first append.",
        )
        for events, streams, count, each in opening.CLOSED_STORES
    ),
    *(
        Workload(
            f"W8 died {name}",
            f"Open after the death of the last process: {what}",
            opening.after_a_death,
            {"ms": "ms"},
            ("hangarlog", "sqlite3"),
            sizes={"seconds": 1.0, "writer_streams": streams, "batch": batch},
            quick_sizes={"seconds": 0.1, "writer_streams": min(streams, 20), "batch": min(batch, 20)},
            more_is_better=False,
            note="A process appends for one to two seconds, relaxed but otherwise with defaults, and is killed. A "
            "fresh process then opens the store and makes a first append.",
        )
        for name, what, streams, batch in opening.DEATHS
    ),
    Workload(
        "upcasting",
        "One stream through upcasters",
        reading.one_stream,
        _RATE,
        _CHAINS,
        sizes={"events": 200_000},
        quick_sizes={"events": 2000},
        recipe="one stream",
        note="As W4, with every event stored at schema version 1. Each step copies the payload's dictionary and "
        "changes one value.",
    ),
    *(
        Workload(
            f"real {key}",
            f"Real events: {title}",
            measure,
            figures,
            ("hangarlog", "sqlite3"),
            sizes=sizes,
            quick_sizes=quick_sizes,
            payload_kind="real",
            recipe=recipe,
            note="The 758 events of MCP Hangar's test data repeat, each time with fresh ids: eight event types in one "
            "stream.",
        )
        for key, title, measure, figures, sizes, quick_sizes, recipe in (
            (
                "W2",
                "one relaxed append per call",
                appending.one_per_call,
                _EACH,
                {"events": 30_000, "seconds": 1.0},
                {"events": 100, "seconds": 0.1},
                "",
            ),
            (
                "W3",
                "batches of 1,000, relaxed",
                appending.batches,
                _RATE,
                {"batch": 1000, "batches": 100, "seconds": 1.0},
                {"batch": 100, "batches": 3, "seconds": 0.1},
                "",
            ),
            (
                "W4",
                "one stream into typed objects",
                reading.one_stream,
                _RATE,
                {"events": 100_000},
                {"events": 1000},
                "one stream",
            ),
        )
    ),
    *(
        Workload(
            f"memory {key}",
            f"Peak memory of {what}, 1 M events",
            measure,
            {"mb": "MB"},
            contenders,
            sizes=_LARGE_STORE if recipe else {"events": 1_000_000},
            quick_sizes=_SMALL_STORE if recipe else {"events": 2000},
            recipe=recipe,
            more_is_better=False,
            max_rounds=3,
            note="Peak resident memory, above the peak after the imports.",
        )
        for key, what, measure, contenders, recipe in (
            ("write", "writing in batches of 1,000", memory.writing, ("hangarlog", "sqlite3"), ""),
            ("read", "reading", memory.reading, ("hangarlog", "sqlite3"), "interleaved"),
            ("verify", "verifying", memory.verifying, ("hangarlog",), "interleaved"),
            ("follow", "following with `hangarlog tail -f`", memory.following, ("hangarlog",), ""),
        )
    ),
    Workload(
        "start",
        "Time to start",
        starting.starting,
        {"import": "ms to import", "version": "ms of --version"},
        ("hangarlog",),
        sizes={"runs": 20},
        quick_sizes={"runs": 2},
        more_is_better=False,
        max_rounds=3,
        note="`import hangarlog` above `python -c pass`, and the whole of `hangarlog --version`: medians of 20 runs in "
        "turn.",
    ),
]

WORKLOADS = {workload.key: workload for workload in _ALL}

CURVE_ENGINES = ("hangarlog", "sqlite3")
PAYLOAD_BYTES = (50, 200, 1000, 10_000, 100_000, 1_000_000)


def _point(key: str, measure: Measure, *, durable: bool = False, payload_kind: str = "") -> Workload:
    return Workload(f"curve {key}", "", measure, {}, CURVE_ENGINES, {}, {}, durable=durable, payload_kind=payload_kind)


CURVE_POINTS = {
    point.key: point
    for point in (
        _point("longer", growing.longer_stream),
        _point("read", growing.whole_store),
        _point("open long", growing.open_long_stream),
        _point("verify", memory.verifying),
        _point("streams", growing.more_streams),
        _point("open some", growing.open_many_streams),
        _point("durable writers", writers.together, durable=True),
        _point("relaxed writers", writers.together),
        _point("followers", followers.followed),
        *(_point(f"payload {size}", appending.one_per_call, payload_kind=str(size)) for size in PAYLOAD_BYTES),
    )
}


def find(key: str) -> Workload:
    """Return the workload, or the point of a curve, with this key."""
    return WORKLOADS[key] if key in WORKLOADS else CURVE_POINTS[key]
