"""Transcripts of the Claude Agent SDK in a store: `SessionStore(path)`. Install `hangarlog[claude]`."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

try:
    from claude_agent_sdk import (
        SessionKey,
        SessionListSubkeysKey,
        SessionStoreEntry,
        SessionStoreListEntry,
        SessionSummaryEntry,
        fold_session_summary,
    )
    from claude_agent_sdk import SessionStore as _SessionStore
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hangarlog.integrations.claude needs claude-agent-sdk, which is not installed; "
        "run: pip install 'hangarlog[claude]'",
        name="claude_agent_sdk",
    ) from error

from hangarlog.errors import ConcurrencyError, StreamNotFoundError
from hangarlog.eventstore.engine import Durability
from hangarlog.integrations.sessions import (
    Opened,
    Store,
    Streams,
    as_json,
    event,
    from_json,
    names_of,
    not_known,
    prefix_of,
    stream_id,
    take,
)
from hangarlog.record.envelope import Envelope

_CATEGORY, _EVENT, _ENTRY, _SUMMARY = "claude", "Entry", "entry", "summary"


class _Transcript:
    """What an append must know of a transcript: the ids of its entries, and its summary."""

    def __init__(self) -> None:
        self.uuids: set[str] = set()
        self.summary: dict[str, Any] | None = None
        self.behind = 0
        """The entries after those that the summary is of: they were imported."""

    def read(self, envelope: Envelope) -> None:
        entries: list[Any] = []
        _add_entry(entries, envelope)
        summary = _summary_in(envelope)
        self.take(entries, summary)
        self.behind = 0 if summary is not None else self.behind + 1

    def take(self, entries: list[Any], summary: dict[str, Any] | None) -> None:
        self.uuids.update(uuid for entry in entries if (uuid := _uuid(entry)))
        self.summary = summary or self.summary

    def unseen(self, entries: list[SessionStoreEntry]) -> list[SessionStoreEntry]:
        """Return the entries that the transcript lacks, each once. An entry without an id is always new."""
        seen: set[str] = set()
        new = []
        for entry in entries:
            uuid = _uuid(entry)
            if not uuid or not (uuid in self.uuids or uuid in seen):
                new.append(entry)
                seen.add(uuid)
        return new


class SessionStore(_SessionStore):
    """Keeps the transcripts of the Claude Agent SDK, one stream for each session and each subagent.

    `where` is the folder of a store, which is created if it is missing, or an open store. An entry whose `uuid` the
    transcript has already is not written again, whichever process wrote it.
    """

    def __init__(self, where: str | os.PathLike[str] | Store, *, durability: Durability = "always") -> None:
        self._opened = Opened(where, durability)
        self._streams = Streams(self._opened, _Transcript, _Transcript.read)

    @property
    def store(self) -> Store:
        """The event store."""
        return self._opened.store

    def close(self) -> None:
        """Close the store, unless it was given or others of this process use it."""
        self._opened.close()

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Append the entries that the transcript lacks, all or none. They are durable when this returns."""
        if entries:
            await self._opened.run(self._append, key, list(entries))

    def _append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        stream = _stream(key)
        while True:
            with self._streams.of(stream) as known:
                new = known.state.unseen(entries)
                if not new:
                    return
                summary = None if key.get("subpath") else self._summary(known.state, key, new)
                datas = [as_json(_ENTRY, entry) for entry in new]
                metadata = None if summary is None else as_json(_SUMMARY, summary)
                events = [event(_EVENT, data) for data in datas[:-1]]
                events.append(event(_EVENT, datas[-1], metadata=metadata))
                try:
                    self._streams.append(stream, known, events)
                except ConcurrencyError:
                    continue  # Another process has appended. What it wrote may be the same.
                known.state.take(new, summary)
                return

    def _summary(self, transcript: _Transcript, key: SessionKey, new: list[SessionStoreEntry]) -> dict[str, Any]:
        """Return the summary of a session with some new entries, as the SDK makes it."""
        before: SessionSummaryEntry | None = None
        if transcript.behind:
            new = [*(self._load(key) or []), *new]
        elif transcript.summary is not None:
            before = {"session_id": key["session_id"], "mtime": 0, "data": transcript.summary}
        return fold_session_summary(before, key, new)["data"]

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """Return all entries of a transcript, None if it has none."""
        return await self._opened.run(self._load, key)

    def _load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        found: list[SessionStoreEntry] = []
        for block in self.store.envelopes(_stream(key)):
            for envelope in block:
                take(_add_entry, found, envelope)
        return found or None

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """Return the sessions of a project, with the time of their last entry."""
        return [
            {"session_id": session_id, "mtime": _milliseconds(last)}
            for session_id, last in await self._opened.run(self._sessions, project_key)
        ]

    async def list_session_summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        """Return the summaries of a project's sessions. Each stands in the last entry, so only that is read."""
        return [
            {"session_id": session_id, "mtime": _milliseconds(last), "data": summary}
            for session_id, last in await self._opened.run(self._sessions, project_key)
            if (summary := _summary_in(last)) is not None
        ]

    def _sessions(self, project_key: str) -> list[tuple[str, Envelope]]:
        """Return the (session id, last entry) of the transcripts of a project that are no subagent's."""
        found: list[tuple[str, Envelope]] = []
        for stream in self.store.list_streams(prefix_of(_CATEGORY, project_key)):
            _, session_id, *subpath = names_of(stream)
            last = [envelope for block in self.store.envelopes(stream, reverse=True, limit=1) for envelope in block]
            if last and not subpath:
                found.append((session_id, last[0]))
        return found

    async def delete(self, key: SessionKey) -> None:
        """Erase a transcript; that of a session with those of its subagents."""
        await self._opened.run(self._delete, key)

    def _delete(self, key: SessionKey) -> None:
        stream = _stream(key)
        below = [] if key.get("subpath") else self.store.list_streams(f"{stream}/")
        for each in [*below, stream]:  # The session's own last: until then it is listed, and can be deleted again.
            try:
                self.store.delete_stream(each)
            except StreamNotFoundError:
                continue

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """Return the subpaths of a session: its subagents."""
        prefix = prefix_of(_CATEGORY, key["project_key"], key["session_id"])
        return [names_of(stream)[-1] for stream in await self._opened.run(self.store.list_streams, prefix)]


def _stream(key: SessionKey) -> str:
    subpath = key.get("subpath")
    return stream_id(_CATEGORY, key["project_key"], key["session_id"], *([subpath] if subpath else []))


def _uuid(entry: Any) -> str:
    """Return the id of an entry, "" if it has none."""
    uuid = entry.get("uuid") if isinstance(entry, dict) else None
    return uuid if isinstance(uuid, str) else ""


def _add_entry(entries: list[Any], envelope: Envelope) -> None:
    if envelope.event_type != _EVENT:
        raise not_known(envelope)
    entries.append(from_json(_ENTRY, envelope.data))


def _summary_in(envelope: Envelope) -> dict[str, Any] | None:
    return from_json(_SUMMARY, envelope.metadata, None) if envelope.metadata_json else None


def _milliseconds(envelope: Envelope) -> int:
    return int(datetime.fromisoformat(envelope.recorded_at).timestamp() * 1000)
