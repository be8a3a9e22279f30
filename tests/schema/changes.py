"""Changes an application can make to its events: those that make history unreadable, and those that do not.

`python -m tests.schema.changes` writes docs/schema-changes.md anew; a test compares it with what the check says.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hangarlog.schema.check import Finding, check, failing
from hangarlog.schema.lockfile import SchemaLock, read_lock, write_lock
from hangarlog.schema.locking import make_lock
from hangarlog.schema.target import load_events

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "schema-changes.md"

_HEAD = """
import _thread, dataclasses, datetime, enum, functools, hashlib, itertools, os, random, time, uuid
from typing import Annotated, Any, Literal
import attrs, msgspec
from msgspec import Meta, Struct, field
from hangarlog import EventRegistry, EventSerializer, UpcasterChain

registry, chain = EventRegistry(), UpcasterChain()
event = registry.event
serializer = EventSerializer(chain, registry=registry)
"""


@dataclass(frozen=True)
class Change:
    """An application's module before and after; what is expected of the check, None where it must not fail."""

    title: str
    before: str
    after: str
    expected: str | None = None


_STARTED = "@event\nclass Started(Struct):\n    provider_id: str\n    mode: str = 'subprocess'\n"
_V2 = "@event(version=2)\nclass Started(Struct):\n    provider_id: str\n    tags: list[str]\n    mode: str = 'subprocess'\n"
_STEP = "@chain.upcaster('Started', 1)\ndef with_tags(data): return {{{}}}\n"


def _started(fields: str) -> str:
    return f"@event\nclass Started(Struct):\n    provider_id: str\n    {fields}\n"


def _field(title: str, before: str, after: str, expected: str | None = None) -> Change:
    return Change(title, _started(f"x: {before}"), _started(f"x: {after}"), expected)


def _upcaster(title: str, body: str, expected: str | None = "impure") -> Change:
    return Change(title, _STARTED, _V2 + _STEP.format(body), expected)


_INNER = "class Inner(Struct):\n    a: int\n"
_HOLDER = "@event\nclass Started(Struct):\n    inner: {}\n"
_UNION = (
    "class Docker(Struct, tag='docker'):\n    image: str\n"
    "class Local(Struct, tag={tag!r}):\n    path: str\n"
    "@event\nclass Started(Struct):\n    how: {union}\n"
)
_COLOUR = "class Colour(enum.Enum):\n    {}\n@event\nclass Started(Struct):\n    colour: Colour\n"
_PAIR = "class Pair(Struct, array_like=True):\n    {}\n@event\nclass Started(Struct):\n    pair: Pair\n"
_ORDERED = "@event\nclass Ordered(Struct):\n    item: str\n    price: int\n"
_SPLIT = (
    "@event\nclass Requested(Struct):\n    item: str\n@event\nclass Priced(Struct):\n    price: int\n"
    "@chain.splitter('Ordered', 1)\n"
    "def split(data): return [('Requested', {{'item': data['item']}}), ({second!r}, {{'price': data['price']}})]\n"
)
_RENAMED = _STARTED.replace("Started", "Begun")
_RENAMED_WITH_ALIAS = _RENAMED.replace("@event", "@event(aliases=['Started'])")
_ALIASED = _STARTED.replace("@event", "@event(aliases=['Begun'])")

