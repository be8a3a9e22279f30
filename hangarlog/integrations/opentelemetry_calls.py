"""Spans and metrics of the calls of one store: appends, reads, and what follows it. Nothing is there until asked for.

The calls are wrapped on the store's instance, so the core knows nothing of it, and a store that nobody instruments has
not a single instruction more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any
from weakref import ref

import msgspec
from opentelemetry import propagate as propagation
from opentelemetry import trace
from opentelemetry.metrics import Histogram, Meter, MeterProvider, get_meter_provider
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider

from hangarlog.eventstore.append_result import AppendResult
from hangarlog.eventstore.base import EventStore
from hangarlog.eventstore.engine import Durability
from hangarlog.eventstore.named import NamedSubscription
from hangarlog.eventstore.record import Record
from hangarlog.eventstore.selection import Span as Reads
from hangarlog.eventstore.stream_id import category_of
from hangarlog.eventstore.subscription import Subscription
from hangarlog.record.batch import Pending
from hangarlog.record.envelope import Encoded, Envelope

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""The semantic conventions whose names are used: of databases for appends and reads, of messaging for following."""

SYSTEM = "hangarlog"
STREAM, DURABILITY, WRITTEN = "hangarlog.stream", "hangarlog.durability", "hangarlog.written"
"""Attributes of spans that no convention has: stream id, durability, and False for a retry that wrote nothing."""

_BOUNDS = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
_TRACE_KEYS = ("traceparent", "tracestate")
Attributes = dict[str, str | int | bool]


class Instrumented:
    """A store whose calls are traced and measured until `close`."""

    def __init__(self, store: EventStore[Any], calls: dict[str, Callable[..., Any]]) -> None:
        self._store, self._calls = store, calls
        for name, call in calls.items():
            setattr(store, name, call)

    def close(self) -> None:
        """Stop; closing twice is fine. What is being called or followed now is still traced."""
        for name, call in self._calls.items():
            if vars(self._store).get(name) is call:
                delattr(self._store, name)


def instrument(
    store: EventStore[Any],
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    propagate: bool = False,
) -> Instrumented:
    """Trace and measure the appends, reads and handlers of a store, from now until `close`.

    The providers are the global ones by default. With `propagate`, the context of the append (`traceparent`) is kept in
    the metadata of its events; the span of a handler then has a link to the append of its event.

    Raises:
        ValueError: the store is instrumented already.
    """
    if "_commit" in vars(store):
        raise ValueError(f"{store!r} is instrumented already; close that first")
    calls = _Calls(
        store,
        trace.get_tracer("hangarlog", tracer_provider=tracer_provider, schema_url=SCHEMA_URL),
        (meter_provider or get_meter_provider()).get_meter("hangarlog", schema_url=SCHEMA_URL),
        propagate,
    )
    return Instrumented(store, {"_commit": calls.commit, "_blocks": calls.blocks, "subscribe": calls.subscribe})


