"""Sessions of Google's Agent Development Kit in a store: `SessionService(path)`. Install `hangarlog[adk]`.

A session is a stream of its events. The state of an application, and that of a user, are streams of changes.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import msgspec

try:
    from google.adk.errors import StaleSessionError
    from google.adk.errors.already_exists_error import AlreadyExistsError
    from google.adk.errors.input_validation_error import InputValidationError
    from google.adk.errors.session_not_found_error import SessionNotFoundError
    from google.adk.events.event import Event
    from google.adk.platform import time as platform_time
    from google.adk.platform import uuid as platform_uuid
    from google.adk.sessions import _session_util as util
    from google.adk.sessions.base_session_service import BaseSessionService, GetSessionConfig, ListSessionsResponse
    from google.adk.sessions.session import Session
    from google.adk.sessions.state import State
    from pydantic import ValidationError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hangarlog.integrations.adk needs google-adk 2.13 or newer, which is not installed; "
        "run: pip install 'hangarlog[adk]'",
        name="google.adk",
    ) from error

from hangarlog.errors import ConcurrencyError, StreamIdError, StreamNotFoundError
from hangarlog.events.payload import too_deep
from hangarlog.eventstore.engine import Durability
from hangarlog.integrations.sessions import (
    Known,
    Opened,
    Recent,
    Store,
    Streams,
    as_json,
    event,
    from_json,
    member,
    names_of,
    not_known,
    prefix_of,
    read_at,
    stream_id,
)
from hangarlog.record.envelope import Encoded, Envelope

_SESSION, _APP, _USER = "adk", "adk-app", "adk-user"
_CREATED, _EVENT, _STATE = "Created", "Event", "State"


class _Stored(msgspec.Struct, frozen=True):
    """What an event of a session holds beside the change of the session's state."""

    time: float
    id: str = ""
    event: msgspec.Raw = msgspec.Raw()
    event_json: str = ""

    @property
    def text(self) -> bytes:
        """The ADK's event as JSON."""
        return bytes(self.event) or self.event_json.encode()


_stored = msgspec.json.Decoder(_Stored).decode
_encode = msgspec.json.Encoder().encode


class _Log:
    """A session: whether it was created, its own state, and where its events are."""

    def __init__(self) -> None:
        self.created, self.updated = False, 0.0
        self.state: dict[str, Any] = {}
        self.events: list[tuple[float, int]] = []
        self.ids: dict[str, int] = {}
        self.recent = Recent()

    def add(self, envelope: Envelope) -> None:
        if envelope.event_type not in (_CREATED, _EVENT):
            raise not_known(envelope)
        self.take(envelope.event_type, bytes(envelope.data), envelope.stream_version)

    def take(self, kind: str, data: bytes, version: int) -> None:
        """Take an event at a version into the state."""
        stored = _stored(data)
        self.updated = stored.time
        self.state.update(from_json("state", data, {}))
        self.created = True  # Also if a retention has dropped the beginning.
        if kind == _CREATED:
            return
        self.events.append((stored.time, version))
        self.ids[stored.id] = version
        self.recent.add(version, data)

    def wanted(self, config: GetSessionConfig | None) -> list[int]:
        """Return the versions of the events that a caller wants, in the order of their times."""
        events = sorted(self.events)
        if config and config.after_timestamp:
            events = [each for each in events if each[0] >= config.after_timestamp]
        if config and config.num_recent_events is not None:
            events = events[max(0, len(events) - config.num_recent_events) :]
        return [version for _, version in events]


def _add_change(state: dict[str, Any], envelope: Envelope) -> None:
    if envelope.event_type != _STATE:
        raise not_known(envelope)
    state.update(from_json("state", envelope.data))


