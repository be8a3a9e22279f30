"""The vital signs of a store in Prometheus's text exposition format, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from hangarlog.watching.durations import BOUNDS_SECONDS, SyncTimes
from hangarlog.watching.subscriber_signs import SubscriberSigns
from hangarlog.watching.vitals import Vitals

MOST_SUBSCRIBERS = 1000
"""So many subscribers have series of their own. Of more, those that are most behind have."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Labels = Mapping[str, str]
_Sample = tuple[str, _Labels, float]
"""A suffix of the family's name, labels, and a value."""


class Family(NamedTuple):
    """A metric: its name, `counter`, `gauge` or `histogram`, what it means, and its samples."""

    name: str
    kind: str
    help: str
    samples: list[_Sample]


def exposition(vitals: Vitals) -> str:
    """Return the metrics of a store. What is unknown has no sample."""
    store = {"store": vitals.path}
    lines = []
    for family in families(vitals):
        if family.samples:
            lines.append(f"# HELP {family.name} {_escaped_help(family.help)}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            lines += [_line(family.name + suffix, {**store, **labels}, at) for suffix, labels, at in family.samples]
    return "".join(f"{line}\n" for line in lines)


def _line(name: str, labels: _Labels, value: float) -> str:
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{shown}}} {value!r}"


def _escaped(text: str) -> str:
    r"""Return a label's value. In a path that is not UTF-8, `\udcff` stands for the byte 0xFF."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    return whole.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escaped_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def families(vitals: Vitals) -> Iterator[Family]:
    """Yield the metrics, without the label `store`."""
    yield from _of_events(vitals)
    yield from _of_journal(vitals)
    yield from _of_syncs(vitals)
    yield from _of_files(vitals)
    yield from _of_subscribers(vitals.subscribers)
    yield _one("hangarlog_read_problems", "gauge", "What could not be read for these metrics.", len(vitals.problems))


def _one(name: str, kind: str, text: str, value: float | None) -> Family:
    return Family(name, kind, text, [] if value is None else [("", {}, value)])


def _flag(value: bool | None) -> int | None:
    return None if value is None else int(value)


def _of_events(vitals: Vitals) -> Iterator[Family]:
    state, meta = vitals.state, vitals.meta
    labels = {"id": meta.store_id, "format": str(meta.format)} if meta else {}
    yield Family("hangarlog_store_info", "gauge", "The store's id and format.", [("", labels, 1)] if meta else [])
    text = "1 if a process has the store open for writing, else 0."
    yield _one("hangarlog_store_open", "gauge", text, _flag(state.is_open))
    text = "Events committed since the store was created: the position of the last one."
    yield _one("hangarlog_events_total", "counter", text, vitals.committed)
    yield _one("hangarlog_unsynced_events", "gauge", "Events that no sync has covered yet.", vitals.unsynced)
    text = "When the last event was recorded, in seconds since 1970."
    yield _one("hangarlog_last_event_timestamp_seconds", "gauge", text, vitals.last_at)


def _of_journal(vitals: Vitals) -> Iterator[Family]:
    journal, state = vitals.journal, vitals.state
    yield _one("hangarlog_journal_events", "gauge", "Events that the journal still has.", vitals.events)
    size, segments = (journal.bytes, journal.segments) if journal else (None, None)
    yield _one("hangarlog_journal_bytes", "gauge", "Size of the journal's segments.", size)
    yield _one("hangarlog_journal_segments", "gauge", "Segments of the journal.", segments)
    text = "Bytes written to the journal; begins anew at a restart of the machine."
    yield _one("hangarlog_journal_written_bytes_total", "counter", text, state.written_bytes)
    text = "Rolls, compactions and recoveries; begins anew with the shared state."
    yield _one("hangarlog_layout_changes_total", "counter", text, state.layout)


def _of_syncs(vitals: Vitals) -> Iterator[Family]:
    state = vitals.state
    text = "How long syncs of the journal took; begins anew at a restart of the machine."
    yield Family("hangarlog_sync_seconds", "histogram", text, _histogram(state.syncs) if state.syncs else [])
    text = "Syncs that failed; begins anew at a restart of the machine."
    yield _one("hangarlog_sync_failures_total", "counter", text, state.failed_syncs)
    text = "1 if a sync has failed and the journal was not written anew since, else 0."
    yield _one("hangarlog_sync_failed", "gauge", text, _flag(state.has_failed))


def _histogram(times: SyncTimes) -> list[_Sample]:
    """Return the samples of a histogram with a bucket for each octave."""
    samples: list[_Sample] = []
    passed = 0
    for number, (bound, (count, _)) in enumerate(zip(BOUNDS_SECONDS, times.buckets, strict=False)):
        passed += count
        if number % 2 == 0:
            samples.append(("_bucket", {"le": repr(bound)}, passed))
    return [
        *samples,
        ("_bucket", {"le": "+Inf"}, times.count),
        ("_sum", {}, times.seconds),
        ("_count", {}, times.count),
    ]


def _of_files(vitals: Vitals) -> Iterator[Family]:
    files, space = vitals.files, vitals.space
    parts = files.parts.items() if files else ()
    text = "Size of the store's files by part: journal, streams, or other."
    yield Family("hangarlog_file_bytes", "gauge", text, [("", {"part": part}, each.bytes) for part, each in parts])
    text = "The store's files by part: journal, streams, or other."
    yield Family("hangarlog_files", "gauge", text, [("", {"part": part}, each.files) for part, each in parts])
    text = "Streams that have a file, deleted ones included."
    yield _one("hangarlog_streams", "gauge", text, files.streams if files else None)
    size, free = (space.size, space.free) if space else (None, None)
    yield _one("hangarlog_filesystem_size_bytes", "gauge", "Size of the store's file system.", size)
    text = "Bytes of the store's file system that may still be written."
    yield _one("hangarlog_filesystem_free_bytes", "gauge", text, free)


def _of_subscribers(subscribers: tuple[SubscriberSigns, ...]) -> Iterator[Family]:
    yield _one("hangarlog_subscribers", "gauge", "Named subscribers, shares counted one by one.", len(subscribers))
    subscribers = most_behind(subscribers)
    for name, text in (
        ("position", "Position up to which a subscriber has processed events."),
        ("lag", "Events after a subscriber's position."),
        ("lag_seconds", "Age of the first event after a subscriber's position, 0 if there is none."),
        ("is_owned", "1 if a process works for a subscriber, else 0."),
    ):
        values = [(each.name, getattr(each, name)) for each in subscribers]
        metric = {"lag": "lag_events", "is_owned": "owned"}.get(name, name)
        samples: list[_Sample] = [("", {"subscriber": who}, +at) for who, at in values if at is not None]
        yield Family(f"hangarlog_subscriber_{metric}", "gauge", text, samples)


def most_behind(subscribers: tuple[SubscriberSigns, ...]) -> tuple[SubscriberSigns, ...]:
    """Return the subscribers that have series of their own, sorted by name."""
    if len(subscribers) <= MOST_SUBSCRIBERS:
        return subscribers
    behind = sorted(subscribers, key=lambda each: (-(each.lag or 0), each.name))
    return tuple(sorted(behind[:MOST_SUBSCRIBERS], key=lambda each: each.name))
