"""Events written out for other tools: the journal's own lines, or CloudEvents."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hangarlog.record import Envelope
from hangarlog.store import FileEventStore


def journal_lines(store: FileEventStore) -> Iterator[bytes]:
    """Every committed line as it is stored, in commit order, without newlines; blocks of them joined by newlines."""
    committed = store.get_event_count()
    for records, lines in store.folder.journal.forward_lines(1):
        if records[-1].position <= committed:
            yield b"\n".join(lines)
        else:
            kept = lines[: sum(record.position <= committed for record in records)]
            if kept:
                yield b"\n".join(kept)


def cloud_events(store: FileEventStore) -> Iterator[bytes]:
    """Every event in the JSON format of CloudEvents 1.0, in commit order, without newlines.

    The source is the store, the subject the stream; `sequence` (the position), `streamversion` and metadata's
    `correlation_id` and `causation_id` become extension attributes.
    """
    source = f"urn:uuid:{store.meta.store_id}"
    for block in store.envelopes():
        for envelope in block:
            yield msgspec.json.encode(_cloud_event(source, envelope))


def _cloud_event(source: str, envelope: Envelope) -> dict[str, object]:
    metadata = msgspec.json.decode(envelope.metadata_json or b"{}", type=dict[str, object])
    extensions = {
        name.replace("_", ""): metadata[name] for name in ("correlation_id", "causation_id") if metadata.get(name)
    }
    return {
        "specversion": "1.0",
        "id": envelope.event_id,
        "source": source,
        "type": envelope.event_type,
        "subject": envelope.stream_id,
        "time": envelope.recorded_at,
        "datacontenttype": "application/json",
        "sequence": f"{envelope.position:020d}",
        "streamversion": envelope.stream_version,
        **extensions,
        "data": envelope.data,
    }
