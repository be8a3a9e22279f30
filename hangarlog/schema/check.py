"""What would make stored events unreadable: an application's classes and upcasters against its schema lock."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Generator, Iterator
from itertools import chain
from typing import Any, Literal

import msgspec

from hangarlog.errors import EventSerializationError, HangarlogError, UpcastingError
from hangarlog.events.serializer import EventSerializer
from hangarlog.schema.compare import Change, breaking, compare, compare_parts
from hangarlog.schema.describe import Schema, describe
from hangarlog.schema.lockfile import LockedType, SchemaLock
from hangarlog.schema.places import changed_defaults, is_closed, places, unknown
from hangarlog.schema.purity import ImpureUpcasterError, pure_path
from hangarlog.schema.sample import CannotSampleError, samples
from hangarlog.schema.shape import patterns_of, text_of
from hangarlog.schema.skeleton import skeleton

Kind = Literal[
    # These fail a check.
    "vanished",  # a type that the lock or the store knows, and the application no longer does
    "alias lost",  # a former name that is no longer registered
    "changed",  # another wire shape under the same version
    "lowered",  # a version below the locked one
    "gap",  # a version without a step to the next
    "unreadable",  # events of a version that do not reach the class
    "lost",  # a value that an upcaster leaves under a name the class does not have, or to a default that was another
    "impure",  # an upcaster that depends on more than its payload, or changes it
    # These do not.
    "new",  # a type that is not in the lock yet
    "compatible",  # a change that old events do not notice
    "raised",  # a version above the locked one, whose chain is whole
    "untried",  # what could not be tried
]
_NOTES = ("new", "compatible", "raised", "untried")
_STRUCTURAL = (KeyError, IndexError, AttributeError, TypeError, NameError)
"""What an upcaster raises that does not fit its payloads' shape. Other errors may be of a made-up value."""

_MAX_HINTS = 100
"""For so many types that have vanished it is looked for one that has taken their place."""

_NOWHERE: Any = object()


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing a check has to say. `details` are the changes field by field, `code` the upcaster to write."""

    event_type: str
    kind: Kind
    message: str
    version: int | None = None
    details: list[str] = []
    code: str = ""

    @property
    def fails(self) -> bool:
        """Whether history would become unreadable."""
        return self.kind not in _NOTES


def failing(findings: Collection[Finding]) -> list[Finding]:
    """Those that fail a check."""
    return [finding for finding in findings if finding.fails]


def check(serializer: EventSerializer, lock: SchemaLock) -> list[Finding]:
    """Everything there is to say about an application's event types, in the order of their names.

    No store is needed: events of every locked version are made up from its wire shape, and read through the chain,
    whose steps are run twice each and watched for being pure.
    """
    registry = serializer.registry
    names = {*lock.events, *registry.types, *registry.versions, *serializer.chain.split_types()} - {*registry.dropped}
    findings: list[Finding] = []
    said: set[tuple[str, int]] = set()
    today = _Today(serializer)
    known: dict[str, dict[str, Schema]] = {}
    for name, locked in lock.events.items():
        known.setdefault(registry.canonical_name(name), {}).update(locked.schemas)
    for name in sorted(names):
        shapes = known.get(registry.canonical_name(name), {})
        findings += _TypeCheck(today, name, lock.events.get(name), shapes, said).findings()
    return findings


class _Today:
    """The wire shapes of an application's classes, and the patterns in them, which may be run: they are its own."""

    def __init__(self, serializer: EventSerializer) -> None:
        self.serializer = serializer
        self.shapes: dict[str, Schema] = {}
        for name, event_class in serializer.registry.types.items():
            if serializer.registry.canonical_name(name) == name:
                with contextlib.suppress(EventSerializationError):
                    self.shapes[name] = describe(name, event_class, serializer.enc_hook)
        self.patterns = {*chain.from_iterable(map(patterns_of, self.shapes.values()))}
        self.hints = _MAX_HINTS


