"""Histories: a class changes step by step, events of each step are stored, and each verdict is held against them."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from difflib import unified_diff
from types import ModuleType
from typing import Any

import msgspec

from hangarlog import EventRegistry, EventSerializer, UpcasterChain
from hangarlog.errors import HangarlogError
from hangarlog.schema.check import Finding, check, failing
from hangarlog.schema.lockfile import SchemaLock
from hangarlog.schema.locking import make_lock

from .evolution import Evolution
from .payloads import Hints, NoPayloadError, Payloads, has_values
from .truth import Object, Readings, forget_classes, meaning, unkept
from .worlds import ROOT, World, load, source, unload

LEAST, MOST = 24, 60  # Events that each class stores.
SEARCHED = 300  # Further events of each class, made to show that an alarm is true.

_NOTED = {"rounded": "2^53 would change", "order": "order and repeated values", "moved": "another field's"}
"""Losses that a check which passes must note, with the words of the note."""

Step = list[tuple[str, str, Any]]
"""An upcaster: ("move", name, new name), ("put", name, value) or ("drop", name, None)."""


def stepped(data: dict[str, Any], step: Step) -> dict[str, Any]:
    """A payload after a step."""
    made = dict(data)
    for what, name, value in step:
        if what == "put":
            made.setdefault(name, value)
        elif name in made:
            moved = made.pop(name)
            if what == "move":
                made[value] = moved
    return made


class App:
    """An application: its classes at a version, and the steps from all versions before.

    Raises anything: Python, msgspec and hangarlog refuse many classes.
    """

    def __init__(self, world: World, steps: Sequence[Step] = ()) -> None:
        self.world, self.steps, self.module = world, list(steps), load(world)
        try:
            registry, chain = EventRegistry(), UpcasterChain()
            registry.event(getattr(self.module, ROOT), name=ROOT, version=len(steps) + 1)
            for at, step in enumerate(steps, 1):
                chain.upcaster(ROOT, at)(lambda data, step=step: stepped(data, step))
            self.serializer = EventSerializer(chain, registry=registry)
        except BaseException:
            unload(self.module)
            raise

    def written(self, least: int, most: int, choose: random.Random, hints: Hints) -> Iterator[bytes]:
        """Events as they are stored. Those that the class refuses are left out."""
        decode = msgspec.json.Decoder(getattr(self.module, ROOT)).decode
        for payload in Payloads(self.world, self.module, choose, hints).some(least, most):
            try:
                event = decode(msgspec.json.encode(payload))
                yield self.serializer.serialize(event)[1].encode()
            except Exception:  # Such as a set of what cannot be in one.
                continue

    def read(self, raw: bytes) -> Any:
        return meaning(self.serializer.deserialize(ROOT, raw))


@dataclass
class Counts:
    """What a campaign has counted."""

    pairs: int = 0
    passed: int = 0
    events: int = 0
    decoded: int = 0
    refused: int = 0
    untried: int = 0
    changes: Counter[str] = field(default_factory=Counter)
    alarms: Counter[str] = field(default_factory=Counter)
    false: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        """Add what another process has counted."""
        for each in fields(Counts):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True)
class Wrong:
    """A verdict that stored events contradict: `kind` is "miss" or "false alarm"; `why` has a line for each cause."""

    kind: str
    seed: int
    why: tuple[str, ...]
    shown: str


class History:
    """One class from its first version on. `wrong` are the verdicts that its events contradict."""

    def __init__(self, seed: int, counts: Counts) -> None:
        self.seed, self.counts = seed, counts
        self.choose = random.Random(seed)
        self.evolution = Evolution(self.choose)
        self.apps: list[App] = []
        self.stored: list[tuple[bytes, Any]] = []
        self.lock = SchemaLock()
        self.wrong: list[Wrong] = []

    def run(self) -> None:
        try:
            self._start(self._accepted(self._first_world))
            for _ in range(self.choose.randint(1, 4)):
                if not self._take_step():
                    return
        finally:
            for app in self.apps:
                unload(app.module)
            forget_classes()

    def _accepted(self, make: Callable[[], World], steps: Sequence[Step] = ()) -> App:
        """An application of a world that is not refused."""
        while True:
            try:
                return App(make(), steps)
            except Exception:  # Python, msgspec and hangarlog refuse what they cannot take.
                self.counts.refused += 1

    def _start(self, app: App) -> None:
        self.apps.append(app)
        self.lock = make_lock(app.serializer, self.lock)

    def _take_step(self) -> bool:
        """Change the class, check the change, and hold the verdict against the events. False ends the history."""
        before, titles = self.apps[-1], list[str]()
        app = self._accepted(lambda: self._next_world(before.world, titles), before.steps)
        self._store(before, Hints([before.world, app.world]))
        if not self.stored:  # Such as a class whose default raises.
            unload(app.module)
            return False
        self.counts.changes.update(titles)
        breaks = self._judge(app, titles, [])
        if breaks:
            unload(app.module)
            if self.choose.random() < 0.4:
                return False
            step = self._step(before, app)
            try:
                app = App(app.world, [*before.steps, step])
            except HangarlogError:
                return False
            if self._judge(app, [*titles, f"raised, with {step}"], step):
                unload(app.module)
                return False
        self._start(app)
        return True

    def _first_world(self) -> World:
        made = self.evolution.first()
        if not has_values(made):
            raise ValueError("a class has no values")
        return made

    def _next_world(self, world: World, titles: list[str]) -> World:
        titles.clear()
        made = world
        for _ in range(self.choose.choice((1, 1, 1, 1, 1, 2, 3))):
            made, title = self.evolution.next(made)
            titles.append(title.partition(": ")[2])
        if made == world or not has_values(made):
            raise ValueError("nothing changes, or a class has no values")
        return made

    def _store(self, app: App, hints: Hints) -> None:
        for raw in app.written(LEAST, MOST, self.choose, hints):
            self.stored.append((raw, app.read(raw)))
            self.counts.events += 1

    def _step(self, before: App, app: App) -> Step:
        """An upcaster for the event's own fields, from which a part may be missing."""
        old, new = (
            {wire: by_name[name] for name, wire in _wire_names(each) if (by_name := _fields(each))}
            for each in (before, app)
        )
        gone, more = [name for name in old if name not in new], [name for name in new if name not in old]
        step: Step = []
        for name in gone:
            if more and self.choose.random() < 0.6:
                step.append(("move", name, more.pop(self.choose.randrange(len(more)))))
            else:
                step.append(("drop", name, None))
        payloads = Payloads(app.world, app.module, self.choose, Hints())
        for name in [*more, *(name for name in old if name in new and self.choose.random() < 0.2)]:
            try:
                value = payloads.of(new[name].type)
            except (NoPayloadError, RecursionError):
                continue
            step.append(("put", name, value))
            if name in old and old[name].type != new[name].type and self.choose.random() < 0.7:
                step.insert(len(step) - 1, ("drop", name, None))
        if step and self.choose.random() < 0.15:
            del step[self.choose.randrange(len(step))]
        return step

    def _judge(self, app: App, titles: list[str], step: Step) -> bool:
        """Hold the verdict on a change against the stored events. True if the check says that it breaks."""
        counts = self.counts
        counts.pairs += 1
        with loaded(app.module):
            found = check(app.serializer, self.lock)
            if failing(found):
                causes = alarm_texts(failing(found))
                counts.alarms.update(map(alarm_kind, causes))
                if not (_is_on_purpose(app.steps, causes) or self._is_shown(app, step)):
                    counts.false.update(map(alarm_kind, causes))
                    self._note("false alarm", app, titles, causes)
                return True
            counts.passed += 1
            readings, read = Readings(), []
            details = [detail for each in found for detail in each.details]
            noted = tuple(why for why, words in _NOTED.items() if any(words in detail for detail in details))
            untried = any(each.kind == "untried" for each in found)
            for raw, was in self.stored:
                counts.decoded += 1
                why, now = evidence(app, raw, was, step, readings)
                why = [each for each in why if not each.endswith(noted)]
                if why and untried:
                    counts.untried += 1
                    return True
                if why:
                    self._note("miss", app, titles, [*why, raw.decode()])
                    return True
                read.append((raw, now))
            self.stored = read
        return False

    def _is_shown(self, app: App, step: Step) -> bool:
        """True if a stored event shows that the change breaks, or one that is made in order to show it."""
        readings = Readings()
        for raw, was in self.stored:
            self.counts.decoded += 1
            if evidence(app, raw, was, step, readings)[0]:
                return True
        last, hints = self.apps[-1], Hints([*(each.world for each in self.apps), app.world])
        choose = random.Random(self.seed)  # The search must not change what comes after it.
        for old in reversed(self.apps):
            for raw in old.written(SEARCHED, SEARCHED * 2, choose, hints):
                self.counts.events += 1
                self.counts.decoded += 1
                if evidence(app, raw, last.read(raw), step, readings)[0]:
                    return True
        return False

    def _note(self, kind: str, app: App, titles: list[str], why: Sequence[str]) -> None:
        before = self.apps[-1]
        old, new = (source(each.world).splitlines() for each in (before, app))
        lines = list(unified_diff(old, new, n=100, lineterm=""))[3:]
        first = next((at for at, line in enumerate(lines) if line[1:6] == "class"), 0)
        self.wrong.append(Wrong(kind, self.seed, tuple(why), "\n".join([f"# {', '.join(titles)}", *lines[first:]])))


