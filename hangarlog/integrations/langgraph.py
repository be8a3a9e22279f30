"""Checkpoints of LangGraph in a store: `Saver(path)`. Install `hangarlog[langgraph]`.

A thread is a stream. An index of it is kept in memory: where its checkpoints are and their writes, without values.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, TypeVar

import msgspec

try:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        WRITES_IDX_MAP,
        BaseCheckpointSaver,
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        CheckpointTuple,
        get_checkpoint_id,
        get_checkpoint_metadata,
        writes_sort_key,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hangarlog.integrations.langgraph needs langgraph-checkpoint, which is not installed; "
        "run: pip install 'hangarlog[langgraph]'",
        name="langgraph",
    ) from error

from hangarlog.errors import ConcurrencyError, StreamNotFoundError
from hangarlog.eventstore.engine import Durability
from hangarlog.eventstore.expected_version import ANY, STREAM_EXISTS
from hangarlog.integrations.sessions import (
    Opened,
    Store,
    Streams,
    append,
    as_json,
    event,
    from_json,
    names_of,
    not_known,
    read_at,
    stream_id,
)
from hangarlog.record.envelope import Encoded, Envelope

_CATEGORY, _CHECKPOINT, _WRITES, _KEPT = "langgraph", "Checkpoint", "Writes", "Kept"
_AT_ONCE = 16
"""How many checkpoints a list reads at once."""

Result = TypeVar("Result")
_Envelopes = list[Envelope]
_Pending = list[tuple[str, str, Any]]


class _Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which checkpoint a stored event is about."""

    ns: str
    id: str
    parent: str | None = None


class _StoredCheckpoint(_Head, frozen=True, omit_defaults=True, kw_only=True):
    checkpoint: tuple[str, bytes]


class _StoredWrites(_Head, frozen=True, omit_defaults=True, kw_only=True):
    task_id: str
    task_path: str = ""
    writes: list[tuple[int, str, str, bytes]]
    """Each is (place among the task's writes, channel, kind of value, value)."""


_encode = msgspec.json.Encoder().encode
_head = msgspec.json.Decoder(_Head).decode
_stored_checkpoint = msgspec.json.Decoder(_StoredCheckpoint).decode
_stored_writes = msgspec.json.Decoder(_StoredWrites).decode


