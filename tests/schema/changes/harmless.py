"""Changes that do not."""

from __future__ import annotations

from .change import (
    ALONE,
    COLOUR,
    DATACLASS,
    HELD,
    HOLDER,
    INNER,
    ORDERED,
    PAIR,
    RENAMED_WITH_ALIAS,
    SPLIT,
    STARTED,
    STEP,
    UNION,
    V2,
    Change,
    of_field,
    of_omitted,
    of_upcaster,
    omitting,
    raised,
    started,
)

DROPPED = STEP.format("**{k: v for k, v in data.items() if k != 'mode'}")

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
    of_field("a Literal becomes a union of two", "Literal['a', 'b', 'c']", "Literal['c', 'a'] | Literal['b', 'd']"),
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
        "an attrs class gains a validator",
        "@event\n@attrs.define\nclass Started:\n    a: str\n",
        "@event\n@attrs.define\nclass Started:\n    a: str = attrs.field(validator=attrs.validators.in_(['x']))\n",
    ),
    Change(
        "a nested dataclass gains a __post_init__",
        "@dataclasses.dataclass\nclass Inner:\n    a: int\n" + HOLDER.format("list[Inner]"),
        "@dataclasses.dataclass\nclass Inner:\n    a: int\n    def __post_init__(self): assert self.a > 0\n"
        + HOLDER.format("list[Inner]"),
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
    of_field("a default changes that no event needs", "int = 0", "int = 1"),
    of_field("a default is removed that no event needs", "int = 0", "int"),
    Change(
        "a dataclass's default changes that no event needs",
        "@event\n@dataclasses.dataclass\nclass Started:\n    a: int = 0\n",
        "@event\n@dataclasses.dataclass\nclass Started:\n    a: int = 1\n",
    ),
    Change(
        "an attrs class's default changes that no event needs",
        "@event\n@attrs.define\nclass Started:\n    a: list[int] = attrs.Factory(list)\n",
        "@event\n@attrs.define\nclass Started:\n    a: list[int] = attrs.Factory(lambda: [1])\n",
    ),
    Change(
        "a nested default changes that no event needs",
        INNER + "    b: int = 0\n" + HOLDER.format("list[Inner]"),
        INNER + "    b: int = 1\n" + HOLDER.format("list[Inner]"),
    ),
    Change(
        "a default of an array's field changes that no event needs",
        PAIR.format("a: int; b: str = 'x'"),
        PAIR.format("a: int; b: str = 'y'"),
    ),
    of_omitted(
        "a default that is written in any case changes",
        "list[int] = field(default_factory=lambda: [1])",
        "list[int] = field(default_factory=lambda: [2])",
    ),
    Change("defaults are left out from now on", STARTED, omitting(STARTED)),
    of_omitted(
        "the time by default", "float = field(default_factory=time.time)", "float = field(default_factory=time.time)"
    ),
    of_omitted(
        "today by default",
        "datetime.datetime = field(default_factory=lambda: datetime.datetime.now().replace(hour=0, minute=0, second=0, microsecond=0))",
        "datetime.datetime = field(default_factory=lambda: datetime.datetime.now().replace(hour=0, minute=0, second=0, microsecond=0))",
    ),
    of_omitted(
        "the time in a time zone by default",
        "datetime.datetime = field(default_factory=functools.partial(datetime.datetime.now, datetime.timezone.utc))",
        "datetime.datetime = field(default_factory=functools.partial(datetime.datetime.now, datetime.timezone.utc))",
    ),
    of_omitted(
        "an id by default",
        "uuid.UUID = field(default_factory=uuid.uuid4)",
        "uuid.UUID = field(default_factory=uuid.uuid4)",
    ),
    of_omitted(
        "the process by default", "int = field(default_factory=os.getpid)", "int = field(default_factory=os.getpid)"
    ),
    of_omitted(
        "the host by default",
        "str = field(default_factory=socket.gethostname)",
        "str = field(default_factory=lambda: socket.gethostname().lower())",
    ),
    of_omitted(
        "the environment by default",
        "str = field(default_factory=lambda: os.environ.get('HOME', ''))",
        "str = field(default_factory=lambda: os.getenv('HOME', ''))",
    ),
    of_omitted(
        "a random number by default",
        "float = field(default_factory=random.random)",
        "float = field(default_factory=lambda: random.random())",
    ),
    of_omitted(
        "a nested class with the process by default",
        "Nested = field(default_factory=lambda: Nested())",
        "Nested = field(default_factory=lambda: Nested())",
    ),
    of_omitted(
        "a default is no longer another at every read", "float = field(default_factory=time.time)", "float = 0.0"
    ),
    of_omitted(
        "a set by default", "frozenset[str] = frozenset({'a', 'b', 'c'})", "frozenset[str] = frozenset(['c', 'b', 'a'])"
    ),
    of_field("a field that was left out is null", "int | UnsetType = UNSET", "int | None = None"),
    Change(
        "a nested class in a default gains a field",
        f"class Inner(Struct):\n    a: int = 0\n{HELD}",
        f"class Inner(Struct):\n    a: int = 0\n    b: int = 7\n{HELD}",
        None,
        ALONE,
    ),
    Change(
        "a nested class in a default leaves its defaults out",
        f"class Inner(Struct):\n    a: int = 0\n{HELD}",
        omitting(f"class Inner(Struct):\n    a: int = 0\n{HELD}"),
        None,
        ALONE,
    ),
    Change(
        "a nested class in a default gains a tag",
        f"class Inner(Struct):\n    a: int = 0\n{HELD}",
        f"class Inner(Struct, tag=True):\n    a: int = 0\n{HELD}",
        None,
        ALONE,
    ),
    of_field("any value becomes an object of Python", "Any", "object"),
    of_field("an object of Python becomes any value", "object", "Any"),
    Change("a class gains a tag", STARTED, STARTED.replace("(Struct)", "(Struct, tag=True)")),
    Change("a class loses its tag", STARTED.replace("(Struct)", "(Struct, tag=True)"), STARTED),
    Change(
        "a nested class gains a tag",
        INNER + HOLDER.format("list[Inner | None]"),
        INNER.replace("(Struct)", "(Struct, tag=True)") + HOLDER.format("list[Inner | None]"),
    ),
    Change(
        "a class that a hook decodes moves to another module",
        "class Money: pass\nMoney.__module__ = 'app.old'\n" + started("x: Money"),
        "class Money: pass\nMoney.__module__ = 'app.new'\n" + started("x: Money"),
    ),
    Change(
        "an upcaster relies on a field that every event has",
        STARTED,
        V2 + STEP.format("**data, 'tags': [data['mode']]"),
    ),
    Change(
        "a default changes with the version, and no event needs it",
        STARTED,
        V2.replace("= 'subprocess'", "= 'docker'") + STEP.format("**data, 'tags': []"),
    ),
    Change(
        "a default changes, and the upcasters of earlier versions write down the old one",
        V2 + STEP.format("'mode': 'subprocess', **data, 'tags': []"),
        V2.replace("= 'subprocess'", "= 'docker'") + STEP.format("'mode': 'subprocess', **data, 'tags': []"),
        None,
        "@event\nclass Started(Struct):\n    provider_id: str\n",
    ),
    Change(
        "an upcaster changes a field's values",
        started("mode: str"),
        started("mode: str").replace("@event", "@event(version=2)")
        + STEP.format("**data, 'mode': data['mode'].lower()"),
    ),
    Change(
        "an upcaster looks a field's values up, and has one for all others",
        started("mode: str"),
        started("mode: str").replace("@event", "@event(version=2)")
        + STEP.format("**data, 'mode': {'sub': 'subprocess'}.get(data['mode'], 'docker')"),
    ),
    Change(
        "an upcaster merges two values of a Literal",
        started("mode: Literal['a', 'b', 'c']"),
        started("mode: Literal['a', 'b', 'c']").replace("@event", "@event(version=2)")
        + STEP.format("**data, 'mode': 'b' if data['mode'] == 'a' else data['mode']"),
    ),
    Change(
        "an upcaster moves a field's values to another one",
        started("mode: str"),
        started("mode: str; kind: str").replace("@event", "@event(version=2)")
        + STEP.format("**data, 'mode': 'any', 'kind': data['mode']"),
    ),
    Change(
        "two fields change places",
        started("a: str; b: str"),
        started("a: str; b: str").replace("@event", "@event(version=2)")
        + STEP.format("**data, 'a': data['b'], 'b': data['a']"),
    ),
    Change(
        "an upcaster writes null as nothing",
        started("mode: str | None = None"),
        started("mode: str = ''").replace("@event", "@event(version=2)")
        + STEP.format("**{k: v for k, v in data.items() if v is not None}"),
    ),
    Change(
        "a field is dropped on purpose",
        STARTED,
        "@event(version=2)\nclass Started(Struct):\n    provider_id: str\n" + DROPPED,
    ),
    Change(
        "a field is dropped on purpose, and another gets its name later",
        "@event(version=2)\nclass Started(Struct):\n    provider_id: str\n" + DROPPED,
        started("mode: str").replace("@event", "@event(version=3)")
        + DROPPED
        + "@chain.upcaster('Started', 2)\ndef again(data): return {**data, 'mode': ''}\n",
        None,
        started("mode: str"),
    ),
    of_field("None is taken as well as any value", "Any", "Any | None"),
    of_field("a Literal of text and numbers takes None, too", "Literal['a', 1]", "Literal['a', 1] | None"),
    of_field(
        "a union with a Literal of null and a number is written otherwise",
        "list[int] | Literal[None, 0]",
        "list[int] | Literal[0] | None",
    ),
    of_field("a Literal of several types takes any text", "Literal['red', 'a', 0]", "str | Literal['a', 0]"),
    of_field("null becomes a Literal with null", "None", "Literal[None, 'a']"),
    of_field("whole numbers must be multiples of 1", "int", "Annotated[int, Meta(multiple_of=1)]"),
    of_field(
        "a union of bytes of two lengths is what it was",
        "Annotated[bytes, Meta(min_length=1)] | bytes",
        "bytes | Annotated[bytes, Meta(min_length=1)]",
    ),
    Change(
        "a field of an array is renamed in Python only",
        PAIR.format("lat: float; lon: float"),
        PAIR.format("latitude: float; lon: float"),
    ),
    Change(
        "a field with a default is added at the end of an array",
        PAIR.format("a: int"),
        PAIR.format("a: int; b: int = 0"),
    ),
    Change(
        "a default of a nested dataclass with slots changes that no event needs",
        DATACLASS.replace("@dataclasses.dataclass", "@dataclasses.dataclass(slots=True)").format("a: int; b: int = 0"),
        DATACLASS.replace("@dataclasses.dataclass", "@dataclasses.dataclass(slots=True)").format("a: int; b: int = 1"),
    ),
    raised("a version is raised with whole numbers that become numbers", "int", "float"),
    raised("a version is raised with a list that becomes a set", "list[int]", "set[int]"),
    Change(
        "a version is raised with a class that loses its tag",
        ALONE.replace("(Struct)", "(Struct, tag=True)"),
        ALONE.replace("@event", "@event(version=2)") + STEP.format("**data"),
    ),
]