@contextmanager
def loaded(module: ModuleType) -> Iterator[None]:
    """Keep a module loaded in a block: names in annotations are looked up in it."""
    import sys

    sys.modules[module.__name__] = module
    yield


def _fields(app: App) -> dict[str, Any]:
    return {each.name: each for each in app.world.classes[ROOT].fields}


def _wire_names(app: App) -> list[tuple[str, str]]:
    cls = getattr(app.module, ROOT)
    names = [each.name for each in app.world.classes[ROOT].fields]
    by_name = dict(
        zip(getattr(cls, "__struct_fields__", names), getattr(cls, "__struct_encode_fields__", names), strict=True)
    )
    return [(name, by_name[name]) for name in names]


def evidence(app: App, raw: bytes, was: Any, step: Step, readings: Readings) -> tuple[list[str], Any]:
    """Return (what a read does not keep of an event, what it means now). `was` is what it meant before."""
    try:
        event = app.serializer.deserialize(ROOT, raw)
    except HangarlogError as error:
        return [f"payload: {error}"], None
    now = meaning(event)
    if step:
        was = _after(was, _upcast(raw, app.steps[:-1]), step)
    return list(unkept(was, now, readings)), now


def _upcast(raw: bytes, steps: Sequence[Step]) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.json.decode(raw)
    for step in steps[data.pop("_version", 1) - 1 :]:
        data = stepped(data, step)
    return data