class _Calls:
    """The wrapped calls of a store."""

    def __init__(self, store: EventStore[Any], tracer: trace.Tracer, meter: Meter, propagate: bool) -> None:
        self._real_commit, self._real_blocks, self._real_subscribe = store._commit, store._blocks, store.subscribe
        self._tracer, self._propagate = tracer, propagate
        path = str(getattr(store, "path", "memory")).encode("utf-8", "backslashreplace").decode()
        self._common: Attributes = {"db.system.name": SYSTEM, "db.namespace": path}
        self._durations = _histogram(meter, "db.client.operation.duration", "Duration of appends and reads")
        self._processed = _histogram(meter, "messaging.process.duration", "Duration of handlers")
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Events that were delivered to followers"
        )

    def commit(self, pendings: list[Pending], durability: Durability | None = None) -> dict[str, AppendResult]:
        """Append within a span. Raises what an append raises."""
        streams = {pending.stream_id for pending in pendings}
        count = sum(len(pending.events) for pending in pendings)
        attributes, span = self._begin("append", streams)
        if span.is_recording():
            span.set_attributes({DURABILITY: durability} if durability else {})
            if count > 1:
                span.set_attribute("db.operation.batch.size", count)
        began = perf_counter()
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                results = self._real_commit(self._with_context(pendings), durability)
            except BaseException as error:
                _note(span, attributes, error)
                raise
            else:
                span.set_attribute(WRITTEN, any(result.written for result in results.values()))
                return results
            finally:
                self._durations.record(perf_counter() - began, attributes)

    def blocks(self, reads: Reads) -> Iterator[Sequence[Envelope]]:
        """Read within a span, which ends when the reader has what it wants. Only the reading counts as its duration."""
        attributes, span = self._begin("read", {reads.stream_id} if reads.stream_id is not None else set())
        rows, seconds = 0, 0.0
        blocks = iter(self._real_blocks(reads))
        try:
            while True:
                began = perf_counter()
                try:
                    block = next(blocks, None)
                finally:
                    seconds += perf_counter() - began
                if block is None:
                    return
                rows += len(block)
                yield block
        except Exception as error:
            _note(span, attributes, error)
            raise
        finally:
            self._durations.record(seconds, attributes)
            span.set_attribute("db.response.returned_rows", rows)
            span.end()

    def subscribe(self, *arguments: Any, **options: Any) -> Subscription[Any]:
        """Return a subscription that counts what it delivers, and whose handlers run within spans."""
        subscription: Subscription[Any] = self._real_subscribe(*arguments, **options)
        kind, its, attributes = type(subscription), ref(subscription), self._of_messages(subscription)

        def counting() -> Iterator[Any]:
            for record in kind._deliver(its()):  # type: ignore[arg-type] # It is what calls this.
                if record is not None:
                    self._consumed.add(1, attributes)
                yield record

        def run(handler: Callable[[Any], Any], **how: Any) -> None:
            NamedSubscription.run(its(), self._traced(handler, attributes), **how)  # type: ignore[arg-type]

        # A weak reference: a subscription gives up its name as soon as nobody has it any more.
        subscription._deliver = counting  # type: ignore[method-assign]
        if isinstance(subscription, NamedSubscription):
            subscription.run = run  # type: ignore[method-assign]
        return subscription

    def _begin(self, operation: str, streams: set[str]) -> tuple[Attributes, Span]:
        """Return (the attributes of the metric, a span that has them and more)."""
        attributes = {**self._common, "db.operation.name": operation}
        categories = {category_of(stream_id) for stream_id in streams}
        category = categories.pop() if len(categories) == 1 else ""
        if category:
            attributes["db.collection.name"] = category
        name = f"{operation} {category or SYSTEM}"
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        if span.is_recording():
            span.set_attribute("db.query.summary", name)
            if len(streams) == 1:
                span.set_attribute(STREAM, next(iter(streams)))
        return attributes, span

    def _of_messages(self, subscription: Subscription[Any]) -> Attributes:
        attributes: Attributes = {"messaging.system": SYSTEM, "messaging.operation.name": "process"}
        if isinstance(subscription, NamedSubscription):
            attributes["messaging.consumer.group.name"] = subscription.name
        return attributes

    def _traced(self, handler: Callable[[Any], Any], common: Attributes) -> Callable[[Any], Any]:
        def traced(record: Record[Any]) -> Any:
            attributes, began = dict(common), perf_counter()
            category = category_of(record.stream_id)
            template = f"{category}:{{id}}" if category else record.stream_id
            with self._tracer.start_as_current_span(
                f"process {template}",
                kind=SpanKind.CONSUMER,
                links=_links(record.metadata),
                record_exception=False,
                set_status_on_exception=False,
                attributes={
                    **attributes,
                    "messaging.operation.type": "process",
                    "messaging.destination.name": record.stream_id,
                    "messaging.destination.template": template,
                    "messaging.message.id": record.event_id,
                },
            ) as span:
                try:
                    return handler(record)
                except BaseException as error:
                    _note(span, attributes, error)
                    raise
                finally:
                    self._processed.record(perf_counter() - began, attributes)

        return traced

    def _with_context(self, pendings: list[Pending]) -> list[Pending]:
        carrier: dict[str, str] = {}
        if self._propagate:
            propagation.inject(carrier)
        kept = {name: carrier[name] for name in _TRACE_KEYS if name in carrier}
        return [_with_metadata(pending, kept) for pending in pendings] if kept else pendings


def _with_metadata(pending: Pending, kept: dict[str, str]) -> Pending:
    def merged(metadata: bytes | None) -> bytes:
        given = msgspec.json.decode(metadata, type=dict[str, msgspec.Raw]) if metadata else {}
        return msgspec.json.encode({**kept, **given})

    def event_with(event: Encoded) -> Encoded:
        return event if event[4] is None else (*event[:4], merged(event[4]))

    events = [event_with(event) for event in pending.events]
    return msgspec.structs.replace(pending, events=events, metadata=merged(pending.metadata))


def _links(metadata: dict[str, Any] | None) -> list[Link]:
    carrier = {name: value for name in _TRACE_KEYS if isinstance(value := (metadata or {}).get(name), str)}
    context = trace.get_current_span(propagation.extract(carrier)).get_span_context() if carrier else None
    return [Link(context)] if context is not None and context.is_valid else []


def _note(span: Span, attributes: Attributes, error: BaseException) -> None:
    """Note an error in a span and in the attributes of its metric."""
    attributes["error.type"] = type(error).__qualname__
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(Status(StatusCode.ERROR, str(error)))


def _histogram(meter: Meter, name: str, description: str) -> Histogram:
    try:
        return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=_BOUNDS)
    except TypeError:  # Older versions take no advice.
        return meter.create_histogram(name, "s", description)
