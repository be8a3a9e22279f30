"""Changes that make history unreadable, and that the campaign of random classes found before the check did."""

from __future__ import annotations

from .change import ALONE, DATACLASS, HOLDER, HOW, INNER, PAIR, STARTED, STEP, Change, omitting, raised

FOUND = [
    Change(
        "a default of a nested dataclass changes, which msgspec leaves out of what it has decoded",
        DATACLASS.format("a: int; b: int = 0"),
        DATACLASS.format("a: int; b: int = 1"),
        "changed",
    ),
    Change(
        "two fields of an array of one type change places",
        PAIR.format("lat: float; lon: float"),
        PAIR.format("lon: float; lat: float"),
        "changed",
    ),
    Change(
        "a field with a default is added in the middle of an array",
        PAIR.format("a: int; c: int = 0"),
        PAIR.format("a: int; b: int = 0; c: int = 0"),
        "changed",
    ),
    Change(
        "a class with a tag that its first events lack gets into a union",
        "class Docker(Struct, tag=True):\n    image: str\n" + HOW.format("Docker"),
        "class Docker(Struct, tag=True):\n    image: str\nclass Local(Struct, tag=True):\n    path: str\n"
        + HOW.format("Docker | Local"),
        "changed",
        "class Docker(Struct):\n    image: str\n" + HOW.format("Docker"),
    ),
    Change(
        "a field gets the name of a tag that the first events have",
        ALONE,
        ALONE + "    type: int = 0\n",
        "changed",
        "@event\nclass Started(Struct, tag=True):\n    n: int\n",
    ),
    Change(
        "a class forbids unknown fields, but its first events have a tag that is none any more",
        INNER + HOLDER.format("Inner"),
        "class Inner(Struct, forbid_unknown_fields=True):\n    a: int\n" + HOLDER.format("Inner"),
        "changed",
        "class Inner(Struct, tag=True):\n    a: int\n" + HOLDER.format("Inner"),
    ),
    Change(
        "a new field's default raises an error",
        STARTED,
        STARTED + "    n: float = field(default_factory=lambda: 1 / 0)\n",
        "unreadable",
    ),
    raised(
        "an upcaster passes on what is too long now",
        "list[int]",
        "Annotated[list[int], Meta(max_length=7)]",
        "unreadable",
    ),
    raised(
        "an upcaster passes on what is too large now", "int", "Annotated[int, Meta(le=10_000_000_000)]", "unreadable"
    ),
    Change(
        "an upcaster passes on an object that the class of today has no fields for",
        INNER + HOLDER.format("list[Inner | None]"),
        "class Other(Struct, tag=True):\n    pass\n"
        + HOLDER.format("list[Other | None]").replace("@event", "@event(version=2)")
        + STEP.format("**data"),
        "lost",
    ),
    Change(
        "a default changes with the version, and the class gets a tag",
        omitting(ALONE + "    mode: str = 'subprocess'\n"),
        omitting(ALONE + "    mode: str = 'docker'\n")
        .replace("@event", "@event(version=2)")
        .replace("(Struct,", "(Struct, tag=True,")
        + STEP.format("**data"),
        "lost",
    ),
]
