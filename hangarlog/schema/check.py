"""The check of an application's classes and upcasters against its schema lock: are all stored events still readable?"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Generator, Iterator
from functools import partial
from typing import Any, Literal

import msgspec

from hangarlog.errors import EventSerializationError, HangarlogError, UpcastingError
from hangarlog.events.event_class import check_event_class
from hangarlog.events.serializer import EventSerializer
from hangarlog.schema.compare import MOVED, ROUNDED, UNORDERED, Change, breaking
from hangarlog.schema.current_shapes import CurrentShapes
from hangarlog.schema.describe import Schema
from hangarlog.schema.doubts import is_structural
from hangarlog.schema.lockfile import LockedType, SchemaLock
from hangarlog.schema.places import changed_defaults, extra_names, last_name, places, silent_losses
from hangarlog.schema.purity import ImpureUpcasterError, partial_path, pure_path
from hangarlog.schema.retention import unkept
from hangarlog.schema.sample import CannotSampleError, edges_of, samples
from hangarlog.schema.shape import COMPUTED, all_tags, value_text

Kind = Literal[
    # These fail a check:
    "vanished",  # a type in the lock or the store that the application no longer has
    "alias lost",  # a former name that is no longer registered
    "changed",  # a different wire shape at the same version
    "lowered",  # a version below the locked one
    "gap",  # a version without an upcaster to the next
    "unreadable",  # a version whose events cannot be read as the class
    "lost",  # a value that reads drop because no field has its name, or replace by a default that has changed
    "impure",  # an upcaster that depends on more than its payload, or changes it
    "same name",  # two classes that are stored under one name
    "not locked",  # a type or a shape that is not in the lock, if the lock must be up to date
    # These do not:
    "new",  # a type that is not in the lock yet
    "compatible",  # a change that does not affect old events
    "raised",  # a version above the locked one, with a complete chain
    "untried",  # something that could not be tested
    "stored",  # what a store shows without a loss: defaults that stored events need, values that the chain changes
]
_NOT_FAILING = ("new", "compatible", "raised", "untried", "stored")
_NO_RESULT: Any = object()


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One result of a check.

    `details` lists the changes by field; `code` is a draft of the upcaster to write.
    """

    event_type: str
    kind: Kind
    message: str
    version: int | None = None
    details: list[str] = []
    code: str = ""

    @property
    def fails(self) -> bool:
        """True if the finding fails a check: stored events could not be read, or would change."""
        return self.kind not in _NOT_FAILING


def failing(findings: Collection[Finding]) -> list[Finding]:
    """Return the findings that fail a check."""
    return [finding for finding in findings if finding.fails]


def check(serializer: EventSerializer, lock: SchemaLock) -> list[Finding]:
    """Check an application's event types against its lock, and return the findings, sorted by event type.

    No store is needed. Sample events are generated from the locked wire shape of every version and read through the
    chain. Each step runs twice and is watched for impure calls.
    """
    registry = serializer.registry
    names = {*lock.events, *registry.types, *registry.versions, *serializer.chain.split_types()} - {*registry.dropped}
    findings: list[Finding] = []
    reported: set[tuple[str, int]] = set()
    current = CurrentShapes(serializer, lock)
    shapes_by_name: dict[str, dict[str, Schema]] = {}
    for name, locked in lock.events.items():
        shapes_by_name.setdefault(registry.canonical_name(name), {}).update(locked.schemas)
    for name in sorted(names):
        findings += _same_name(serializer, name)
        shapes = shapes_by_name.get(registry.canonical_name(name), {})
        findings += _TypeCheck(current, name, lock.events.get(name), shapes, reported).findings()
    return [msgspec.structs.replace(each, code=current.drafts.shown(each.code)) for each in findings]


def _same_name(serializer: EventSerializer, name: str) -> list[Finding]:
    """Return a finding if several classes have a name: the events of the others are read as the last one."""
    registry = serializer.registry
    rivals = registry.rivals(name) if name in registry.types else []
    if not rivals:
        return []
    places = [f"{each.__module__}.{each.__qualname__}" for each in (*rivals, registry.types[name])]
    message = (
        f"{' and '.join(places)} are both stored under this name, and its events are read as the last; "
        "give one of them another name with name=, or register it in a registry of its own"
    )
    return [Finding(name, "same name", message)]


