"""The recorders of aggregates, applications, what was processed, and both together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    DataError,
    Notification,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
)

from hangarlog import AppendResult, Envelope, EventSerializationError
from hangarlog.eventstore.selection import ReadOptions
from hangarlog.integrations.eventsourcing.payload import errors, payloads, state_members, state_of
from hangarlog.integrations.eventsourcing.recorder import Append, HangarlogRecorder, StreamEvents

AGGREGATE = "aggregate:"
"""How the names of aggregates' streams begin."""

_originator_id = attrgetter("originator_id")


class HangarlogAggregateRecorder(HangarlogRecorder, AggregateRecorder):
    """Records the events of aggregates, or their snapshots. The versions of one must grow, but may have gaps."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Record events, all or none.

        Raises `IntegrityError` if an aggregate already is at that version, `DataError` if one cannot be stored.
        """
        self._insert(stored_events, **kwargs)
        return None

    def _insert(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> int:
        """Record events, and return the position of the first one."""
        if stored_events and min(event.originator_version for event in stored_events) < 0:
            raise DataError("an originator's version must be 0 or more")
        with errors:
            try:
                return self._first(self._runs(stored_events), **kwargs)
            except EventSerializationError:  # JSON that a line cannot hold, such as a repeated key.
                return self._first(self._runs(stored_events, as_base64=True), **kwargs)

    def _first(self, runs: list[StreamEvents], tracking: Tracking | None = None, **_: Any) -> int:
        results = self._commit(runs)
        return results[runs[0][0]].first_position if runs else 0

    def _runs(self, stored_events: Sequence[StoredEvent], *, as_base64: bool = False) -> list[StreamEvents]:
        """Group events that follow each other in one aggregate, in their order."""
        members = iter(state_members([event.state for event in stored_events], as_base64=as_base64))
        return [
            (f"{AGGREGATE}{originator_id}", [(each.originator_version, each.topic, next(members)) for each in run])
            for originator_id, run in groupby(stored_events, _originator_id)
        ]

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Return the events of an aggregate with versions above `gt` and up to `lte`."""
        with errors:
            return self._select(f"{AGGREGATE}{originator_id}", originator_id, gt, lte, desc, limit)

    def _select(
        self, stream_id: str, originator_id: UUID | str, gt: int | None, lte: int | None, desc: bool, limit: int | None
    ) -> list[StoredEvent]:
        options: ReadOptions = {"reverse": True} if desc else {}
        if gt is not None and gt > 0:  # By how much a version is above that of the stream only grows.
            at, version = self._ends.get(stream_id) or self._end(stream_id)
            options["to_version" if desc else "from_version"] = max(0, min(at + 1, gt + 1 - (version - at)))
        elif lte is None and limit is not None:
            options["limit"] = limit + (gt == 0)
        lowest, highest = -1 if gt is None else gt, float("inf") if lte is None else lte
        found: list[StoredEvent] = []
        last = None
        for block in self.store.envelopes(stream_id, **options):
            for envelope, payload in zip(block, payloads(block), strict=True):
                if lowest < payload.version <= highest and len(found) != limit:
                    found.append(StoredEvent(originator_id, payload.version, envelope.event_type, state_of(payload)))
                last = envelope.stream_version, payload.version
            if len(found) == limit or (last and not desc and last[1] > highest):
                break
        if last is not None and lte is limit is None and not desc:
            self._note_end(stream_id, last)
        return found


class HangarlogSubscription(Subscription["HangarlogApplicationRecorder"]):
    """Yields notifications as they are recorded, in any process. It waits without polling and without a thread."""

    _last_notification_id: int | None

    def __init__(self, recorder: HangarlogApplicationRecorder, gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder, gt, topics)
        self._notifications: Iterator[Notification] = iter(())
        self._following = recorder.store.follow_envelopes(
            min(gt or 0, recorder.store.get_event_count()),
            stream_id=None,
            heartbeat=None,
            durable=recorder._durable,
            category="aggregate",
            event_types=tuple(topics) or None,
        )

    def __exit__(self, *args: object, **kwargs: Any) -> None:
        super().__exit__(*args, **kwargs)
        self._following.close()

    def stop(self) -> None:
        """Stop the subscription."""
        super().stop()
        self._following.stop()

    def __next__(self) -> Notification:
        while not self._has_been_stopped:
            for notification in self._notifications:
                if notification.id > (self._last_notification_id or 0):
                    self._last_notification_id = notification.id
                    return notification
            with errors:
                block = next(self._following, None)
                if block is None:
                    break
            self._notifications = iter(self._recorder._notifications(block))
        raise StopIteration


class HangarlogApplicationRecorder(HangarlogAggregateRecorder, ApplicationRecorder):
    """Records the events of an application in one order, without gaps, in which every process sees them."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Record events, all or none, and return their notification ids. Raises as `HangarlogAggregateRecorder`."""
        first = self._insert(stored_events, **kwargs)
        return list(range(first, first + len(stored_events))) if stored_events else None

    def _notifications(self, block: Sequence[Envelope]) -> list[Notification]:
        notifications, ids = [], dict[str, UUID | str]()
        for envelope, payload in zip(block, payloads(block), strict=True):
            originator_id = ids.get(envelope.stream_id)
            if originator_id is None:
                originator_id = ids[envelope.stream_id] = self._originator_id(envelope.stream_id)
            place = originator_id, payload.version, envelope.event_type, state_of(payload)
            notifications.append(Notification(*place, id=envelope.position))
        return notifications

    def _originator_id(self, stream_id: str) -> UUID | str:
        text = stream_id.removeprefix(AGGREGATE)
        try:
            return text if self._text_ids else UUID(text)
        except ValueError as error:
            raise DataError(f"the stream {stream_id!r} has no UUID in its name: are its ids text?") from error

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Return at most `limit` notifications from `start` to `stop`: durable ones, unless the store is relaxed."""
        with errors:
            blocks = self._blocks(max(0, (start or 0) - inclusive_of_start), stop, limit, tuple(topics))
            return [notification for block in blocks for notification in self._notifications(block)]

    def _blocks(
        self, after: int, stop: int | None, limit: int, topics: tuple[str, ...]
    ) -> Iterator[Sequence[Envelope]]:
        """Yield at most `limit` records of aggregates after a position."""
        durable = self._durable
        if topics:
            yield from self.store.envelopes(
                from_position=after,
                to_position=stop,
                category="aggregate",
                event_types=topics,
                limit=limit,
                durable=durable,
            )
            return
        found = asked = 0
        while limit > 0 and found == asked:  # Without a filter, the store decodes no more than the limit.
            found, asked = 0, limit
            for block in self.store.envelopes(from_position=after, to_position=stop, limit=asked, durable=durable):
                found, after = found + len(block), block[-1].position
                mine = [envelope for envelope in block if envelope.stream_id.startswith(AGGREGATE)]
                limit -= len(mine)
                yield mine

    def max_notification_id(self) -> int | None:
        """Return the id of the last notification, None if there is none."""
        with errors:
            blocks = self.store.envelopes(reverse=True, category="aggregate", limit=1, durable=self._durable)
            return next((block[0].position for block in blocks if block), None)

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> HangarlogSubscription:
        """Return an iterator over the notifications after `gt`, which waits for more."""
        with errors:
            return HangarlogSubscription(self, gt, topics)


class HangarlogTrackingRecorder(HangarlogRecorder, TrackingRecorder):
    """Records how far upstream applications are processed: a stream `tracking:NAME` for each."""

    def insert_tracking(self, tracking: Tracking) -> None:
        """Record a tracking object. Raises `IntegrityError` unless it is after the last one."""
        self.record(tracking)

    def record(self, tracking: Tracking | None, *appends: Append) -> dict[str, AppendResult]:
        """Append to streams of a view and record what was processed, all or none: for views that are subclasses.

        `appends` are those of `append_many`: (stream id, events, expected version).
        """
        with errors:
            return self._commit(_tracked(tracking), *appends)

    def max_tracking_id(self, application_name: str) -> int | None:
        """Return the id of the last notification that was processed, None if none was."""
        with errors:
            version = self._end(f"tracking:{application_name}")[1]
        return None if version < 0 else version


def _tracked(tracking: Tracking | None) -> list[StreamEvents]:
    if tracking is None:
        return []
    return [(f"tracking:{tracking.application_name}", [(tracking.notification_id, "Tracked", b'"state":null')])]


class HangarlogProcessRecorder(HangarlogTrackingRecorder, HangarlogApplicationRecorder, ProcessRecorder):
    """Records events together with the notification that they come from: each is processed once."""

    def _first(self, runs: list[StreamEvents], tracking: Tracking | None = None, **_: Any) -> int:
        results = self._commit([*runs, *_tracked(tracking)])
        return results[runs[0][0]].first_position if runs else 0
