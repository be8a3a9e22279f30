"""Changes that do not."""

from __future__ import annotations

from .change import (
    COLOUR,
    HOLDER,
    INNER,
    ORDERED,
    RENAMED_WITH_ALIAS,
    SPLIT,
    STARTED,
    STEP,
    UNION,
    V2,
    Change,
    of_field,
    of_upcaster,
    started,
)

HARMLESS = [
    Change(
        "an empty nested class becomes a mapping",
        "class Inner(Struct):\n    pass\n" + HOLDER.format("Inner"),
        HOLDER.format("dict[str, int]"),
    ),
    Change(
        "a union gains an alternative",
        UNION.format(tag="local", union="Docker | None"),
        UNION.format(tag="local", union="Docker | Local | None"),
    ),
    Change(
        "a class is written as a generic one",
        "class Box(Struct):\n    held: int\n" + HOLDER.format("Box"),
        "P = TypeVar('P')\nclass Box(Struct, Generic[P]):\n    held: P\n" + HOLDER.format("Box[int]"),
    ),
    Change(
        "a class that holds itself gains a field with a default",
        "@event\nclass Started(Struct):\n    below: 'list[Started]' = []\n",
        "@event\nclass Started(Struct):\n    below: 'list[Started]' = []\n    note: str = ''\n",
    ),
    Change("nothing changes", STARTED, STARTED),
    Change("a field with a default is added", STARTED, STARTED + "    tags: list[str] = []\n"),
    Change("a new type is added", STARTED, STARTED + ORDERED),
    of_field("None is taken, too", "int", "int | None"),
    of_field("another type is taken, too", "str", "str | int"),
    of_field("whole numbers become numbers", "int", "float"),
    of_field("a field gets a default", "int", "int = 3"),
    of_field("a Literal gains a value", "Literal['a']", "Literal['a', 'b']"),
    of_field("a Literal becomes text", "Literal['a']", "str"),
    of_field("a bound is loosened", "Annotated[int, Meta(ge=0, lt=9)]", "Annotated[int, Meta(ge=-1, le=9)]"),
    of_field(
        "a bound of whole numbers is written otherwise", "Annotated[int, Meta(gt=0)]", "Annotated[int, Meta(ge=1)]"
    ),
    of_field("a Literal becomes numbers within bounds", "Literal[1, 2]", "Annotated[int, Meta(ge=1, le=9)]"),
    of_field("a Literal of text and None becomes text or None", "Literal['a', None]", "str | None"),
    of_field(
        "a factory of defaults is written otherwise",
        "list[int] = field(default_factory=lambda: [1])",
        "list[int] = field(default_factory=lambda: list((1,)))",
    ),
    of_field("a pattern is removed", "Annotated[str, Meta(pattern='^a')]", "str"),
    of_field("a mapping's keys become text", "dict[int, int]", "dict[str, int]"),
    of_field("a tuple of any length becomes a list", "tuple[int, ...]", "list[int]"),
    of_field("a set becomes a list", "set[int]", "list[int]"),
    of_field("one type becomes any value", "int", "Any"),
    of_field("an id becomes text", "uuid.UUID", "str"),
    Change("a field is renamed in Python only", started("x: int"), started("y: int = field(name='x')")),
    Change("fields change places", started("a: int\n    b: str"), started("b: str\n    a: int")),
    Change(
        "a class gets a docstring and is frozen",
        STARTED,
        STARTED.replace("(Struct):", "(Struct, frozen=True):\n    'Started.'"),
    ),
    Change(
        "a dataclass becomes a Struct",
        "@event\n@dataclasses.dataclass\nclass Started:\n    provider_id: str\n    mode: str = 'subprocess'\n",
        STARTED,
    ),
    Change(
        "an attrs class becomes a dataclass",
        "@event\n@attrs.define\nclass Started:\n    a: int\n",
        "@event\n@dataclasses.dataclass\nclass Started:\n    a: int\n",
    ),
    Change("an enum gains a value", COLOUR.format("RED = 'red'"), COLOUR.format("RED = 'red'; BLUE = 'blue'")),
    Change("an enum's member is renamed, not its value", COLOUR.format("RED = 'red'"), COLOUR.format("ROUGE = 'red'")),
    Change(
        "a nested class is renamed",
        INNER + HOLDER.format("Inner"),
        INNER.replace("Inner", "Part") + HOLDER.format("Part"),
    ),
    Change(
        "a nested field with a default is added",
        INNER + HOLDER.format("Inner"),
        INNER + "    b: int = 0\n" + HOLDER.format("Inner"),
    ),
    Change(
        "a nested object becomes a mapping",
        INNER + HOLDER.format("Inner"),
        HOLDER.format("dict[str, int]"),
    ),
    Change(
        "a union gains an alternative",
        UNION.format(tag="local", union="Docker"),
        UNION.format(tag="local", union="Docker | Local"),
    ),
    Change(
        "a class that holds itself gains a field",
        "class Node(Struct):\n    next: 'Node | None' = None\n" + HOLDER.format("Node"),
        "class Node(Struct):\n    next: 'Node | None' = None\n    name: str = ''\n" + HOLDER.format("Node"),
    ),
    Change("a type is renamed, with an alias", STARTED, RENAMED_WITH_ALIAS),
    Change(
        "a type is dropped on purpose",
        STARTED + ORDERED,
        ORDERED + "registry.drop('Started', reason='never read')\n",
    ),
    Change(
        "a union is one class and None, and the class loses its tag",
        "class Inner(Struct, tag=True):\n    a: int\n" + HOLDER.format("Inner | None"),
        INNER + HOLDER.format("Inner | None"),
    ),
    Change(
        "a type is split, and one part is passed over on purpose",
        ORDERED,
        SPLIT.format(second="Priced") + "registry.drop('Priced', reason='never read')\n",
    ),
    Change("a type is split into two", ORDERED, SPLIT.format(second="Priced")),
    of_upcaster("a version is raised, with its upcaster", "**data, 'tags': []", None),
    of_upcaster(
        "an upcaster makes an id of what it is given",
        "**data, 'tags': [str(uuid.uuid5(uuid.NAMESPACE_URL, data['provider_id']))]",
        None,
    ),
    of_upcaster(
        "an upcaster works with a digest",
        "**data, 'tags': [hashlib.sha256(data['provider_id'].encode()).hexdigest()]",
        None,
    ),
    of_upcaster(
        "an upcaster parses a time",
        "**data, 'tags': [datetime.datetime.strptime('2026-01-02', '%Y-%m-%d').isoformat()]",
        None,
    ),
    of_upcaster(
        "an upcaster looks values up in a table of what there was",
        "**data, 'tags': {'text': ['x'], 'a': []}[data['provider_id']]",
        None,
    ),
    Change(
        "a default changes with the version, and the upcaster writes down the old one",
        STARTED,
        V2.replace("= 'subprocess'", "= 'docker'") + STEP.format("'mode': 'subprocess', **data, 'tags': []"),
    ),
    Change(
        "a version is raised by two, with both upcasters",
        STARTED,
        V2.replace("version=2", "version=3")
        + STEP.format("**data, 'tag': ''")
        + "@chain.upcaster('Started', 2)\ndef many(data): return {**{k: v for k, v in data.items() if k != 'tag'}, 'tags': [data['tag']]}\n",
    ),
    Change(
        "two fields are merged by an upcaster",
        started("first: str\n    last: str"),
        "@event(version=2)\nclass Started(Struct):\n    provider_id: str\n    name: str\n"
        + STEP.format("'provider_id': data['provider_id'], 'name': data['first'] + ' ' + data['last']"),
    ),
]
