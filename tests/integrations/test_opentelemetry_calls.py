"""`instrument`: spans and metrics of a store's calls, as the SDK's in-memory exporters find them."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from hangarlog import ANY, NO_STREAM, ConcurrencyError, FileEventStore, HandlerError, UntypedEvent
from hangarlog.memory import MemoryEventStore

pytest.importorskip("opentelemetry.sdk.metrics", reason="the OpenTelemetry SDK is not installed")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv import schemas
from opentelemetry.semconv._incubating.attributes import db_attributes as db_incubating
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.attributes import db_attributes as db
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.semconv.metrics import db_metrics
from opentelemetry.trace import SpanKind, StatusCode

from hangarlog.integrations.opentelemetry import instrument
from hangarlog.integrations.opentelemetry_calls import SCHEMA_URL


class Seen:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)

    @property
    def providers(self) -> dict[str, Any]:
        return {"tracer_provider": self.tracers, "meter_provider": self.meters}

    def spans(self) -> list[ReadableSpan]:
        found = [*self.exporter.get_finished_spans()]
        self.exporter.clear()
        return found

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        return [
            point for scope in scopes for each in scope.metrics if each.name == name for point in each.data.data_points
        ]


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen = Seen()
    yield seen
    seen.meters.shutdown()
    seen.tracers.shutdown()


def noted(number: int = 0, event_id: str | None = None) -> UntypedEvent:
    return UntypedEvent("Noted", {"n": number}, event_id=event_id)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileEventStore[UntypedEvent]]:
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        yield store


def test_the_names_are_those_of_the_pinned_conventions() -> None:
    """As the SDK's own package has them."""
    assert schemas.Schemas.V1_44_0.value == SCHEMA_URL
    source = (ROOT / "hangarlog/integrations/opentelemetry_calls.py").read_text()
    for name in (
        db.DB_SYSTEM_NAME,
        db.DB_NAMESPACE,
        db.DB_OPERATION_NAME,
        db.DB_OPERATION_BATCH_SIZE,
        db.DB_COLLECTION_NAME,
        db.DB_QUERY_SUMMARY,
        db_incubating.DB_RESPONSE_RETURNED_ROWS,
        db_metrics.DB_CLIENT_OPERATION_DURATION,
        error_attributes.ERROR_TYPE,
        messaging.MESSAGING_SYSTEM,
        messaging.MESSAGING_OPERATION_NAME,
        messaging.MESSAGING_OPERATION_TYPE,
        messaging.MESSAGING_DESTINATION_NAME,
        messaging.MESSAGING_DESTINATION_TEMPLATE,
        messaging.MESSAGING_CONSUMER_GROUP_NAME,
        messaging.MESSAGING_MESSAGE_ID,
        messaging_metrics.MESSAGING_PROCESS_DURATION,
        messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES,
    ):
        assert f'"{name}"' in source


def test_appends_are_spans(seen: Seen, store: FileEventStore[UntypedEvent]) -> None:
    """Children of what is current, with what was appended; a conflict is an error, a retry is no write."""
    with instrument_block(store, seen), seen.tracers.get_tracer("test").start_as_current_span("request"):
        store.append("a:1", [noted(1, "x")], NO_STREAM)
        store.append("a:1", [noted(1, "x")], NO_STREAM)
        with pytest.raises(ConcurrencyError):
            store.append("a:1", [noted(2, "y")], NO_STREAM)
        store.append_many([("a:2", [noted()], ANY), ("b:1", [noted(), noted()], ANY)], durability="always")
        store.execute("plain", lambda events, version: [noted()])
    *appends, request = (span for span in seen.spans() if span.name != "read hangarlog")
    assert [span.name for span in appends] == ["append a"] * 3 + ["append hangarlog"] * 2
    for span in appends:
        assert span.kind is SpanKind.CLIENT
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id
        assert span.instrumentation_scope.schema_url == SCHEMA_URL
    attributes = [dict(span.attributes or {}) for span in appends]
    common = {"db.system.name": "hangarlog", "db.namespace": store.path, "db.operation.name": "append"}
    first = {**common, "db.collection.name": "a", "db.query.summary": "append a", "hangarlog.stream": "a:1"}
    assert attributes[0] == {**first, "hangarlog.written": True}
    assert attributes[1] == {**first, "hangarlog.written": False}
    assert attributes[2] == {**first, "error.type": "ConcurrencyError"}
    assert appends[2].status.status_code is StatusCode.ERROR
    assert "is at version 0" in str(appends[2].status.description)
    several = {"db.query.summary": "append hangarlog", "hangarlog.written": True}
    assert attributes[3] == {**common, **several, "db.operation.batch.size": 3, "hangarlog.durability": "always"}
    assert attributes[4] == {**common, **several, "hangarlog.stream": "plain"}
    counts = {
        (point.attributes.get("db.collection.name"), point.attributes.get("error.type")): point.count
        for point in seen.points("db.client.operation.duration")
        if point.attributes["db.operation.name"] == "append"
    }
    assert counts == {("a", None): 2, ("a", "ConcurrencyError"): 1, (None, None): 2}


def instrument_block(store: Any, seen: Seen, **options: Any) -> Any:
    class Block:
        def __enter__(self) -> None:
            self.instrumented = instrument(store, **seen.providers, **options)

        def __exit__(self, *error: object) -> None:
            self.instrumented.close()

    return Block()


