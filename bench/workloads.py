"""The workloads, in the order of the report."""

from __future__ import annotations

from bench.harness.workload import Workload
from bench.measures import appending, opening, processes, reading, writers

_PEERS = ("eventsourcing", "eventsourcing:mapper", "mcp_hangar", "umadb", "salamander", "jetstream", "node")
_WRITING_PEERS = tuple(peer for peer in _PEERS if peer != "eventsourcing:mapper")  # It writes as the recorder does.
_RATE = {"rate": "events/s"}
_EACH = {"rate": "events/s", "p50": "p50 µs", "p99": "p99 µs"}
_WRITERS = {
    "rate": "events/s",
    "p50": "p50 µs",
    "p99": "p99 µs",
    "longest": "longest µs",
    "fairness": "slowest / fastest",
    "conflicts": "conflicts an append",
}
_STORE = {"streams": 1000, "each": 1000, "block": 100}
_SMALL_STORE = {"streams": 20, "each": 100, "block": 50}
_CHAINS = ("hangarlog", "hangarlog:chain of 1", "hangarlog:chain of 5", "hangarlog:chain of 20")

CLOSED = (
    ("1 k", "1", 1, 1000),
    ("100 k", "1", 1, 100_000),
    ("1 M", "1", 1, 1_000_000),
    ("1 k", "1,000", 1000, 1),
    ("100 k", "1,000", 1000, 100),
    ("1 M", "1,000", 1000, 1000),
    ("100 k", "100,000", 100_000, 1),
    ("1 M", "100,000", 100_000, 10),
)
"""Closed stores to be opened: how many events and streams, for readers; streams, and events of each."""

DEATHS = (
    ("few", "one event an append, ten streams", 10, 1),
    ("many", "one event an append, 10,000 streams", 10_000, 1),
    ("batches", "a thousand events an append, ten streams", 10, 1000),
)
"""What the process did that died: name, description, streams, events of an append."""