class _Place:
    """Where a checkpoint is: the version of its event, None without one, and of the events of its writes."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.parent: str | None = None
        self.writes: list[int] = []


class _Index:
    """Where the checkpoints of a thread are, by namespace and id."""

    def __init__(self) -> None:
        self.places: dict[str, dict[str, _Place]] = {}
        self.latest: dict[str, str] = {}

    def add(self, envelope: Envelope) -> None:
        kind, version = envelope.event_type, envelope.stream_version
        if kind == _KEPT:
            self.__init__()  # type: ignore[misc]  # What follows is all that was kept.
            return
        if kind not in (_CHECKPOINT, _WRITES):
            raise not_known(envelope)
        head = _head(envelope.data)
        place = self.places.setdefault(head.ns, {}).setdefault(head.id, _Place())
        if kind == _WRITES:
            place.writes.append(version)
            return
        place.version, place.parent = version, head.parent
        self.latest[head.ns] = max(self.latest.get(head.ns, ""), head.id)

    def find(self, ns: str, checkpoint_id: str | None) -> tuple[str, list[int]] | None:
        """Return the (id, versions of its events) of a checkpoint, by default of the latest; None if there is none."""
        checkpoint_id = checkpoint_id or self.latest.get(ns, "")
        place = self.places.get(ns, {}).get(checkpoint_id)
        return None if place is None or place.version is None else (checkpoint_id, [place.version, *place.writes])

    def versions(self, kept: set[tuple[str, str]]) -> list[int]:
        """Return the versions of the events of some checkpoints, and of writes that came before their checkpoint."""
        found = []
        for ns, places in self.places.items():
            for checkpoint_id, place in places.items():
                if place.version is not None and (ns, checkpoint_id) in kept:
                    found += [place.version, *place.writes]
                elif place.version is None and checkpoint_id > self.latest.get(ns, ""):
                    found += place.writes
        return sorted(found)

    def all(self, ns: str | None) -> Iterator[tuple[str, str]]:
        """Yield the (namespace, id) of all checkpoints of one or all namespaces, the latest of each first."""
        for name in self.latest if ns is None else [ns]:
            for checkpoint_id, place in sorted(self.places.get(name, {}).items(), reverse=True):
                if place.version is not None:
                    yield name, checkpoint_id


class Saver(BaseCheckpointSaver[str]):
    """Keeps the checkpoints of LangGraph, one stream for each thread. Use it from threads or from event loops.

    `where` is the folder of a store, which is created if it is missing, or an open store. `serde` is LangGraph's
    serializer of values. What is put is durable when the call returns.
    """

    def __init__(
        self,
        where: str | os.PathLike[str] | Store,
        *,
        durability: Durability = "always",
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(serde=serde)
        self._opened = Opened(where, durability)
        self._streams = Streams(self._opened, _Index, _Index.add)

    @property
    def store(self) -> Store:
        """The event store."""
        return self._opened.store

    def close(self) -> None:
        """Close the store, unless it was given or others of this process use it."""
        self._opened.close()

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Return the version after `current`. Two that are made at once differ."""
        number = 0 if current is None else int(str(current).split(".")[0])
        return f"{number + 1:032}.{random.random():016}"

    # Writing

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint, and return its config."""
        place = config["configurable"]
        ns, parent = str(place.get("checkpoint_ns", "")), place.get("checkpoint_id")
        stored = _StoredCheckpoint(ns, checkpoint["id"], parent, checkpoint=self.serde.dumps_typed(checkpoint))
        about = as_json("metadata", get_checkpoint_metadata(config, metadata))
        self._append(place["thread_id"], _CHECKPOINT, _encode(stored)[:-1] + b"," + about[1:])
        return _config(place["thread_id"], ns, checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task has written on the way to the next checkpoint."""
        place, serialize = config["configurable"], self.serde.dumps_typed
        packed = [(WRITES_IDX_MAP.get(channel, n), channel, *serialize(v)) for n, (channel, v) in enumerate(writes)]
        ns, checkpoint_id = str(place.get("checkpoint_ns", "")), str(place["checkpoint_id"])
        stored = _StoredWrites(ns, checkpoint_id, task_id=task_id, task_path=task_path, writes=packed)
        self._append(place["thread_id"], _WRITES, _encode(stored))

    def _append(self, thread_id: Any, kind: str, data: bytes) -> None:
        append(self.store, _stream(thread_id), [event(kind, data)], ANY)

    # Reading

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return a checkpoint with its writes: that of the config, or the latest of its thread and namespace."""
        place = config["configurable"]
        wanted, ns = get_checkpoint_id(config), str(place.get("checkpoint_ns", ""))
        found = self._find(str(place["thread_id"]), ns, wanted)
        return found._replace(config=config) if found and wanted else found

    def _find(self, thread_id: str, ns: str, checkpoint_id: str | None) -> CheckpointTuple | None:
        found = self._find_all(thread_id, [(ns, checkpoint_id)])
        return found[0] if found else None

    def _find_all(self, thread_id: str, wanted: Sequence[tuple[str, str | None]]) -> Sequence[CheckpointTuple]:
        """Return the checkpoints of a thread at some (namespace, id or None for the latest) that are there."""
        stream = _stream(thread_id)
        while True:
            with self._streams.of(stream) as known:
                places = [(ns, found) for ns, one in wanted if (found := known.state.find(ns, one))]
            versions = [version for _, (_, own) in places for version in own]
            at = {envelope.stream_version: envelope for envelope in read_at(self.store, stream, versions)}
            if at.keys() >= set(versions):  # Else the thread was pruned meanwhile.
                return [self._tuple(thread_id, ns, one, [at[version] for version in own]) for ns, (one, own) in places]

    def _tuple(self, thread_id: str, ns: str, checkpoint_id: str, envelopes: _Envelopes) -> CheckpointTuple:
        try:
            stored, metadata = _stored_checkpoint(envelopes[0].data), from_json("metadata", envelopes[0].data)
        except msgspec.MsgspecError as error:
            raise not_known(envelopes[0], str(error)) from error
        parent = _config(thread_id, ns, stored.parent) if stored.parent else None
        checkpoint = self.serde.loads_typed(stored.checkpoint)
        writes = self._writes(envelopes[1:])
        return CheckpointTuple(_config(thread_id, ns, checkpoint_id), checkpoint, metadata, parent, writes)

    def _writes(self, envelopes: _Envelopes) -> _Pending:
        """Return pending writes in their order. Of ordinary ones the first counts, of special ones the last."""
        found: dict[tuple[str, str, int], tuple[str, str, tuple[str, bytes]]] = {}
        seen: dict[tuple[str, int], tuple[str, str, int]] = {}
        for envelope in envelopes:
            try:
                stored = _stored_writes(envelope.data)
            except msgspec.MsgspecError as error:
                raise not_known(envelope, str(error)) from error
            for place, channel, kind, value in stored.writes:
                before = seen.get((stored.task_id, place))
                if before is not None:
                    if place >= 0:
                        continue
                    del found[before]
                key = writes_sort_key(stored.task_path, stored.task_id, place)
                seen[stored.task_id, place] = key
                found[key] = (stored.task_id, channel, (kind, value))
        return [(task, channel, self.serde.loads_typed(value)) for _, (task, channel, value) in sorted(found.items())]

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - as the base class calls it
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yield the checkpoints of a thread, or of all threads, the latest first."""
        most = None if limit is None else max(0, limit)
        found = self._matching(config, filter, get_checkpoint_id(before) if before else None, most or _AT_ONCE)
        return islice(found, most)

    def _matching(
        self, config: RunnableConfig | None, wanted: dict[str, Any] | None, before: str | None, most: int
    ) -> Iterator[CheckpointTuple]:
        places = [each for each in self._places(config) if not before or each[2] < before]
        for thread_id, group in groupby(places, key=itemgetter(0)):
            rest = [(ns, checkpoint_id) for _, ns, checkpoint_id in group]
            while rest:
                some, rest = rest[: min(most, _AT_ONCE)], rest[min(most, _AT_ONCE) :]
                for found in self._find_all(thread_id, some):
                    if all(found.metadata.get(key) == value for key, value in (wanted or {}).items()):
                        yield found

    def _places(self, config: RunnableConfig | None) -> Sequence[tuple[str, str, str]]:
        """Return the (thread id, namespace, id) of the checkpoints that a config is about, the latest first."""
        place = config["configurable"] if config else {}
        ns, only = place.get("checkpoint_ns"), get_checkpoint_id(config) if config else None
        threads = [str(place["thread_id"])] if config else self._threads()
        found = []
        for thread_id in threads:
            with self._streams.of(_stream(thread_id)) as known:
                found += [(thread_id, *each) for each in known.state.all(ns) if not only or each[1] == only]
        return sorted(found, key=lambda each: each[2], reverse=True)

    def _threads(self) -> Iterable[str]:
        return [names_of(stream)[0] for stream in self.store.list_streams(f"{_CATEGORY}:")]

    # Deleting and copying

    def delete_thread(self, thread_id: str) -> None:
        """Erase a thread."""
        try:
            self.store.delete_stream(_stream(thread_id))
        except StreamNotFoundError:
            return

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Erase the checkpoints of some runs, with their writes."""
        runs = set(run_ids)
        for thread_id in self._threads() if runs else ():
            self._keep(thread_id, partial(self._of_others, thread_id, runs))

    def _of_others(self, thread_id: str, runs: set[str], index: _Index) -> set[tuple[str, str]]:
        found = self.list(_config(thread_id, None, None))
        gone = {_place(each) for each in found if each.metadata.get("run_id") in runs}
        return {*index.all(None)} - gone

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Erase all checkpoints of some threads but the latest of each namespace; with "delete", these too.

        What a channel needs that stores changes only (a `DeltaChannel`) is kept: the ancestors down to its last value.
        """
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f"strategy must be 'keep_latest' or 'delete', not {strategy!r}")
        for thread_id in thread_ids:
            if strategy == "delete":
                self.delete_thread(thread_id)
            else:
                self._keep(thread_id, partial(self._needed, thread_id))

    def _needed(self, thread_id: str, index: _Index) -> set[tuple[str, str]]:
        needed = set()
        for ns, checkpoint_id in [*index.latest.items()]:
            found = self._find(thread_id, ns, checkpoint_id)
            open_channels = set((found and found.metadata.get("counters_since_delta_snapshot")) or ())
            while found:
                needed.add(_place(found))
                open_channels -= found.checkpoint["channel_values"].keys()
                parent = found.parent_config if open_channels else None
                found = self._find(thread_id, ns, get_checkpoint_id(parent)) if parent else None
        return needed

    def _keep(self, thread_id: str, choose: Callable[[_Index], set[tuple[str, str]]]) -> None:
        """Erase all checkpoints of a thread but those that `choose` returns.

        They are appended again, behind a mark, and the stream is cut before it. Until it is, the mark hides the rest.
        """
        stream = _stream(thread_id)
        while True:
            with self._streams.of(stream) as known:
                index, version = known.state, known.version
                everything = {*index.all(None)}
            kept = choose(index)
            if kept == everything:
                return
            versions = index.versions(kept)
            try:
                if not versions:
                    self.store.delete_stream(stream, expected_version=version)
                    return
                events = [event(_KEPT, b"{}"), *map(_copy, read_at(self.store, stream, versions))]
                # An append at the last version of a thread that was deleted meanwhile would begin it anew.
                result = append(self.store, stream, events, version, STREAM_EXISTS)
            except ConcurrencyError:
                continue  # Something was put or deleted meanwhile.
            self.store.truncate_stream(stream, result.first_version)
            return

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints and writes of a thread to another one."""
        source = _stream(source_thread_id)
        with self._streams.of(source) as known:
            versions = known.state.versions({*known.state.all(None)})
        if versions:
            copies = [_copy(envelope) for envelope in read_at(self.store, source, versions)]
            append(self.store, _stream(target_thread_id), copies, ANY)

    # The same for event loops

    async def _run(self, function: Callable[..., Result], *args: Any) -> Result:
        return await self._opened.run(function, *args)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As `put`."""
        return await self._run(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As `put_writes`."""
        await self._run(self.put_writes, config, writes, task_id, task_path)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As `get_tuple`."""
        return await self._run(self.get_tuple, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - as the base class calls it
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """As `list`."""
        found = await self._run(lambda: self.list(config, filter=filter, before=before, limit=limit))
        while some := await self._run(lambda: [*islice(found, _AT_ONCE)]):
            for each in some:
                yield each

    async def adelete_thread(self, thread_id: str) -> None:
        """As `delete_thread`."""
        await self._run(self.delete_thread, thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As `delete_for_runs`."""
        await self._run(self.delete_for_runs, run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As `copy_thread`."""
        await self._run(self.copy_thread, source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As `prune`."""
        await self._run(lambda: self.prune(thread_ids, strategy=strategy))


def _stream(thread_id: Any) -> str:
    return stream_id(_CATEGORY, str(thread_id))


def _config(thread_id: Any, ns: str | None, checkpoint_id: str | None) -> RunnableConfig:
    place = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
    return {"configurable": {key: value for key, value in place.items() if value is not None}}


def _place(found: CheckpointTuple) -> tuple[str, str]:
    place = found.config["configurable"]
    return place["checkpoint_ns"], place["checkpoint_id"]


def _copy(envelope: Envelope) -> Encoded:
    return event(envelope.event_type, bytes(envelope.data), recorded_at=envelope.recorded_at)