BREAKING = [
    Change("a field is renamed", _STARTED, _STARTED.replace("provider_id", "server_id"), "changed"),
    Change("a field with a default is renamed", _STARTED, _STARTED.replace("mode", "kind"), "changed"),
    Change("a field is removed", _STARTED, _STARTED.replace("    mode: str = 'subprocess'\n", ""), "changed"),
    Change(
        "a field without a default is added", _STARTED, _STARTED.replace("    mode", "    n: int\n    mode"), "changed"
    ),
    _field("a field's name on the wire changes", "int", "int = field(name='y')", "changed"),
    _field("a type changes", "str", "int", "changed"),
    _field("a type is narrowed", "float", "int", "changed"),
    _field("None is no longer taken", "int | None", "int", "changed"),
    _field("any value becomes one type", "Any", "str", "changed"),
    _field("a default is removed", "int = 0", "int", "changed"),
    _field("a default changes", "int = 0", "int = 1", "changed"),
    _field("a Literal loses a value", "Literal['a', 'b']", "Literal['a']", "changed"),
    _field("text becomes a Literal", "str", "Literal['a']", "changed"),
    _field("a mapping's values change", "dict[str, int]", "dict[str, str]", "changed"),
    _field("a mapping's keys change", "dict[str, int]", "dict[int, int]", "changed"),
    _field(
        "a mapping must hold something", "dict[str, int]", "Annotated[dict[str, int], Meta(min_length=1)]", "changed"
    ),
    _field("a list's items change", "list[int]", "list[str]", "changed"),
    _field("a list becomes a set", "list[int]", "set[int]", "changed"),
    _field("a tuple becomes longer", "tuple[int, str]", "tuple[int, str, int]", "changed"),
    _field("a lower bound is added", "int", "Annotated[int, Meta(ge=0)]", "changed"),
    _field(
        "a length is bounded more tightly",
        "Annotated[str, Meta(max_length=9)]",
        "Annotated[str, Meta(max_length=5)]",
        "changed",
    ),
    _field(
        "a factory of defaults gives others",
        "list[int] = field(default_factory=lambda: [1])",
        "list[int] = field(default_factory=lambda: [2])",
        "changed",
    ),
    _field("a Literal becomes numbers that leave one out", "Literal[0, 1]", "Annotated[int, Meta(ge=1)]", "changed"),
    _field("a pattern is added", "str", "Annotated[str, Meta(pattern='^a')]", "changed"),
    _field("text becomes a time", "str", "datetime.datetime", "changed"),
    _field("a time must have a zone", "datetime.datetime", "Annotated[datetime.datetime, Meta(tz=True)]", "changed"),
    _field("bytes become text", "bytes", "str", "changed"),
    Change(
        "an enum loses a value", _COLOUR.format("RED = 'red'; BLUE = 'blue'"), _COLOUR.format("RED = 'red'"), "changed"
    ),
    Change(
        "an enum's value is spelled otherwise", _COLOUR.format("RED = 'red'"), _COLOUR.format("RED = 'Red'"), "changed"
    ),
    Change(
        "a nested field is renamed",
        _INNER + _HOLDER.format("Inner"),
        _INNER.replace("a:", "b:") + _HOLDER.format("Inner"),
        "changed",
    ),
    Change(
        "a nested field gets another type",
        _INNER + _HOLDER.format("list[Inner]"),
        _INNER.replace("int", "str") + _HOLDER.format("list[Inner]"),
        "changed",
    ),
    Change(
        "a nested field without a default is added",
        _INNER + _HOLDER.format("dict[str, Inner]"),
        _INNER + "    b: int\n" + _HOLDER.format("dict[str, Inner]"),
        "changed",
    ),
    Change(
        "a nested object becomes a mapping of numbers",
        _INNER + _HOLDER.format("Inner"),
        _HOLDER.format("dict[int, int]"),
        "changed",
    ),
    Change(
        "a union loses an alternative",
        _UNION.format(tag="local", union="Docker | Local"),
        _UNION.format(tag="local", union="Docker"),
        "changed",
    ),
    Change(
        "a union's tag changes",
        _UNION.format(tag="local", union="Docker | Local"),
        _UNION.format(tag="process", union="Docker | Local"),
        "changed",
    ),
    Change(
        "a union becomes one class without a tag",
        _UNION.format(tag="local", union="Docker | Local"),
        "class How(Struct):\n    image: str = ''\n    path: str = ''\n" + _HOLDER.format("How").replace("inner", "how"),
        "changed",
    ),
    Change(
        "the fields of an array change places",
        _PAIR.format("a: int; b: str"),
        _PAIR.format("b: str; a: int"),
        "changed",
    ),
    Change(
        "the default of an array's field changes",
        _PAIR.format("a: int; b: str = 'x'"),
        _PAIR.format("a: int; b: str = 'y'"),
        "changed",
    ),
    Change(
        "a field of a base class is renamed",
        "class Base(Struct):\n    at: float\n@event\nclass Started(Base): pass\n",
        "class Base(Struct):\n    when: float\n@event\nclass Started(Base): pass\n",
        "changed",
    ),
    Change(
        "a dataclass loses a default",
        "@event\n@dataclasses.dataclass\nclass Started:\n    a: int = 1\n",
        "@event\n@dataclasses.dataclass\nclass Started:\n    a: int\n",
        "changed",
    ),
    Change("a name is used for another event", _STARTED, "@event\nclass Started(Struct):\n    count: int\n", "changed"),
    Change("a version is raised without an upcaster", _STARTED, _V2, "gap"),
    Change(
        "a chain has a hole",
        _STARTED,
        _V2.replace("version=2", "version=3") + _STEP.format("**data, 'tags': []"),
        "gap",
    ),
    Change("a version is lowered", _V2 + _STEP.format("**data, 'tags': []"), _V2.replace("(version=2)", ""), "lowered"),
    Change("a type is deleted", _STARTED + _ORDERED, _ORDERED, "vanished"),
    Change("a type is renamed without an alias", _STARTED, _RENAMED, "vanished"),
    Change("an alias is lost", _ALIASED, _STARTED, "alias lost"),
    Change(
        "an alias goes to another class",
        _ALIASED + _ORDERED,
        _STARTED + _ORDERED.replace("@event", "@event(aliases=['Begun'])"),
        "alias lost",
    ),
    Change(
        "a dropped type is no longer dropped",
        "registry.drop('Noise', reason='never read')\n" + _STARTED,
        _STARTED,
        "vanished",
    ),
    _upcaster("an upcaster asks for the time", "**data, 'tags': [str(time.time())[:0]]"),
    Change(
        "an upcaster asks for the time once",
        _STARTED,
        _V2 + "@functools.cache\ndef at(): return str(time.time())\n" + _STEP.format("**data, 'tags': [at()]"),
        "impure",
    ),
    _upcaster("an upcaster takes a random number", "**data, 'tags': ['x' * int(random.random())]"),
    _upcaster("an upcaster makes an id", "**data, 'tags': [str(uuid.uuid4())]"),
    _upcaster("an upcaster asks the environment", "**data, 'tags': [os.environ.get('HOME', '')]"),
    _upcaster("an upcaster looks at files", "**data, 'tags': [str(os.path.getsize(os.devnull))]"),
    _upcaster("an upcaster lists the environment", "**data, 'tags': sorted(os.environ)[:0]"),
    _upcaster("an upcaster starts a thread", "**data, 'tags': [str(_thread.start_new_thread(time.time, ()))[:0]]"),
    Change(
        "an upcaster gives a list that it goes on filling",
        _STARTED,
        _V2
        + "_tags = []\n@chain.upcaster('Started', 1)\ndef with_tags(data):\n"
        + "    _tags.append('x')\n    return {**data, 'tags': _tags}\n",
        "impure",
    ),
    Change(
        "an upcaster counts its calls",
        _STARTED,
        _V2 + "_calls = itertools.count()\n" + _STEP.format("**data, 'tags': [str(next(_calls))]"),
        "impure",
    ),
    Change(
        "an upcaster changes what it is given",
        _STARTED,
        _V2 + "@chain.upcaster('Started', 1)\ndef with_tags(data):\n    data['tags'] = []\n    return data\n",
        "impure",
    ),
    _upcaster("an upcaster relies on an optional field", "**data, 'tags': [data['mode']]", "unreadable"),
    _upcaster("an upcaster gives another type", "**data, 'tags': None", "unreadable"),
    _upcaster("an upcaster forgets the new field", "**data", "unreadable"),
    Change(
        "an upcaster gives nothing back",
        _STARTED,
        _V2 + "@chain.upcaster('Started', 1)\ndef with_tags(data): dict(data, tags=[])\n",
        "unreadable",
    ),
    Change(
        "an upcaster's table lacks a value of a Literal",
        _started("x: Literal['a', 'b', 'c']"),
        _started("x: int").replace("@event", "@event(version=2)")
        + _STEP.format("**data, 'x': {'a': 1, 'b': 2}[data['x']]"),
        "unreadable",
    ),
    Change(
        "an upcaster leaves a value that an array has no field for",
        _PAIR.format("a: int; b: str"),
        _PAIR.format("a: int").replace("@event", "@event(version=2)") + _STEP.format("**data"),
        "lost",
    ),
    _upcaster(
        "an upcaster misspells a field that has a default",
        "**{k: v for k, v in data.items() if k != 'mode'}, 'tags': [], 'mod': 'x'",
        "lost",
    ),
    Change(
        "a default changes with the version, and the upcaster does not write down the old one",
        _STARTED,
        _V2.replace("= 'subprocess'", "= 'docker'") + _STEP.format("**data, 'tags': []"),
        "lost",
    ),
    Change(
        "an upcaster forgets a value that an enum has lost",
        _COLOUR.format("RED = 'red'; BLUE = 'blue'"),
        _COLOUR.format("RED = 'red'").replace("@event", "@event(version=2)") + _STEP.format("**data"),
        "unreadable",
    ),
    Change(
        "a splitter gives nothing back",
        _ORDERED,
        "@chain.splitter('Ordered', 1)\ndef split(data): [('Requested', {'item': data['item']})]\n",
        "unreadable",
    ),
    Change("a type is split into one that nobody knows", _ORDERED, _SPLIT.format(second="Costed"), "unreadable"),
    Change(
        "a type is split, and its class keeps the version",
        _ORDERED,
        _ORDERED + _SPLIT.format(second="Priced"),
        "lowered",
    ),
    Change(
        "a splitter misspells a field that has a default",
        _ORDERED,
        _SPLIT.format(second="Priced").replace("'item': data", "'itm': data").replace("item: str", "item: str = ''"),
        "lost",
    ),
    Change(
        "a splitter takes a field that is not there",
        _ORDERED,
        _SPLIT.format(second="Priced").replace("data['price']", "data['cost']"),
        "unreadable",
    ),
]