class _TypeCheck:
    """The check of one stored event type.

    `shapes` has, by version, the shapes that are locked under any name of the class. `reported` has the impure steps
    that were reported already, under another name of the class.
    """

    def __init__(
        self,
        current: CurrentShapes,
        name: str,
        locked: LockedType | None,
        shapes: dict[str, Schema],
        reported: set[tuple[str, int]],
    ) -> None:
        serializer, self._current = current.serializer, current
        registry, self._chain = serializer.registry, serializer.chain
        self._serializer, self._name, self._locked = serializer, name, locked
        self._shapes, self._reported = shapes, reported
        self._class = registry.types.get(name)
        self._canonical = registry.canonical_name(name)
        self._split = self._chain.split_of(name)
        self._target = registry.target_version(name)
        self._failure = "cannot be split" if self._split else f"do not reach v{self._target}"
        # A shape locked under another name is tested under that name, unless events of this name are read differently.
        own_steps = any(event_type == name for event_type, _, _ in self._chain.steps())
        self._tries_shared_shapes = self._canonical != name and (own_steps or self._canonical in registry.dropped)
        self._schema: Schema | None = None
        self._tags = all_tags(shapes.values()) if self._target > 1 else set()
        self._impure: set[int] = set()

    def findings(self) -> Iterator[Finding]:
        locked = self._locked
        if self._class is None and self._split is None:
            if locked is None:
                yield self._finding("vanished", "it has a version in the registry, but no class")
            else:
                yield self._vanished_type(locked)
            return
        described = self._current.described.get(self._name)
        try:
            if self._class is not None:
                check_event_class(self._name, self._class, forward_references=False)
            if isinstance(described, EventSerializationError):
                raise described
        except EventSerializationError as error:
            yield self._finding("unreadable", error.message)
            return
        self._schema = described
        gaps = list(self._gaps())
        yield from gaps
        highest = self._highest_version(locked) if locked else 0
        if self._split and self._class is not None and self._target <= self._split[0]:
            message = f"it is split at v{self._split[0]}, so its class must have a later version than {self._target}"
            yield self._finding("lowered", message)
        elif locked is None:
            if self._canonical == self._name:
                yield self._finding("new", f"not in the lock yet, at version {self._target}")
        elif locked.alias_of and self._serializer.registry.canonical_name(locked.alias_of) != self._canonical:
            message = f"it was a former name of {locked.alias_of}, but is read as {self._canonical} now"
            yield self._finding("alias lost", message)
        elif (reaches := self._target if self._class is not None else self._split[0] if self._split else 0) < highest:
            message = f"was at version {highest}, is at {reaches}: events of later versions cannot be read"
            yield self._finding("lowered", message)
        else:
            yield from self._compare_with_lock(locked, bool(gaps))

    def _highest_version(self, locked: LockedType) -> int:
        """Return the highest version that must be readable. Skip versions only seen in a store if `newer` allows it."""
        ignored = locked.inferred if self._serializer.newer != "error" else []
        return max([locked.version, *(version for version in locked.versions() if version not in ignored)])

    def _finding(self, kind: Kind, message: str, **more: Any) -> Finding:
        return Finding(self._name, kind, message, **more)

    def _vanished_type(self, locked: LockedType) -> Finding:
        if locked.alias_of is not None:
            return self._finding(
                "alias lost",
                f"it is a former name of {locked.alias_of} that is no longer registered: events stored under it "
                f"cannot be read; add it to the aliases of {locked.alias_of}",
            )
        what = "was dropped on purpose, but no longer is" if locked.dropped else "is in the lock, but not registered"
        successor = self._current.successors.get(self._name)
        if successor:
            what += f" (is it {successor} now?)"
        return self._finding(
            "vanished",
            f"it {what}: its stored events cannot be read; keep the class, name it in the aliases of the class that "
            f"replaces it, or drop it on purpose: "
            f'serializer.registry.drop("{self._name}", reason=…)',
            version=locked.version,
        )

    def _gaps(self) -> Iterator[Finding]:
        is_former = self._canonical != self._name
        reported = set(self._chain.gaps(self._canonical, self._target)) if is_former else set()
        for version in self._chain.gaps(self._name, self._target, self._canonical):
            if version not in reported:  # A gap of the current name is reported there.
                yield self._finding(
                    "gap",
                    f"Missing upcaster v{version} -> v{version + 1}, on the way to v{self._target}",
                    version=version,
                    details=[str(change) for change in self._changes(version)],
                    code=self._skeleton(version),
                )

    def _changes(self, version: int) -> list[Change]:
        """Return the changes from a version to the next."""
        before, after = self._shape(version), self._shape(version + 1)
        return self._current.drafts.changes(before, after) if before is not None and after is not None else []

    def _skeleton(self, version: int) -> str:
        return self._current.drafts.draft(self._canonical, version, self._shape(version), self._shape(version + 1))

    def _shape(self, version: int) -> Schema | None:
        """Return the wire shape of a version: locked under this name or another, or of the class; None if unknown."""
        shape = self._locked.schema(version) if self._locked else None
        if shape is None:
            shape = self._shapes.get(str(version)) if version < self._target else self._schema
        return shape

    def _compare_with_lock(self, locked: LockedType, has_gaps: bool) -> Iterator[Finding]:
        locked_shape = self._shape_to_try(locked, self._target) if self._class is not None else None
        if self._target in locked.inferred:
            locked_shape = None  # A shape inferred from stored events does not bind the class.
        changes: list[Change] = []
        if locked_shape is not None and self._schema is not None:
            changes = self._current.comparisons.compare(locked_shape, self._schema)
        if breaking(changes):
            assert locked_shape is not None
            yield self._changed_shape(locked_shape, changes)
        elif changes:
            assert locked_shape is not None
            if any(change.what.endswith(value_text(COMPUTED)) for change in changes):
                yield from self._refused_samples(locked_shape)
            yield self._finding(
                "compatible",
                f"has changed at version {self._target} without effect on old events; record the change with "
                "`hangarlog schema lock`",
                version=self._target,
                details=list(map(str, changes)),
            )
            if any(change.is_open for change in changes):
                message = "what its classes check now may refuse events stored before: only `check --store` can tell"
                yield self._finding("untried", message, version=self._target)
        elif self._class is not None and self._target > locked.version and not has_gaps:
            yield self._finding(
                "raised",
                f"from version {locked.version} to {self._target}",
                version=self._target,
                details=self._noted_losses(locked),
            )
        if locked.dropped is not None and not locked.schemas:
            message = "it was dropped before its shape was locked: only `check --store` can test its stored events"
            yield self._finding("untried", message)
        last = self._split[0] if self._split else self._target - 1
        for version in range(1, last + 1):
            schema = self._shape_to_try(locked, version)
            if schema is not None:
                yield from self._try_version(version, schema, has_gaps)
            elif locked.schemas and version < locked.version and str(version) not in self._shapes:
                yield self._finding(
                    "untried",
                    f"version {version} is not in the lock, so it was not tested; `hangarlog schema lock --store` "
                    "infers its shape from stored events",
                    version=version,
                )

    def _noted_losses(self, locked: LockedType) -> list[str]:
        """Return the changes since the locked version that lose what upcasters pass on, although a read takes it."""
        before = locked.schema(locked.version)
        if before is None or self._schema is None or locked.version in locked.inferred:
            return []
        changes = self._current.comparisons.compare(before, self._schema)
        return [str(change) for change in changes if change.what.endswith((MOVED, ROUNDED, UNORDERED))]

    def _refused_samples(self, locked_shape: Schema) -> Iterator[Finding]:
        """Yield a finding if the class refuses an event without its new fields: the factory of a default may raise."""
        with contextlib.suppress(CannotSampleError):
            for payload in samples(locked_shape, self._current.patterns):
                try:
                    self._read(self._target, payload)
                except HangarlogError as error:
                    is_refused = isinstance(error.__cause__, msgspec.ValidationError)
                    if is_structural(error, payload, locked_shape) and not is_refused:
                        message = f"events without its new fields cannot be read: {error}"
                        yield self._finding("unreadable", message, version=self._target)
                        return

    def _shape_to_try(self, locked: LockedType, version: int) -> Schema | None:
        """Return the wire shape of a version that must be tested under this name."""
        return locked.schema(version) or (self._shapes.get(str(version)) if self._tries_shared_shapes else None)

    def _changed_shape(self, locked_shape: Schema, changes: list[Change]) -> Finding:
        version = self._target
        return self._finding(
            "changed",
            f"has changed, but not its version {version}; raise it to {version + 1} and write the upcaster below. "
            + self._readability(locked_shape),
            version=version,
            details=[f"{'!' if change.breaking else ' '} {change}" for change in changes],
            code=self._current.drafts.draft(self._canonical, version, locked_shape, self._schema),
        )

    def _readability(self, schema: Schema) -> str:
        """Return a sentence that says whether old events can still be read."""
        tried, failed, cause = 0, 0, ""
        try:
            for payload in samples(schema, self._current.patterns):
                tried += 1
                try:
                    self._read(self._target, payload)
                except HangarlogError as error:
                    failed, cause = failed + 1, cause or str(error)
        except CannotSampleError as error:
            return f"Reading old events was not tested: {error}"
        if failed:
            return f"{failed} of {tried} events generated from the locked shape cannot be read: {cause}"
        return "Old events can be read, but not as they were written"

    def _read(self, version: int, payload: dict[str, Any]) -> list[Any]:
        raw = msgspec.json.encode({"_version": version, **payload})
        try:
            return self._serializer.deserialize_all(self._name, raw)
        except HangarlogError:
            raise
        except Exception as error:  # A hook, a class's own code, or msgspec may raise anything.
            raise EventSerializationError(self._name, f"{type(error).__name__}: {error}") from error

    def _try_version(self, version: int, schema: Schema, has_gaps: bool) -> Iterator[Finding]:
        """Read sample events of a former version through the chain into the class."""
        tried: list[dict[str, Any]] = []
        doubts: list[str] = []  # Errors that a real event may not have.
        losses: dict[str, None] = {}
        inferred = self._locked is not None and version in self._locked.inferred
        try:
            for payload in samples(schema, self._current.patterns, edges_of(self._schema)):
                tried.append(payload)
                reached = yield from self._upcast(version, payload)
                if has_gaps or reached is _NO_RESULT:
                    continue
                losses.update(dict.fromkeys(silent_losses(payload, reached, schema, self._schema)))
                try:
                    events = self._read(version, payload)
                except HangarlogError as error:
                    if is_structural(error, payload, schema) and not inferred:
                        yield self._unreadable(version, payload, error)
                        return
                    doubts.append(f"{error}, as {_short_json(payload)}")
                    continue
                lost = None if reached is None else self._lost_value(reached, events)
                if lost is None and reached is not None and not inferred:
                    lost = self._changed_default(version, payload, reached, schema)
                if lost is not None:
                    yield lost
                    return
        except CannotSampleError as error:
            yield self._finding("untried", f"v{version}: {error}", version=version)
        if doubts:
            message = f"{len(doubts)} of {len(tried)} events generated from v{version} cannot be read: {doubts[0]}"
            kind: Kind = "unreadable" if len(doubts) == len(tried) else "untried"
            yield self._finding(kind, message, version=version)
        if losses:
            message = f"the upcasters from v{version} pass on what a read changes without an error"
            yield self._finding("compatible", message, version=version, details=list(losses))
        if not has_gaps and not inferred:
            yield from self._unkept_fields(version, schema, tried)

    def _unkept_fields(self, version: int, schema: Schema, payloads: list[dict[str, Any]]) -> Iterator[Finding]:
        """Yield a finding for each field that the upcasters to the next known version lose, although it has it too."""
        if self._schema is None or (self._split and version <= self._split[0]) or version in self._impure:
            return
        after = min(self._known_versions(version + 1), default=self._target)
        shape = self._schema if after == self._target else self._shapes[str(after)]
        upcast = partial(partial_path, self._serializer, self._name, version, after)
        for path, asked in unkept(payloads, schema, shape, upcast):
            what = f"the upcasters from v{version} to v{after} make the same of every {path!r} that was tried"
            if asked:
                yield self._finding("untried", f"{what}; `check --store` tries the stored ones", version=version)
                continue
            yield self._finding(
                "lost",
                f"{what}, although it is still a field: its stored values would be lost; keep them, as {{**data, ...}} "
                "does without this name, or give the field another name",
                version=version,
            )

    def _unreadable(self, version: int, payload: dict[str, Any], error: HangarlogError) -> Finding:
        return self._finding(
            "unreadable",
            f"events of v{version} {self._failure}: {error}; for example {_short_json(payload)}",
            version=version,
        )

    def _upcast(self, version: int, payload: dict[str, Any]) -> Generator[Finding, None, Any]:
        """Return what the upcasters make of a payload.

        Return `_NO_RESULT` if a step is missing or impure, and None if a step raises an error: a read raises it too.
        """
        try:
            return pure_path(self._serializer, self._name, version, payload, self._impure)
        except ImpureUpcasterError as error:
            self._impure.add(error.version)
            if (self._canonical, error.version) not in self._reported:  # Former names share the steps.
                self._reported.add((self._canonical, error.version))
                yield self._finding("impure", str(error), version=error.version)
            return _NO_RESULT
        except (UpcastingError, SystemExit):
            return _NO_RESULT  # A gap, or a step that ends the program. Both are reported elsewhere.
        except Exception:
            return None  # An upcaster may raise anything, and the read reports it.

    def _lost_value(self, reached: Any, events: list[Any]) -> Finding | None:
        """Return a finding if the upcasters or a splitter leave a value under a name that no field has."""
        registry, extra = self._serializer.registry, extra_names(events)
        for event_type, payload in reached if isinstance(reached, list) else [(self._name, reached)]:
            schema, target = self._schema_of(event_type), registry.target_version(event_type)
            is_old = isinstance(reached, list) and payload.get("_version", 1) != target
            if schema is None or is_old or event_type in registry.dropped:
                continue
            for path, value, part in places(payload, schema):
                is_tag = isinstance(value, (str, int)) and (last_name(path), value) in self._tags
                if part is None and path not in extra and not is_tag:
                    what = f"{registry.canonical_name(event_type)} v{target}"
                    return self._finding(
                        "lost",
                        f"the upcasters leave {path!r} in the payload, but {what} has no such field, so the value "
                        "would be lost; store it under a field's name, or remove it to drop it on purpose",
                        version=target,
                    )
        return None

    def _changed_default(self, version: int, payload: dict[str, Any], reached: Any, schema: Schema) -> Finding | None:
        """Return a finding if the upcasters leave out a field whose default has changed."""
        if self._schema is None or isinstance(reached, list):
            return None
        found = [(version, *each) for each in changed_defaults(payload, reached, schema, self._schema)]
        last = max(self._known_versions(version + 1), default=version)
        if not found and last > version:  # Until now, the event was read with the defaults of the last locked version.
            shape = self._shapes[str(last)]
            at_last = partial_path(self._serializer, self._name, version, last, payload)
            found = [(last, *each) for each in changed_defaults(at_last, reached, shape, self._schema)]
        for number, path, then, now in found:
            return self._finding(
                "lost",
                f"the upcasters leave out {path!r}, whose default was {value_text(then)} in v{number} and is "
                f"{value_text(now)} now: events stored without it would change; write the old default into the payload",
                version=version,
            )
        return None

    def _known_versions(self, first: int) -> list[int]:
        """Return the versions from `first` up to today's whose shape is locked, not gathered."""
        gathered = self._locked.inferred if self._locked else []
        return sorted(
            int(number)
            for number in self._shapes
            if first <= int(number) <= self._target and int(number) not in gathered
        )

    def _schema_of(self, event_type: str) -> Schema | None:
        if event_type == self._name:
            return self._schema
        described = self._current.described.get(event_type)
        return described if isinstance(described, dict) else None


def _short_json(payload: dict[str, Any]) -> str:
    text = msgspec.json.encode(payload).decode()
    return text if len(text) <= 300 else f"{text[:297]}..."