class _TypeCheck:
    """One stored event type. `shapes` are those of all names of its class, `said` the impure steps told of already."""

    def __init__(
        self,
        today: _Today,
        name: str,
        locked: LockedType | None,
        shapes: dict[str, Schema],
        said: set[tuple[str, int]],
    ) -> None:
        serializer, self._today = today.serializer, today
        registry, self._chain = serializer.registry, serializer.chain
        self._serializer, self._name, self._locked = serializer, name, locked
        self._shapes, self._said = shapes, said
        self._class = registry.types.get(name)
        self._canonical = registry.canonical_name(name)
        self._split = self._chain.split_of(name)
        self._target = registry.target_version(name)
        self._goal = "cannot be split" if self._split else f"do not reach v{self._target}"
        # What its class wrote under another name is tried there, but for what is done otherwise under this one.
        own_steps = any(event_type == name for event_type, _, _ in self._chain.steps())
        self._alone = self._canonical != name and (own_steps or self._canonical in registry.dropped)
        self._schema: Schema | None = None
        self._impure: set[int] = set()

    def findings(self) -> Iterator[Finding]:
        locked = self._locked
        if self._class is None and self._split is None:
            if locked is None:
                yield self._finding("vanished", "it has a version in the registry, but no class")
            else:
                yield self._vanished(locked)
            return
        try:
            if self._class is not None:
                self._schema = describe(self._name, self._class, self._serializer.enc_hook)
        except EventSerializationError as error:
            yield self._finding("unreadable", error.message)
            return
        gaps = list(self._gaps())
        yield from gaps
        highest = self._highest(locked) if locked else 0
        if self._split and self._class is not None and self._target <= self._split[0]:
            message = f"it is split at v{self._split[0]}, so its class must be of a later version than {self._target}"
            yield self._finding("lowered", message)
        elif locked is None:
            if self._canonical == self._name:
                yield self._finding("new", f"not in the lock yet, at version {self._target}")
        elif locked.alias_of and self._serializer.registry.canonical_name(locked.alias_of) != self._canonical:
            message = f"it was a former name of {locked.alias_of}, and is read as {self._canonical} now"
            yield self._finding("alias lost", message)
        elif (reaches := self._target if self._class is not None else self._split[0] if self._split else 0) < highest:
            message = f"was at version {highest}, is at {reaches}: what was written since cannot be read"
            yield self._finding("lowered", message)
        else:
            yield from self._against(locked, bool(gaps))

    def _highest(self, locked: LockedType) -> int:
        """The highest version that is to be read: what was only seen in a store counts unless `newer` lets it pass."""
        passed_over = locked.inferred if self._serializer.newer != "error" else []
        return max([locked.version, *(version for version in locked.versions() if version not in passed_over)])

    def _finding(self, kind: Kind, message: str, **more: Any) -> Finding:
        return Finding(self._name, kind, message, **more)

    def _vanished(self, locked: LockedType) -> Finding:
        if locked.alias_of is not None:
            return self._finding(
                "alias lost",
                f"it is a former name of {locked.alias_of}, and no longer registered as one: events stored under it "
                f"cannot be read; add it to the aliases of {locked.alias_of}",
            )
        was = "was dropped on purpose and no longer is" if locked.dropped else "is in the lock, but not registered"
        alike = self._alike(locked)
        if alike:
            was += f" (is it {alike} now?)"
        return self._finding(
            "vanished",
            f"it {was}: events stored of it cannot be read; keep the class, name it in the aliases of "
            f"the class that has taken its place, or pass it over on purpose: "
            f'serializer.registry.drop("{self._name}", reason=…)',
            version=locked.version,
        )

    def _alike(self, locked: LockedType) -> str | None:
        """The one registered type that takes what this one wrote, if there is only one."""
        schema = locked.schema(locked.version)
        self._today.hints -= 1
        if schema is None or self._today.hints < 0:
            return None
        found = [name for name, other in self._today.shapes.items() if not breaking(compare(schema, other))]
        return found[0] if len(found) == 1 else None

    def _gaps(self) -> Iterator[Finding]:
        own = set(self._chain.gaps(self._canonical, self._target)) if self._canonical != self._name else set()
        for version in self._chain.gaps(self._name, self._target, self._canonical):
            if version not in own:  # Else it is said of the name it has today.
                yield self._finding(
                    "gap",
                    f"Missing upcaster v{version} -> v{version + 1}, on the way to v{self._target}",
                    version=version,
                    details=[str(change) for change in self._changes(version)],
                    code=self._skeleton(version),
                )

    def _changes(self, version: int) -> list[Change]:
        before, after = self._shape(version), self._shape(version + 1)
        return compare_parts(before, after, before, after) if before is not None and after is not None else []

    def _skeleton(self, version: int) -> str:
        return skeleton(self._canonical, version, self._shape(version), self._shape(version + 1))

    def _shape(self, version: int) -> Schema | None:
        locked = self._locked.schema(version) if self._locked else None
        if locked is None:
            locked = self._shapes.get(str(version)) if version < self._target else self._schema
        return locked

    def _against(self, locked: LockedType, has_gaps: bool) -> Iterator[Finding]:
        same = self._written(locked, self._target) if self._class is not None else None
        if self._target in locked.inferred:
            same = None  # What happened to be stored is no promise.
        changes = compare(same, self._schema) if same is not None and self._schema is not None else []
        if breaking(changes):
            assert same is not None
            yield self._changed(same, changes)
        elif changes:
            yield self._finding(
                "compatible",
                f"has changed at version {self._target}, and old events do not notice; record it with "
                "`hangarlog schema lock`",
                version=self._target,
                details=list(map(str, changes)),
            )
        elif self._class is not None and self._target > locked.version and not has_gaps:
            yield self._finding("raised", f"from version {locked.version} to {self._target}", version=self._target)
        if locked.dropped is not None and not locked.schemas:
            message = "it was dropped before its shape was locked: only `check --store` can try what is stored of it"
            yield self._finding("untried", message)
        last = self._split[0] if self._split else self._target - 1
        for version in range(1, last + 1):
            schema = self._written(locked, version)
            if schema is not None:
                yield from self._try(version, schema, has_gaps)
            elif locked.schemas and version < locked.version and str(version) not in self._shapes:
                yield self._finding(
                    "untried",
                    f"version {version} is not in the lock, so it was not tried; `hangarlog schema lock --store` "
                    "gathers its shape from stored events",
                    version=version,
                )

    def _written(self, locked: LockedType, version: int) -> Schema | None:
        """The wire shape at a version that has to be tried under this name."""
        return locked.schema(version) or (self._shapes.get(str(version)) if self._alone else None)

    def _changed(self, same: Schema, changes: list[Change]) -> Finding:
        version = self._target
        return self._finding(
            "changed",
            f"has changed, but not its version {version}; raise it to {version + 1} and write the upcaster below. "
            + self._evidence(same),
            version=version,
            details=[f"{'!' if change.breaking else ' '} {change}" for change in changes],
            code=skeleton(self._canonical, version, same, self._schema),
        )

    def _evidence(self, schema: Schema) -> str:
        """Whether old events can still be read at all."""
        tried, failed, cause = 0, 0, ""
        try:
            for payload in samples(schema, self._today.patterns):
                tried += 1
                try:
                    self._read(self._target, payload)
                except HangarlogError as error:
                    failed, cause = failed + 1, cause or str(error)
        except CannotSampleError as error:
            return f"Whether old events can be read was not tried: {error}"
        if failed:
            return f"Of {tried} events made up from the locked shape {failed} cannot be read: {cause}"
        return "Old events can be read, but not as what they were written"

    def _read(self, version: int, payload: dict[str, Any]) -> list[Any]:
        raw = msgspec.json.encode({"_version": version, **payload})
        return self._serializer.deserialize_all(self._name, raw)

    def _try(self, version: int, schema: Schema, has_gaps: bool) -> Iterator[Finding]:
        """Events of a former version, made up, through the chain into the class."""
        tried = 0
        doubts: list[str] = []
        gathered = self._locked is not None and version in self._locked.inferred
        try:
            for payload in samples(schema, self._today.patterns):
                tried += 1
                reached = yield from self._walk(version, payload)
                if has_gaps or reached is _NOWHERE:
                    continue
                try:
                    events = self._read(version, payload)
                except HangarlogError as error:
                    if _is_structural(error, payload, schema) and not gathered:
                        yield self._unreadable(version, payload, error)
                        return
                    doubts.append(f"{error}, as {_text(payload)}")
                    continue
                lost = None if reached is None else self._lost(reached, events)
                if lost is None and reached is not None and not gathered:
                    lost = self._defaulted(version, payload, reached, schema)
                if lost is not None:
                    yield lost
                    return
        except CannotSampleError as error:
            yield self._finding("untried", f"v{version}: {error}", version=version)
        if doubts:
            message = (
                f"{len(doubts)} of {tried} events made up from the shape of v{version} cannot be read: {doubts[0]}"
            )
            kind: Kind = "unreadable" if len(doubts) == tried else "untried"
            yield self._finding(kind, message, version=version)

    def _unreadable(self, version: int, payload: dict[str, Any], error: HangarlogError) -> Finding:
        return self._finding(
            "unreadable",
            f"events of v{version} {self._goal}: {error}; such as {_text(payload)}",
            version=version,
        )

    def _walk(self, version: int, payload: dict[str, Any]) -> Generator[Finding, None, Any]:
        """What the upcasters make of a payload, `_NOWHERE` where that is not to be had."""
        try:
            return pure_path(self._serializer, self._name, version, payload, self._impure)
        except ImpureUpcasterError as error:
            self._impure.add(error.version)
            if (self._canonical, error.version) not in self._said:  # Its former names use the same steps.
                self._said.add((self._canonical, error.version))
                yield self._finding("impure", str(error), version=error.version)
            return _NOWHERE
        except (UpcastingError, SystemExit):
            return _NOWHERE  # A gap, or a step that ends the program and was told of.
        except Exception:
            return None  # Whatever an upcaster raises: reading will say so.

    def _lost(self, reached: Any, events: list[Any]) -> Finding | None:
        """What the upcasters, or a splitter, leave under names that the classes do not have."""
        registry, own = self._serializer.registry, _own_names(events)
        for event_type, payload in reached if isinstance(reached, list) else [(self._name, reached)]:
            schema, target = self._schema_of(event_type), registry.target_version(event_type)
            goes_on = isinstance(reached, list) and payload.get("_version", 1) != target
            if schema is None or goes_on or event_type in registry.dropped:
                continue
            for path in unknown(places(payload, schema)):
                if path not in own:
                    what = f"{registry.canonical_name(event_type)} v{target}"
                    return self._finding(
                        "lost",
                        f"the upcasters leave {path!r} in the payload, which {what} does not have, so its value would "
                        "be lost; give it the name of a field, or take it out to say that it goes",
                        version=target,
                    )
        return None

    def _defaulted(self, version: int, payload: dict[str, Any], reached: Any, schema: Schema) -> Finding | None:
        """What the upcasters leave to a default that was another when it was stored."""
        if self._schema is None or isinstance(reached, list):
            return None
        for path, then, now in changed_defaults(payload, reached, schema, self._schema):
            return self._finding(
                "lost",
                f"the upcasters leave out {path!r}, whose default was {text_of(then)} in v{version} and is "
                f"{text_of(now)} now: events stored without it would change; write into the payload what it was",
                version=version,
            )
        return None

    def _schema_of(self, event_type: str) -> Schema | None:
        if event_type == self._name:
            return self._schema
        event_class = self._serializer.registry.types.get(event_type)
        return None if event_class is None else describe(event_type, event_class, self._serializer.enc_hook)