HARMLESS = [
    Change("nothing changes", _STARTED, _STARTED),
    Change("a field with a default is added", _STARTED, _STARTED + "    tags: list[str] = []\n"),
    Change("a new type is added", _STARTED, _STARTED + _ORDERED),
    _field("None is taken, too", "int", "int | None"),
    _field("another type is taken, too", "str", "str | int"),
    _field("whole numbers become numbers", "int", "float"),
    _field("a field gets a default", "int", "int = 3"),
    _field("a Literal gains a value", "Literal['a']", "Literal['a', 'b']"),
    _field("a Literal becomes text", "Literal['a']", "str"),
    _field("a bound is loosened", "Annotated[int, Meta(ge=0, lt=9)]", "Annotated[int, Meta(ge=-1, le=9)]"),
    _field("a bound of whole numbers is written otherwise", "Annotated[int, Meta(gt=0)]", "Annotated[int, Meta(ge=1)]"),
    _field("a Literal becomes numbers within bounds", "Literal[1, 2]", "Annotated[int, Meta(ge=1, le=9)]"),
    _field("a Literal of text and None becomes text or None", "Literal['a', None]", "str | None"),
    _field(
        "a factory of defaults is written otherwise",
        "list[int] = field(default_factory=lambda: [1])",
        "list[int] = field(default_factory=lambda: list((1,)))",
    ),
    _field("a pattern is removed", "Annotated[str, Meta(pattern='^a')]", "str"),
    _field("a mapping's keys become text", "dict[int, int]", "dict[str, int]"),
    _field("a tuple of any length becomes a list", "tuple[int, ...]", "list[int]"),
    _field("a set becomes a list", "set[int]", "list[int]"),
    _field("one type becomes any value", "int", "Any"),
    _field("an id becomes text", "uuid.UUID", "str"),
    Change("a field is renamed in Python only", _started("x: int"), _started("y: int = field(name='x')")),
    Change("fields change places", _started("a: int\n    b: str"), _started("b: str\n    a: int")),
    Change(
        "a class gets a docstring and is frozen",
        _STARTED,
        _STARTED.replace("(Struct):", "(Struct, frozen=True):\n    'Started.'"),
    ),
    Change(
        "a dataclass becomes a Struct",
        "@event\n@dataclasses.dataclass\nclass Started:\n    provider_id: str\n    mode: str = 'subprocess'\n",
        _STARTED,
    ),
    Change(
        "an attrs class becomes a dataclass",
        "@event\n@attrs.define\nclass Started:\n    a: int\n",
        "@event\n@dataclasses.dataclass\nclass Started:\n    a: int\n",
    ),
    Change("an enum gains a value", _COLOUR.format("RED = 'red'"), _COLOUR.format("RED = 'red'; BLUE = 'blue'")),
    Change(
        "an enum's member is renamed, not its value", _COLOUR.format("RED = 'red'"), _COLOUR.format("ROUGE = 'red'")
    ),
    Change(
        "a nested class is renamed",
        _INNER + _HOLDER.format("Inner"),
        _INNER.replace("Inner", "Part") + _HOLDER.format("Part"),
    ),
    Change(
        "a nested field with a default is added",
        _INNER + _HOLDER.format("Inner"),
        _INNER + "    b: int = 0\n" + _HOLDER.format("Inner"),
    ),
    Change(
        "a nested object becomes a mapping",
        _INNER + _HOLDER.format("Inner"),
        _HOLDER.format("dict[str, int]"),
    ),
    Change(
        "a union gains an alternative",
        _UNION.format(tag="local", union="Docker"),
        _UNION.format(tag="local", union="Docker | Local"),
    ),
    Change(
        "a class that holds itself gains a field",
        "class Node(Struct):\n    next: 'Node | None' = None\n" + _HOLDER.format("Node"),
        "class Node(Struct):\n    next: 'Node | None' = None\n    name: str = ''\n" + _HOLDER.format("Node"),
    ),
    Change("a type is renamed, with an alias", _STARTED, _RENAMED_WITH_ALIAS),
    Change(
        "a type is dropped on purpose",
        _STARTED + _ORDERED,
        _ORDERED + "registry.drop('Started', reason='never read')\n",
    ),
    Change(
        "a union is one class and None, and the class loses its tag",
        "class Inner(Struct, tag=True):\n    a: int\n" + _HOLDER.format("Inner | None"),
        _INNER + _HOLDER.format("Inner | None"),
    ),
    Change(
        "a type is split, and one part is passed over on purpose",
        _ORDERED,
        _SPLIT.format(second="Priced") + "registry.drop('Priced', reason='never read')\n",
    ),
    Change("a type is split into two", _ORDERED, _SPLIT.format(second="Priced")),
    _upcaster("a version is raised, with its upcaster", "**data, 'tags': []", None),
    _upcaster(
        "an upcaster makes an id of what it is given",
        "**data, 'tags': [str(uuid.uuid5(uuid.NAMESPACE_URL, data['provider_id']))]",
        None,
    ),
    _upcaster(
        "an upcaster works with a digest",
        "**data, 'tags': [hashlib.sha256(data['provider_id'].encode()).hexdigest()]",
        None,
    ),
    _upcaster(
        "an upcaster parses a time",
        "**data, 'tags': [datetime.datetime.strptime('2026-01-02', '%Y-%m-%d').isoformat()]",
        None,
    ),
    _upcaster(
        "an upcaster looks values up in a table of what there was",
        "**data, 'tags': {'text': ['x'], 'a': []}[data['provider_id']]",
        None,
    ),
    Change(
        "a default changes with the version, and the upcaster writes down the old one",
        _STARTED,
        _V2.replace("= 'subprocess'", "= 'docker'") + _STEP.format("'mode': 'subprocess', **data, 'tags': []"),
    ),
    Change(
        "a version is raised by two, with both upcasters",
        _STARTED,
        _V2.replace("version=2", "version=3")
        + _STEP.format("**data, 'tag': ''")
        + "@chain.upcaster('Started', 2)\ndef many(data): return {**{k: v for k, v in data.items() if k != 'tag'}, 'tags': [data['tag']]}\n",
    ),
    Change(
        "two fields are merged by an upcaster",
        _started("first: str\n    last: str"),
        "@event(version=2)\nclass Started(Struct):\n    provider_id: str\n    name: str\n"
        + _STEP.format("'provider_id': data['provider_id'], 'name': data['first'] + ' ' + data['last']"),
    ),
]