class SessionService(BaseSessionService):
    """Keeps the sessions of the ADK. Who appends to a session that another has changed gets its `StaleSessionError`.

    `where` is the folder of a store, which is created if it is missing, or an open store. An event and the changes of
    state that it makes are durable, all or none, when `append_event` returns.
    """

    def __init__(self, where: str | os.PathLike[str] | Store, *, durability: Durability = "always") -> None:
        self._opened = Opened(where, durability)
        self._logs = Streams(self._opened, _Log, _Log.add)
        self._states: Streams[dict[str, Any]] = Streams(self._opened, dict, _add_change)

    @property
    def store(self) -> Store:
        """The event store."""
        return self._opened.store

    async def close(self) -> None:
        """Close the store, unless it was given or others of this process use it."""
        self._opened.close()

    # Sessions

    async def create_session(
        self, *, app_name: str, user_id: str, state: dict[str, Any] | None = None, session_id: str | None = None
    ) -> Session:
        """Create a session. Raises `AlreadyExistsError` if there is one of this id."""
        name = (session_id or "").strip() or platform_uuid.new_uuid()
        deltas = util.extract_json_safe_state_delta(state or {})
        return await self._opened.run(self._create, app_name, user_id, name, deltas)

    def _create(self, app_name: str, user_id: str, name: str, deltas: dict[str, dict[str, Any]]) -> Session:
        stream, now = _stream(_SESSION, app_name, user_id, name), platform_time.get_time()
        created = event(_CREATED, _payload(now, deltas["session"]))
        while True:
            with self._logs.of(stream) as known:
                if known.state.created:
                    raise AlreadyExistsError(f"Session with id {name} already exists.")
                try:
                    self._append(stream, known, created, app_name, user_id, deltas)
                except ConcurrencyError:
                    continue  # Another process has created it.
                return _session(app_name, user_id, name, known, self._scoped(app_name, user_id))

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        """Return a session with its events, or those that `config` asks for; None if there is none."""
        return await self._opened.run(self._get, app_name, user_id, session_id.strip(), config)

    def _get(self, app_name: str, user_id: str, name: str, config: GetSessionConfig | None) -> Session | None:
        stream = _stream(_SESSION, app_name, user_id, name)
        while True:
            with self._logs.of(stream) as known:
                if not known.state.created:
                    return None
                versions = known.state.wanted(config)
                datas = known.state.recent.at(versions)
                session = _session(app_name, user_id, name, known, self._scoped(app_name, user_id))
            if datas is None:
                datas = [bytes(envelope.data) for envelope in read_at(self.store, stream, versions)]
            if len(datas) == len(versions):  # Else it was deleted meanwhile.
                session.events = [_decoded(stream, _stored(data).text) for data in datas]
                return session

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """Return the sessions of a user, or of all users, without events; the one that was updated last comes last."""
        return await self._opened.run(self._list, app_name, user_id)

    def _list(self, app_name: str, user_id: str | None) -> ListSessionsResponse:
        users = [] if user_id is None else [user_id]
        scoped: dict[str, dict[str, Any]] = {}
        found = []
        for stream in self.store.list_streams(prefix_of(_SESSION, app_name, *users)):
            _, user, name = names_of(stream)
            if user not in scoped:
                scoped[user] = self._scoped(app_name, user)
            with self._logs.of(stream) as known:
                if known.state.created:
                    found.append(_session(app_name, user, name, known, scoped[user]))
        return ListSessionsResponse(sessions=sorted(found, key=lambda s: (s.last_update_time, s.user_id, s.id)))

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Erase a session. The states of the application and of the user stay."""
        await self._opened.run(self._delete, _stream(_SESSION, app_name, user_id, session_id.strip()))

    def _delete(self, stream: str) -> None:
        try:
            self.store.delete_stream(stream)
        except StreamNotFoundError:
            return

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """Return the state of a user, without the prefix of its keys."""
        return await self._opened.run(self._state, _stream(_USER, app_name, user_id))

    def _state(self, stream: str) -> dict[str, Any]:
        with self._states.of(stream) as known:
            return copy.deepcopy(known.state)

    def _scoped(self, app_name: str, user_id: str) -> dict[str, Any]:
        """Return the state of an application and of a user, as a session shows it."""
        streams = {State.APP_PREFIX: _stream(_APP, app_name), State.USER_PREFIX: _stream(_USER, app_name, user_id)}
        states = {prefix: self._state(stream) for prefix, stream in streams.items()}
        return {f"{prefix}{key}": value for prefix, state in states.items() for key, value in state.items()}

    # Events

    async def append_event(self, session: Session, event: Event) -> Event:
        """Append an event, and change the states as it says. An event that is there already is not written again.

        Raises:
            StaleSessionError: the session was changed since it was loaded; load it again.
            SessionNotFoundError: it was deleted, or never created.
            AlreadyExistsError: the session has another event of this id.
            InputValidationError: the event has no JSON form.
        """
        if event.partial:
            return event
        self._apply_temp_state(session, event)
        event = self._trim_temp_delta_state(event)
        text = _encoded(event)
        deltas = util.extract_json_safe_state_delta(event.actions.state_delta or {})
        written = await self._opened.run(self._append_event, session, event, text, deltas)
        return self._commit_event_to_session(session, event) if written else event

    def _append_event(self, session: Session, given: Event, text: bytes, deltas: dict[str, dict[str, Any]]) -> bool:
        """Return False if the event was there already."""
        stream = _stream(_SESSION, session.app_name, session.user_id, session.id)
        with self._logs.of(stream) as known:
            log = known.state
            if not log.created:
                raise SessionNotFoundError(f"Session {session.id} not found.")
            if given.id in log.ids:
                self._refuse_another(stream, log, given, text)
                return False
            marker = session._storage_update_marker
            if (marker != _marker(known)) if marker else (log.updated > session.last_update_time):
                raise _stale(session)
            data = _payload(given.timestamp, deltas["session"], given.id, text)
            try:
                self._append(stream, known, event(_EVENT, data), session.app_name, session.user_id, deltas)
            except ConcurrencyError as conflict:
                raise _stale(session) from conflict
            # Within the lock: tasks may append to one session at once, and each needs the marker of the one before.
            session.last_update_time, session._storage_update_marker = given.timestamp, _marker(known)
        return True

    def _refuse_another(self, stream: str, log: _Log, given: Event, text: bytes) -> None:
        versions = [log.ids[given.id]]
        datas = log.recent.at(versions) or [bytes(each.data) for each in read_at(self.store, stream, versions)]
        if _decoded(stream, _stored(datas[0]).text) != _decoded(stream, text):
            raise AlreadyExistsError(f"the session has another event with the id {given.id!r}")

    def _append(
        self,
        stream: str,
        known: Known[_Log],
        new: Encoded,
        app_name: str,
        user_id: str,
        deltas: dict[str, dict[str, Any]],
    ) -> None:
        """Append an event of a session with the changes of the application's and the user's state, all or none."""
        states = {"app": _stream(_APP, app_name), "user": _stream(_USER, app_name, user_id)}
        also = [(states[scope], [event(_STATE, as_json("state", deltas[scope]))]) for scope in states if deltas[scope]]
        result = self._logs.append(stream, known, [new], also)
        known.state.take(new[0], new[2], int(result))


def _stream(category: str, *names: str) -> str:
    try:
        return stream_id(category, *names)
    except StreamIdError as error:
        raise InputValidationError(str(error)) from error


def _payload(time: float, state: dict[str, Any], event_id: str | None = None, text: bytes | None = None) -> bytes:
    """Return what is stored of an event, or of a creation."""
    parts = [_encode({"time": time, **({} if event_id is None else {"id": event_id})})[1:-1]]
    if state:
        parts.append(as_json("state", state)[1:-1])
    if text is not None:
        parts.append(member("event", text))
    return b"{%b}" % b",".join(parts)


def _session(app_name: str, user_id: str, name: str, known: Known[_Log], scoped: dict[str, Any]) -> Session:
    """Return a session without its events."""
    session = Session(
        app_name=app_name,
        user_id=user_id,
        id=name,
        state=copy.deepcopy(known.state.state | scoped),
        last_update_time=known.state.updated,
    )
    session._storage_update_marker = _marker(known)
    return session


def _marker(known: Known[_Log]) -> str:
    return f"{known.version}:{known.event_id}"


def _encoded(event: Event) -> bytes:
    """Return an event as JSON. Raises `InputValidationError` if it has none, or one that could not be read again."""
    try:
        text = event.model_dump_json(exclude_none=True).encode()
        if too_deep(text):
            Event.model_validate_json(text)
    except ValueError as error:  # Those of pydantic are.
        raise InputValidationError(f"event {event.id!r} has no JSON form, nothing was written: {error}") from error
    return text


def _decoded(stream: str, text: bytes) -> Event:
    try:
        return Event.model_validate_json(text)
    except ValidationError as error:
        raise InputValidationError(
            f"this google-adk cannot read an event in {stream!r}; if a newer one has saved it, update: {error}"
        ) from error


def _stale(session: Session) -> StaleSessionError:
    return StaleSessionError(
        f"session {session.id!r} was changed since it was loaded; nothing was written: get it again, and append to that"
    )