def test_reads_are_spans(seen: Seen, store: FileEventStore[UntypedEvent]) -> None:
    """Which end when the reader has what it wants, or gives up."""
    for _ in range(5):
        store.append("a:1", [noted(number) for number in range(2000)], ANY)
    with instrument_block(store, seen):
        assert len(store.read_stream("a:1")) == 10_000
        assert len([*store.read_all(limit=3)]) == 3
        iterator = store.records()
        next(iter(iterator))
        del iterator
        gc.collect()
        assert seen.points("db.client.operation.duration")[0].attributes["db.operation.name"] == "read"
    whole, limited, given_up = seen.spans()
    assert (whole.name, limited.name, given_up.name) == ("read a", "read hangarlog", "read hangarlog")
    assert whole.attributes["hangarlog.stream"] == "a:1"  # type: ignore[index]
    assert whole.attributes["db.response.returned_rows"] == 10_000  # type: ignore[index]
    assert given_up.attributes["db.response.returned_rows"] < 10_000  # type: ignore[index]


def test_handlers_are_spans_that_know_the_append(seen: Seen, store: FileEventStore[UntypedEvent]) -> None:
    """With `propagate`, the context of an append is in its events' metadata, beside yours."""
    with instrument_block(store, seen, propagate=True):
        with seen.tracers.get_tracer("test").start_as_current_span("request"):
            store.append("a:1", [noted(1)], ANY, metadata={"user": "ada"})
            store.append("a:1", [noted(2), noted(3)], ANY, metadata=[{"user": "bob"}, None])
        store.append("out", [noted(4)], ANY, metadata={"traceparent": "not one"})
        appends = {span.context.span_id for span in seen.spans() if span.name == "append a"}

        def handle(record: Any) -> None:
            store.append(f"done:{record.position}", [noted()], ANY)
            if record.position == 4:
                raise ValueError("no")

        subscription = store.subscribe(name="mailer", timeout=0, category=["a", ""])
        with subscription, pytest.raises(HandlerError):
            subscription.run(handle)
        with store.subscribe(timeout=0) as plain:
            assert len([*plain]) == 8
    spans = {span.name: span for span in seen.spans() if span.name.startswith("process")}
    assert [record.metadata.get("user") for record in store.records("a:1") if record.metadata] == ["ada", "bob", None]
    handled = spans["process a:{id}"]
    assert handled.kind is SpanKind.CONSUMER
    assert dict(handled.attributes or {}) == {
        "messaging.system": "hangarlog",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "mailer",
        "messaging.destination.name": "a:1",
        "messaging.destination.template": "a:{id}",
        "messaging.message.id": [*store.records("a:1")][2].event_id,
    }
    assert {link.context.span_id for link in handled.links} <= appends
    assert len(handled.links) == 1
    failed = spans["process out"]
    assert (failed.status.status_code, failed.attributes["error.type"]) == (  # type: ignore[index]
        StatusCode.ERROR,
        "ValueError",
    )
    assert failed.links == ()
    counts = {
        point.attributes.get("messaging.consumer.group.name"): point.value
        for point in seen.points("messaging.client.consumed.messages")
    }
    assert counts == {"mailer": 4, None: 8}
    assert sum(point.count for point in seen.points("messaging.process.duration")) == 4


def test_metadata_and_ids_stay_as_they_are_without_propagate(seen: Seen, store: FileEventStore[UntypedEvent]) -> None:
    with instrument_block(store, seen), seen.tracers.get_tracer("test").start_as_current_span("request"):
        store.append("a:1", [noted(1)], ANY)
    assert [record.metadata for record in store.records()] == [None]


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_store_can_be_instrumented_once_at_a_time(kind: str, seen: Seen, tmp_path: Path) -> None:
    """And is as before when that ends. A subscription still gives up its name when nobody has it."""
    store: Any = MemoryEventStore.untyped() if kind == "memory" else FileEventStore.untyped(tmp_path / kind)
    instrumented = instrument(store, **seen.providers)
    with pytest.raises(ValueError, match="is instrumented already"):
        instrument(store, **seen.providers)
    store.append("a:1", [noted()], ANY)
    subscription = store.subscribe(name="mailer", timeout=0)
    assert len([*subscription]) == 1
    gc.disable()
    try:
        del subscription
        with store.subscribe(name="mailer", timeout=0) as other:
            assert len([*other]) == 1  # It is the owner, and the cursor has not moved
    finally:
        gc.enable()
    instrumented.close()
    instrumented.close()
    assert not {"_commit", "_blocks", "subscribe"} & set(vars(store))
    seen.spans()
    store.append("a:1", [noted()], ANY)
    assert seen.spans() == []
    store.close()


def test_without_providers_nothing_is_recorded_and_all_works(store: FileEventStore[UntypedEvent]) -> None:
    """The API's own tracer and meter do nothing."""
    instrumented = instrument(store, propagate=True)
    store.append("a:1", [noted()], ANY)
    assert len(store.read_stream("a:1")) == 1
    assert [record.metadata for record in store.records()] == [None]
    instrumented.close()


def test_the_core_knows_nothing_of_it() -> None:
    """A program that does not ask for it does not import it, and its stores have no wrapped calls."""
    program = (
        "import sys, tempfile; from hangarlog import *\n"
        "store = FileEventStore.untyped(tempfile.mkdtemp() + '/s', durability='relaxed')\n"
        "store.append('a:1', [UntypedEvent('T', {})], ANY)\n"
        "assert not {'_commit', '_blocks', 'subscribe'} & set(vars(store))\n"
        "assert not [name for name in sys.modules if 'opentelemetry' in name]\n"
    )
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def test_the_pages_program_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs/opentelemetry.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    command = [sys.executable, "-W", "error", "-c", program]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