_ALL = [
    Workload(
        "W1",
        "One durable append a call",
        appending.one_a_call,
        _EACH,
        ("hangarlog", "floor", "sqlite3", *_PEERS, "jsonlog"),
        sizes={"events": 3000, "seconds": 1.0},
        quick={"events": 30, "seconds": 0.2},
        durable=True,
        note="One process, one stream, the expected version given. The floor writes the payload alone and syncs.",
    ),
    Workload(
        "W2",
        "One relaxed append a call",
        appending.one_a_call,
        _EACH,
        ("hangarlog", "hangarlog:exclusive", "floor", "floor:whole lines", "sqlite3", *_PEERS, "jsonlog"),
        sizes={"events": 30_000, "seconds": 1.0},
        quick={"events": 300, "seconds": 0.2},
        note="As W1, but the operating system decides when it is on the device.",
    ),
    Workload(
        "W3 relaxed",
        "Batches of 1,000, relaxed",
        appending.batches,
        {"rate": "events/s", "batch_ms": "ms a batch"},
        ("hangarlog", "hangarlog:exclusive", "floor", "floor:whole lines", "sqlite3", *_PEERS, "jsonlog"),
        sizes={"batch": 1000, "batches": 100, "seconds": 1.0},
        quick={"batch": 100, "batches": 3, "seconds": 0.2},
        note="One process, one stream. The floor encodes payloads, joins and writes; "
        "`whole lines` are as long as hangarlog's.",
    ),
    Workload(
        "W3 durable",
        "Batches of 1,000, durable",
        appending.batches,
        {"rate": "events/s", "batch_ms": "ms a batch"},
        ("hangarlog", "floor", "floor:whole lines", "sqlite3", *_PEERS, "jsonlog"),
        sizes={"batch": 1000, "batches": 100, "seconds": 1.0},
        quick={"batch": 100, "batches": 3, "seconds": 0.2},
        durable=True,
    ),
    Workload(
        "W4",
        "One stream into typed objects",
        reading.one_stream,
        _RATE,
        ("hangarlog", "floor:line by line", "floor:one pass", "sqlite3", *_PEERS, "jsonlog"),
        sizes={"events": 200_000},
        quick={"events": 2000},
        slow={"events": 50_000},
        prepare="one stream",
        note="200,000 events, or 50,000 where reading is slow (mcp_hangar, jetstream, salamander); a fresh process "
        "opens the store and reads. Imports are not timed; the page cache is warm.",
    ),
    Workload(
        "W5",
        "All streams in order",
        reading.everything,
        _RATE,
        ("hangarlog", "floor:line by line", "floor:one pass", "sqlite3", *_PEERS, "jsonlog"),
        sizes={"streams": 1000, "each": 200, "block": 20},
        quick={"streams": 20, "each": 100, "block": 10},
        slow={"each": 40},
        prepare="interleaved",
        note="1,000 streams of 200 events, or of 40 where reading is slow, written twenty at a time in turn; a fresh "
        "process iterates over all, typed.",
    ),
    Workload(
        "W6a",
        "Eight durable writers, a stream each",
        writers.together,
        _WRITERS,
        ("hangarlog", "floor:group commit", "sqlite3", *_WRITING_PEERS, "jsonlog"),
        sizes={"processes": 8, "seconds": 3.0, "shared": 0},
        quick={"processes": 2, "seconds": 0.2, "shared": 0},
        durable=True,
        note="Each process appends one event a call at its expected version. The floor is one file under flock, one "
        "fdatasync for all who wait, woken by a futex, and no versions. Percentiles are over all appends: where a few "
        "processes make nearly all of them, the longest and slowest / fastest say so.",
    ),
    Workload(
        "W6b",
        "Eight durable writers, one stream",
        writers.together,
        _WRITERS,
        ("hangarlog", "sqlite3", *_WRITING_PEERS),
        sizes={"processes": 8, "seconds": 3.0, "shared": 1},
        quick={"processes": 2, "seconds": 0.2, "shared": 1},
        durable=True,
        note="As before; at a conflict an append is tried again at the version it told. Times are until success.",
    ),
    Workload(
        "W7",
        "New streams",
        appending.new_streams,
        {"rate": "streams/s", "streams": "streams made", "files": "files a stream", "kilobytes": "KB a stream"},
        ("hangarlog", "floor:a file a stream", "sqlite3", *_PEERS),
        sizes={"streams": 100_000, "seconds": 8.0, "peer_seconds": 2.0},
        quick={"streams": 200, "seconds": 0.5},
        note="100,000 new streams of 1 to 5 events, one relaxed append each, for 8 s at most, and 2 s for peers. KB: "
        "blocks on disk beside the journal. The floor opens, writes and closes a file, with the same lines.",
    ),
    Workload(
        "W7 read",
        "A thousand of 100,000 streams",
        reading.some_streams,
        {"rate": "streams/s"},
        ("hangarlog", "floor:a file a stream", "sqlite3", "eventsourcing", "eventsourcing:mapper", "salamander"),
        sizes={"streams": 100_000, "read": 1000, "seconds": 15.0, "peer_seconds": 2.0},
        quick={"streams": 200, "read": 50, "seconds": 0.5},
        prepare="short streams",
        note="At random, typed, by a fresh process, for 2 s at most where it is slow; opening the store is timed. "
        "Peers that would take minutes to write 100,000 streams are left out.",
    ),
    Workload(
        "W10 version",
        "One event by stream and version, 1 M events",
        reading.one_by_version,
        {"p50": "p50 µs", "p99": "p99 µs"},
        ("hangarlog", "sqlite3", *_PEERS),
        sizes={**_STORE, "reads": 2000},
        quick={**_SMALL_STORE, "reads": 50},
        prepare="interleaved",
        more_is_better=False,
        note="Random places in 1,000 streams of 1,000 events; each is read once before, so that it is in memory.",
    ),
    Workload(
        "W10 position",
        "One event by position, 1 M events",
        reading.one_by_position,
        {"p50": "p50 µs", "p99": "p99 µs"},
        ("hangarlog", "sqlite3", *_PEERS),
        sizes={**_STORE, "reads": 2000},
        quick={**_SMALL_STORE, "reads": 50},
        prepare="interleaved",
        more_is_better=False,
    ),
    Workload(
        "W8 clean",
        "Open until the first append, 1 M events",
        opening.clean,
        {"ms": "ms"},
        ("hangarlog", "sqlite3", *_PEERS),
        sizes=_STORE,
        quick=_SMALL_STORE,
        prepare="interleaved",
        more_is_better=False,
        note="1,000 streams of 1,000 events; a fresh process opens the store and makes a relaxed append to one "
        "of the streams. Imports are not timed; an engine's server is started within the time.",
    ),
    Workload(
        "W8 killed",
        "Open after kill -9 of a writer, 1 M events",
        opening.after_a_kill,
        {"ms": "ms"},
        ("hangarlog", "sqlite3", *_PEERS),
        sizes=_STORE,
        quick=_SMALL_STORE,
        prepare="interleaved",
        more_is_better=False,
        note="A process that appends one relaxed event after the other (with its server, if there is one) is killed "
        "first.",
    ),
    Workload(
        "W8 power cut",
        "Open after a power cut, 1 M events",
        opening.after_a_power_cut,
        {"rate": "events replayed/s", "ms": "ms", "replayed": "events replayed"},
        ("hangarlog:no checkpoint",),
        sizes=_STORE,
        quick=_SMALL_STORE,
        prepare="interleaved",
        note="Simulated: the shared state and the checkpoint are deleted, so that everything there is, is compared in "
        "both copies; else that is what came after the last checkpoint, as after a death.",
    ),
    *(
        Workload(
            f"W8 alone {events}/{streams}",
            f"Open a closed store, {events} events in {streams} stream{'s' * (streams != '1')}",
            opening.alone,
            {"ms": "ms"},
            ("hangarlog", "sqlite3"),
            sizes={"streams": count, "each": each, "block": min(each, 1000)},
            quick={"streams": min(count, 10), "each": 10, "block": 10},
            prepare="interleaved",
            more_is_better=False,
            note="A fresh process opens it while nobody else has it open, until its first append.",
        )
        for events, streams, count, each in CLOSED
    ),
    *(
        Workload(
            f"W8 died {name}",
            f"Open after the death of the last process: {what}",
            opening.after_a_death,
            {"ms": "ms"},
            ("hangarlog", "sqlite3"),
            sizes={"seconds": 1.0, "over": over, "batch": batch},
            quick={"seconds": 0.1, "over": min(over, 20), "batch": min(batch, 20)},
            more_is_better=False,
            note="A process that appends for one to two seconds, relaxed, with defaults else, is killed; a fresh one "
            "opens the store until its first append.",
        )
        for name, what, over, batch in DEATHS
    ),
    Workload(
        "upcasting",
        "One stream through upcasters",
        reading.one_stream,
        _RATE,
        _CHAINS,
        sizes={"events": 200_000},
        quick={"events": 2000},
        prepare="one stream",
        note="As W4, every stored event at version 1; a step copies the payload's dictionary with one value changed.",
    ),
    *(
        Workload(
            f"real {key}",
            f"The real events: {title}",
            measure,
            figures,
            ("hangarlog", "sqlite3"),
            sizes=sizes,
            quick=quick,
            kind="real",
            prepare=prepare,
            note="The 758 events of MCP Hangar's test data over and over, each with a fresh id; eight types in "
            "one stream.",
        )
        for key, title, measure, figures, sizes, quick, prepare in (
            (
                "W2",
                "one relaxed append a call",
                appending.one_a_call,
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
            sizes=_STORE if prepare else {"events": 1_000_000},
            quick=_SMALL_STORE if prepare else {"events": 2000},
            prepare=prepare,
            more_is_better=False,
            rounds=3,
            note="Resident memory at its peak, above what the process had after its imports.",
        )
        for key, what, measure, contenders, prepare in (
            ("write", "writing in batches of 1,000", processes.writing, ("hangarlog", "sqlite3"), ""),
            ("read", "reading", processes.reading, ("hangarlog", "sqlite3"), "interleaved"),
            ("verify", "verifying", processes.verifying, ("hangarlog",), "interleaved"),
            ("follow", "following with `hangarlog tail -f`", processes.following, ("hangarlog",), ""),
        )
    ),
    Workload(
        "start",
        "Starting",
        processes.starting,
        {"import": "ms to import", "version": "ms of --version"},
        ("hangarlog",),
        sizes={"runs": 20},
        quick={"runs": 2},
        more_is_better=False,
        rounds=3,
        note="`import hangarlog` above `python -c pass`, and all of `hangarlog --version`; medians of 20 in turn.",
    ),
]

WORKLOADS = {workload.key: workload for workload in _ALL}


def find(key: str) -> Workload:
    """A workload, or a point of a curve."""
    if key in WORKLOADS:
        return WORKLOADS[key]
    from bench.curves import POINTS  # It needs what is here.

    return POINTS[key]
