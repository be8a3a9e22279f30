"""Given events, when something is called, then these events follow: tests of aggregates, projections and services."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from hangarlog.aggregates import Repository
from hangarlog.eventstore.base import EventStore
from hangarlog.memory import MemoryEventStore
from hangarlog.projections.definition import Definition
from hangarlog.projections.follower import Follower
from hangarlog.projections.projection import Projection
from hangarlog.schema.target import load_events, read_settings

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def memory_store(folder: str) -> MemoryEventStore[Any]:
    """Return a store in memory with the events that `[tool.hangarlog]` in a folder's pyproject.toml names.

    Without that table, it has those of the default registry. Raises `EventsNotFoundError`.
    """
    events = read_settings(os.path.join(folder, "pyproject.toml")).events
    return MemoryEventStore(serializer=load_events(events, folder) if events else None)


class Scenario:
    """A store and what has happened in it. Each call returns a scenario, so they can be chained.

        Scenario(store).given("account:ann", Deposited(30)).when(accounts.execute, "ann", withdraw).then(Withdrawn(10))

    Events are compared as they are stored: by their type and their payload.
    """

    def __init__(self, store: EventStore[Any]) -> None:
        self._store, self._before = store, store.get_event_count()
        self._error: BaseException | None = None
        self.result: Any = None
        """What the call of `when` returned."""

    def given(self, stream_id: str, *events: Any) -> Scenario:
        """Append events to a stream, in one batch. Raises what `append` raises."""
        self._refuse_error()
        self._store.append_at_end(stream_id, events)
        self._before = self._store.get_event_count()
        return self

    def when(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Scenario:
        """Call something. An `Exception` that it raises waits for `then_raises`; anything else here raises it."""
        self._refuse_error()
        self._before, self.result = self._store.get_event_count(), None
        try:
            self.result = call(*arguments, **options)
        except Exception as error:
            self._error = error
        return self

    def then(self, *events: Any, ignoring: Collection[str] = ()) -> Scenario:
        """Fail unless exactly these events were appended since `when`, in this order.

        Give (stream id, event) where the stream matters. `ignoring` are keys of payloads that are not compared, such
        as the ids and times of events that make their own.
        """
        __tracebackhide__ = True
        self._refuse_error()
        pairs = [each if isinstance(each, tuple) else (None, each) for each in events]
        found = [envelope for block in self._store.envelopes(from_position=self._before) for envelope in block]
        streams = [stream_id for stream_id, _ in pairs] + [None] * max(0, len(found) - len(pairs))
        wanted = [
            _shown(stream_id, name, data, ignoring)
            for (stream_id, _), (name, _, data, _, _) in zip(
                pairs, self._store.serializer.encode_all([event for _, event in pairs]), strict=True
            )
        ]
        appended = [
            _shown(stream_id and each.stream_id, each.event_type, bytes(each.data), ignoring)
            for stream_id, each in zip(streams, found, strict=False)
        ]
        _refuse_difference("other events were appended", wanted, appended)
        return self

    def then_nothing(self) -> Scenario:
        """Fail if an event was appended since `when`."""
        __tracebackhide__ = True
        return self.then()

    def then_raises(self, kind: type[BaseException] | tuple[type[BaseException], ...], match: str = "") -> Scenario:
        """Fail unless the call raised such an error, and the pattern `match` is found in its text."""
        __tracebackhide__ = True
        error, self._error = self._error, None
        if error is None:
            raise AssertionError(f"nothing was raised; the call returned {self.result!r}")
        if not isinstance(error, kind):
            raise error
        if not re.search(match, str(error)):
            raise AssertionError(f"the error is {str(error)!r}, which {match!r} does not match") from error
        return self

    def then_state(self, repository: Repository[Any, Any], aggregate_id: str, state: Any) -> Scenario:
        """Fail unless an aggregate has this state, also once it comes from a snapshot, if the repository makes them."""
        __tracebackhide__ = True
        self._refuse_error()
        _refuse_other_state(f"aggregate {aggregate_id!r}", state, repository.load(aggregate_id).state)
        if repository.makes_snapshots and repository.save_snapshot(aggregate_id):
            _refuse_other_state(
                f"aggregate {aggregate_id!r}, from a snapshot", state, repository.load(aggregate_id).state
            )
        return self

    def then_projection(self, projection: Projection[Any], state: Any) -> Scenario:
        """Fail unless a projection of all events has this state, also if it is built anew."""
        __tracebackhide__ = True
        self.project(projection)
        _refuse_other_state(f"projection {projection.name!r}", state, projection.load(self._store).state)
        projection.run(self._store, timeout=0, rebuild=True)
        _refuse_other_state(
            f"projection {projection.name!r}, built a second time", state, projection.load(self._store).state
        )
        return self

    def project(self, projection: Definition) -> Scenario:
        """Run a projection to the end of the store, such as a `SqliteProjection`, whose tables you then look at."""
        self._refuse_error()
        Follower(projection, self._store).run(0)
        return self

    def close(self) -> None:
        """Raise what the last `when` raised, if nothing has asked for it. The pytest fixture calls this at the end."""
        __tracebackhide__ = True
        self._refuse_error()

    def _refuse_error(self) -> None:
        __tracebackhide__ = True
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _shown(stream_id: str | None, name: str, data: bytes, ignoring: Collection[str]) -> str:
    payload = {key: value for key, value in _decode(data).items() if key not in ignoring}
    text = f"{name} {msgspec.json.encode(payload, order='sorted').decode()}"
    return f"{stream_id}: {text}" if stream_id else text


def _refuse_difference(what: str, wanted: list[str], found: list[str]) -> None:
    __tracebackhide__ = True
    if wanted != found:
        lines = difflib.ndiff(wanted or ["(nothing)"], found or ["(nothing)"])
        raise AssertionError("\n".join([f"{what} (- expected, + found):", *(line.rstrip("\n") for line in lines)]))


def _refuse_other_state(what: str, wanted: Any, found: Any) -> None:
    __tracebackhide__ = True
    if found != wanted:
        raise AssertionError(f"{what} has another state:\n- expected {wanted!r}\n+ found    {found!r}")