def findings(change: Change, folder: Path) -> list[Finding]:
    """What the check says of the module after, with the lock of the module before, which goes through its file."""
    names: list[str] = []
    for when in ("before", "after"):
        name = re.sub(r"\W", "_", f"{change.title} {when}")
        (folder / f"{name}.py").write_text(_HEAD + getattr(change, when))
        names.append(name)
    path = str(folder / "event-schema.json")
    sys.path.insert(0, str(folder))
    try:
        write_lock(path, make_lock(load_events(f"{names[0]}:serializer"), SchemaLock()))
        return check(load_events(f"{names[1]}:serializer"), read_lock(path))
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)  # Each is as it is when a program starts, whoever has asked before.


def table() -> str:
    """The page: what the check says of every change."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [(change, findings(change, Path(folder))) for change in (*BREAKING, *HARMLESS)]
    lines = [
        "# What `schema check` catches, and what it lets pass",
        "",
        "Written by the test that makes each of these changes to a small application, whose events were locked before:",
        "`python -m tests.schema.changes`. How to make such changes is in [schema-evolution.md](schema-evolution.md).",
        "",
        f"## {len(BREAKING)} changes that would make history unreadable",
        "",
        "| change | what it says |",
        "| --- | --- |",
        *(_row(change, failing(found)) for change, found in rows[: len(BREAKING)]),
        "",
        f"## {len(HARMLESS)} changes that do not",
        "",
        "| change | what it notes |",
        "| --- | --- |",
        *(_row(change, found) for change, found in rows[len(BREAKING) :]),
    ]
    return "\n".join(lines) + "\n"


def _row(change: Change, found: list[Finding]) -> str:
    said = "; ".join(f"*{finding.kind}*: {_first(finding)}" for finding in found[:1]) or "nothing"
    return f"| {change.title} | {said} |".replace("\n", " ")


def _first(finding: Finding) -> str:
    details = [detail.removeprefix("! ") for detail in finding.details if detail.startswith("! ")] or finding.details
    text = details[0].strip() if details else finding.message.partition(";")[0]
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(table())