def _own_names(events: list[Any]) -> set[str]:
    """What payloads may hold beside fields: what events carry as attributes of their own, as those of MCP Hangar."""
    extras = [vars(event) for event in events if hasattr(event, "__dict__")]
    return {"_version", *chain.from_iterable(extras), *(("event_id", "occurred_at") if extras else ())}


def _is_structural(error: HangarlogError, payload: dict[str, Any], schema: Schema) -> bool:
    cause = error.__cause__
    if isinstance(error, UpcastingError):
        if isinstance(cause, KeyError) and _is_made_up(cause.args, payload, schema):
            return False  # A table of what there really was, asked for another value.
        return cause is None or isinstance(cause, _STRUCTURAL)
    if isinstance(cause, msgspec.ValidationError):
        return cause.__cause__ is None  # Else a hook or a validator of the user's has refused a made-up value.
    return True


def _is_made_up(missing: tuple[Any, ...], payload: dict[str, Any], schema: Schema) -> bool:
    """Whether the key that is missing is a value of the payload which its shape does not name."""
    return any(
        part is not None and not is_closed(part) and type(value) is type(key) and value == key
        for key in missing[:1]
        for _, value, part in places(payload, schema)
    )


def _text(payload: dict[str, Any]) -> str:
    text = msgspec.json.encode(payload).decode()
    return text if len(text) <= 300 else f"{text[:297]}..."