def _after(was: Object, data: dict[str, Any], step: Step) -> Object:
    """What an event means after a step: without what it drops, and with what it moves under the new name."""
    fields = dict(was.fields)
    for what, name, value in step:
        if what == "put":
            if name not in data:
                fields.pop(name, None)
                data[name] = value
        elif name in data:
            data.pop(name)
            moved = fields.pop(name, None)
            if what == "move":
                fields[value], data[value] = moved, moved
        else:
            fields.pop(name, None)
    return Object(was.tag, fields, was.cls)


def _is_on_purpose(steps: Sequence[Step], causes: Sequence[str]) -> bool:
    """True if the check says only of fields that a step drops or moves that they are lost: they are."""
    gone = {name for step in steps for what, name, _ in step if what != "put"}
    lost = [re.match(r"lost: [^']*'([^'.\[{]+)", text) for text in causes]
    return all(each is not None and each[1] in gone for each in lost)


def alarm_texts(found: Sequence[Finding]) -> list[str]:
    """The causes of a failed check, each in a line without its place."""
    texts = []
    for finding in found:
        details = [each.removeprefix("! ") for each in finding.details if each.startswith("! ")]
        if finding.kind == "changed":
            texts += [each.partition(": ")[2] for each in details]
        else:
            texts.append(f"{finding.kind}: {finding.message}")
    return texts


def alarm_kind(text: str) -> str:
    """The kind of an alarm: its text without the values."""
    if text.startswith("unreadable"):
        return "unreadable"
    text = re.sub(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'', "…", text)
    text = re.sub(r"\b(Inner|Part|Docker|Local|Remote|Event)2*\b", "CLASS", text)
    text = re.sub(r"(was|is|be) [\[{].*?[\]}](?=[,:;]|$)", r"\1 …", text)
    text = re.sub(r"-?\b\d[\d.e+]*\b", "…", text)
    return re.sub(r"…(, …)+", "…", text)[:160]
