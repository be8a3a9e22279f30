"""A change of an application's events, and the parts that such applications are made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """An application's module before and after; what is expected of the check, None where it must not fail.

    `first` is the module at the first lock, if it was locked once more before the change.
    """

    title: str
    before: str
    after: str
    expected: str | None = None
    first: str | None = None


STARTED = "@event\nclass Started(Struct):\n    provider_id: str\n    mode: str = 'subprocess'\n"

V2 = "@event(version=2)\nclass Started(Struct):\n    provider_id: str\n    tags: list[str]\n    mode: str = 'subprocess'\n"

STEP = "@chain.upcaster('Started', 1)\ndef with_tags(data): return {{{}}}\n"


def started(fields: str) -> str:
    return f"@event\nclass Started(Struct):\n    provider_id: str\n    {fields}\n"


def of_field(title: str, before: str, after: str, expected: str | None = None) -> Change:
    return Change(title, started(f"x: {before}"), started(f"x: {after}"), expected)


def of_omitted(title: str, before: str, after: str, expected: str | None = None) -> Change:
    """The same of a class that leaves defaults out of what it writes."""
    change = of_field(title, before, after, expected)
    return Change(title, omitting(change.before), omitting(change.after), expected)


def omitting(module: str) -> str:
    return module.replace("(Struct)", "(Struct, omit_defaults=True)")


def relocked(title: str, first: str, before: str, after: str, expected: str | None = None) -> Change:
    """A change of a class whose field is younger than its version: the lock was written before it, and again after."""
    return Change(title, started(before), started(after), expected, started(first))


def raised(title: str, before: str, after: str, expected: str | None = None) -> Change:
    """The type of a field changes with the version, and the upcaster passes the field on."""
    step = started(f"x: {after}").replace("@event", "@event(version=2)") + STEP.format("**data")
    return Change(title, started(f"x: {before}"), step, expected)


def of_upcaster(title: str, body: str, expected: str | None = "impure") -> Change:
    return Change(title, STARTED, V2 + STEP.format(body), expected)


INNER = "class Inner(Struct):\n    a: int\n"

HOLDER = "@event\nclass Started(Struct):\n    inner: {}\n"

ALONE = "@event\nclass Started(Struct):\n    n: int\n"

HELD = ALONE + "    inner: Inner = field(default_factory=Inner)\n"

UNION = (
    "class Docker(Struct, tag='docker'):\n    image: str\n"
    "class Local(Struct, tag={tag!r}):\n    path: str\n"
    "@event\nclass Started(Struct):\n    how: {union}\n"
)

DATACLASS = "@dataclasses.dataclass\nclass Inner:\n    {}\n" + HOLDER.format("Inner")

HOW = "@event\nclass Started(Struct):\n    how: {}\n"

COLOUR = "class Colour(enum.Enum):\n    {}\n@event\nclass Started(Struct):\n    colour: Colour\n"

PAIR = "class Pair(Struct, array_like=True):\n    {}\n@event\nclass Started(Struct):\n    pair: Pair\n"

ORDERED = "@event\nclass Ordered(Struct):\n    item: str\n    price: int\n"

SPLIT = (
    "@event\nclass Requested(Struct):\n    item: str\n@event\nclass Priced(Struct):\n    price: int\n"
    "@chain.splitter('Ordered', 1)\n"
    "def split(data): return [('Requested', {{'item': data['item']}}), ({second!r}, {{'price': data['price']}})]\n"
)

RENAMED = STARTED.replace("Started", "Begun")

RENAMED_WITH_ALIAS = RENAMED.replace("@event", "@event(aliases=['Started'])")

ALIASED = STARTED.replace("@event", "@event(aliases=['Begun'])")
