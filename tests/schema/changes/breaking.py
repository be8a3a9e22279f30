"""Changes that make history unreadable."""

from __future__ import annotations

from .change import (
    ALIASED,
    ALONE,
    COLOUR,
    HELD,
    HOLDER,
    INNER,
    ORDERED,
    PAIR,
    RENAMED,
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
    relocked,
    started,
)
from .found import FOUND

BREAKING = [
    Change("a field is renamed", STARTED, STARTED.replace("provider_id", "server_id"), "changed"),
    Change("a field with a default is renamed", STARTED, STARTED.replace("mode", "kind"), "changed"),
    Change("a field is removed", STARTED, STARTED.replace("    mode: str = 'subprocess'\n", ""), "changed"),
    Change(
        "a field without a default is added", STARTED, STARTED.replace("    mode", "    n: int\n    mode"), "changed"
    ),
    of_field("a field's name on the wire changes", "int", "int = field(name='y')", "changed"),
    of_field("a type changes", "str", "int", "changed"),
    of_field("a type is narrowed", "float", "int", "changed"),
    of_field("None is no longer taken", "int | None", "int", "changed"),
    of_field("any value becomes one type", "Any", "str", "changed"),
    of_omitted("a default is removed", "int = 0", "int", "changed"),
    of_omitted("a default changes", "int = 0", "int = 1", "changed"),
    of_field("a Literal loses a value", "Literal['a', 'b']", "Literal['a']", "changed"),
    of_field("text becomes a Literal", "str", "Literal['a']", "changed"),
    of_field("a mapping's values change", "dict[str, int]", "dict[str, str]", "changed"),
    of_field("a mapping's keys change", "dict[str, int]", "dict[int, int]", "changed"),
    of_field(
        "a mapping must hold something", "dict[str, int]", "Annotated[dict[str, int], Meta(min_length=1)]", "changed"
    ),
    of_field("a list's items change", "list[int]", "list[str]", "changed"),
    of_field("a list becomes a set", "list[int]", "set[int]", "changed"),
    of_field("a tuple becomes longer", "tuple[int, str]", "tuple[int, str, int]", "changed"),
    of_field("a lower bound is added", "int", "Annotated[int, Meta(ge=0)]", "changed"),
    of_field(
        "a length is bounded more tightly",
        "Annotated[str, Meta(max_length=9)]",
        "Annotated[str, Meta(max_length=5)]",
        "changed",
    ),
    of_omitted(
        "a factory of defaults gives others",
        "dict[str, int] = field(default_factory=dict)",
        "dict[str, int] = field(default_factory=lambda: {'a': 1})",
        "changed",
    ),
    relocked(
        "a default that events were read with changes",
        "y: int = 0",
        "x: int = 0; y: int = 0",
        "x: int = 1; y: int = 0",
        "changed",
    ),
    relocked(
        "a default that events were read with is removed",
        "y: int = 0",
        "x: int = 0; y: int = 0",
        "x: int; y: int = 0",
        "changed",
    ),
    relocked(
        "a factory whose values events were read with gives others",
        "y: int = 0",
        "y: int = 0; x: list[int] = field(default_factory=lambda: [1])",
        "y: int = 0; x: list[int] = field(default_factory=lambda: [2])",
        "changed",
    ),
    of_omitted(
        "a default becomes another at every read", "float = 0.0", "float = field(default_factory=time.time)", "changed"
    ),
    of_omitted("a field that was left out gets a default", "int | UnsetType = UNSET", "int = 7", "changed"),
    of_field(
        "a field that was left out, or null, is null", "int | None | UnsetType = UNSET", "int | None = None", "changed"
    ),
    of_field("a Literal becomes numbers that leave one out", "Literal[0, 1]", "Annotated[int, Meta(ge=1)]", "changed"),
    of_field("a pattern is added", "str", "Annotated[str, Meta(pattern='^a')]", "changed"),
    of_field("text becomes a time", "str", "datetime.datetime", "changed"),
    of_field("a time must have a zone", "datetime.datetime", "Annotated[datetime.datetime, Meta(tz=True)]", "changed"),
    of_field("bytes become text", "bytes", "str", "changed"),
    Change(
        "an enum loses a value", COLOUR.format("RED = 'red'; BLUE = 'blue'"), COLOUR.format("RED = 'red'"), "changed"
    ),
    Change(
        "an enum's value is spelled otherwise", COLOUR.format("RED = 'red'"), COLOUR.format("RED = 'Red'"), "changed"
    ),
    Change(
        "a nested field is renamed",
        INNER + HOLDER.format("Inner"),
        INNER.replace("a:", "b:") + HOLDER.format("Inner"),
        "changed",
    ),
    Change(
        "a nested field gets another type",
        INNER + HOLDER.format("list[Inner]"),
        INNER.replace("int", "str") + HOLDER.format("list[Inner]"),
        "changed",
    ),
    Change(
        "a nested field without a default is added",
        INNER + HOLDER.format("dict[str, Inner]"),
        INNER + "    b: int\n" + HOLDER.format("dict[str, Inner]"),
        "changed",
    ),
    Change(
        "a nested object becomes a mapping of numbers",
        INNER + HOLDER.format("Inner"),
        HOLDER.format("dict[int, int]"),
        "changed",
    ),
    Change(
        "a union loses an alternative",
        UNION.format(tag="local", union="Docker | Local"),
        UNION.format(tag="local", union="Docker"),
        "changed",
    ),
    Change(
        "a union's tag changes",
        UNION.format(tag="local", union="Docker | Local"),
        UNION.format(tag="process", union="Docker | Local"),
        "changed",
    ),
    Change(
        "a field gets an ending to its name",
        STARTED.replace("mode", "created"),
        STARTED.replace("mode", "created_at"),
        "changed",
    ),
    Change(
        "a field's name changes its case",
        STARTED.replace("provider_id", "userId"),
        STARTED.replace("provider_id", "user_id"),
        "changed",
    ),
    Change(
        "a nested field in an optional list is renamed",
        INNER.replace("a:", "msg:") + HOLDER.format("list[Inner] | None"),
        INNER.replace("a:", "message:") + HOLDER.format("list[Inner] | None"),
        "changed",
    ),
    Change(
        "a field of one alternative of a union is renamed",
        UNION.format(tag="local", union="list[Docker | Local]"),
        UNION.format(tag="local", union="list[Docker | Local]").replace("image", "image_name"),
        "changed",
    ),
    Change(
        "an array in a union gets other items",
        HOLDER.format("str | list[int]"),
        HOLDER.format("str | list[str]"),
        "changed",
    ),
    Change(
        "a generic class gets another parameter",
        "P = TypeVar('P')\nclass Box(Struct, Generic[P]):\n    held: P\n" + HOLDER.format("Box[int]"),
        "P = TypeVar('P')\nclass Box(Struct, Generic[P]):\n    held: P\n" + HOLDER.format("Box[str]"),
        "changed",
    ),
    Change(
        "a type is renamed and gets another field",
        STARTED,
        STARTED.replace("Started", "ServerStarted").replace("mode", "kind"),
        "vanished",
    ),
    Change(
        "a union becomes one class without a tag",
        UNION.format(tag="local", union="Docker | Local"),
        "class How(Struct):\n    image: str = ''\n    path: str = ''\n" + HOLDER.format("How").replace("inner", "how"),
        "changed",
    ),
    Change(
        "the fields of an array change places",
        PAIR.format("a: int; b: str"),
        PAIR.format("b: str; a: int"),
        "changed",
    ),
    Change(
        "the default of an array's field changes",
        PAIR.format("a: int; b: str = 'x'"),
        PAIR.format("a: int; b: str = 'y'"),
        "changed",
        PAIR.format("a: int"),
    ),
    Change(
        "the default of a nested field that events were read with changes",
        INNER + "    b: int = 0\n" + HOLDER.format("list[Inner]"),
        INNER + "    b: int = 1\n" + HOLDER.format("list[Inner]"),
        "changed",
        INNER + HOLDER.format("list[Inner]"),
    ),
    Change(
        "the default of a nested class in a default changes",
        omitting(f"class Inner(Struct):\n    a: int = 0\n{HELD}"),
        omitting(f"class Inner(Struct):\n    a: int = 1\n{HELD}"),
        "changed",
        ALONE,
    ),
    Change(
        "a field of a base class is renamed",
        "class Base(Struct):\n    at: float\n@event\nclass Started(Base): pass\n",
        "class Base(Struct):\n    when: float\n@event\nclass Started(Base): pass\n",
        "changed",
    ),
    Change(
        "a dataclass loses a default that events were read with",
        "@event\n@dataclasses.dataclass\nclass Started:\n    b: int\n    a: int = 1\n",
        "@event\n@dataclasses.dataclass\nclass Started:\n    b: int\n    a: int\n",
        "changed",
        "@event\n@dataclasses.dataclass\nclass Started:\n    b: int\n",
    ),
    Change(
        "the default of an attrs class changes that events were read with",
        "@event\n@attrs.define\nclass Started:\n    b: int\n    a: list[int] = attrs.Factory(list)\n",
        "@event\n@attrs.define\nclass Started:\n    b: int\n    a: list[int] = attrs.Factory(lambda: [1])\n",
        "changed",
        "@event\n@attrs.define\nclass Started:\n    b: int\n",
    ),
    Change("a name is used for another event", STARTED, "@event\nclass Started(Struct):\n    count: int\n", "changed"),
    Change("a version is raised without an upcaster", STARTED, V2, "gap"),
    Change(
        "a chain has a hole",
        STARTED,
        V2.replace("version=2", "version=3") + STEP.format("**data, 'tags': []"),
        "gap",
    ),
    Change("a version is lowered", V2 + STEP.format("**data, 'tags': []"), V2.replace("(version=2)", ""), "lowered"),
    Change("a type is deleted", STARTED + ORDERED, ORDERED, "vanished"),
    Change("a type is renamed without an alias", STARTED, RENAMED, "vanished"),
    Change("an alias is lost", ALIASED, STARTED, "alias lost"),
    Change(
        "an alias goes to another class",
        ALIASED + ORDERED,
        STARTED + ORDERED.replace("@event", "@event(aliases=['Begun'])"),
        "alias lost",
    ),
    Change(
        "a dropped type is no longer dropped",
        "registry.drop('Noise', reason='never read')\n" + STARTED,
        STARTED,
        "vanished",
    ),
    of_upcaster("an upcaster asks for the time", "**data, 'tags': [str(time.time())[:0]]"),
    Change(
        "an upcaster asks for the time once",
        STARTED,
        V2 + "@functools.cache\ndef at(): return str(time.time())\n" + STEP.format("**data, 'tags': [at()]"),
        "impure",
    ),
    of_upcaster("an upcaster takes a random number", "**data, 'tags': ['x' * int(random.random())]"),
    of_upcaster("an upcaster makes an id", "**data, 'tags': [str(uuid.uuid4())]"),
    of_upcaster("an upcaster asks the environment", "**data, 'tags': [os.environ.get('HOME', '')]"),
    of_upcaster("an upcaster looks at files", "**data, 'tags': [str(os.path.getsize(os.devnull))]"),
    of_upcaster("an upcaster lists the environment", "**data, 'tags': sorted(os.environ)[:0]"),
    of_upcaster("an upcaster starts a thread", "**data, 'tags': [str(_thread.start_new_thread(time.time, ()))[:0]]"),
    Change(
        "an upcaster gives a list that it goes on filling",
        STARTED,
        V2
        + "_tags = []\n@chain.upcaster('Started', 1)\ndef with_tags(data):\n"
        + "    _tags.append('x')\n    return {**data, 'tags': _tags}\n",
        "impure",
    ),
    Change(
        "an upcaster counts its calls",
        STARTED,
        V2 + "_calls = itertools.count()\n" + STEP.format("**data, 'tags': [str(next(_calls))]"),
        "impure",
    ),
    Change(
        "an upcaster changes what it is given",
        STARTED,
        V2 + "@chain.upcaster('Started', 1)\ndef with_tags(data):\n    data['tags'] = []\n    return data\n",
        "impure",
    ),
    Change(
        "an upcaster relies on an optional field",
        omitting(STARTED),
        omitting(V2) + STEP.format("**data, 'tags': [data['mode']]"),
        "unreadable",
    ),
    Change(
        "an upcaster relies on a field that is younger than its version",
        STARTED,
        V2 + STEP.format("**data, 'tags': [data['mode']]"),
        "unreadable",
        STARTED.replace("    mode: str = 'subprocess'\n", ""),
    ),
    of_upcaster("an upcaster gives another type", "**data, 'tags': None", "unreadable"),
    of_upcaster("an upcaster forgets the new field", "**data", "unreadable"),
    Change(
        "an upcaster gives nothing back",
        STARTED,
        V2 + "@chain.upcaster('Started', 1)\ndef with_tags(data): dict(data, tags=[])\n",
        "unreadable",
    ),
    Change(
        "an upcaster's table lacks a value of a Literal",
        started("x: Literal['a', 'b', 'c']"),
        started("x: int").replace("@event", "@event(version=2)")
        + STEP.format("**data, 'x': {'a': 1, 'b': 2}[data['x']]"),
        "unreadable",
    ),
    Change(
        "an upcaster leaves a value that an array has no field for",
        PAIR.format("a: int; b: str"),
        PAIR.format("a: int").replace("@event", "@event(version=2)") + STEP.format("**data"),
        "lost",
    ),
    of_upcaster(
        "an upcaster misspells a field that has a default",
        "**{k: v for k, v in data.items() if k != 'mode'}, 'tags': [], 'mod': 'x'",
        "lost",
    ),
    Change(
        "a default changes with the version, and the upcaster does not write down the old one",
        omitting(STARTED),
        omitting(V2.replace("= 'subprocess'", "= 'docker'") + STEP.format("**data, 'tags': []")),
        "lost",
    ),
    Change(
        "a default changes that events of an earlier version are read with",
        V2 + STEP.format("**data, 'tags': []"),
        V2.replace("= 'subprocess'", "= 'docker'") + STEP.format("**data, 'tags': []"),
        "lost",
        "@event\nclass Started(Struct):\n    provider_id: str\n",
    ),
    Change(
        "a default changes that events stored under a former name are read with",
        RENAMED_WITH_ALIAS,
        RENAMED_WITH_ALIAS.replace("= 'subprocess'", "= 'docker'"),
        "changed",
        "@event\nclass Started(Struct):\n    provider_id: str\n",
    ),
    Change(
        "an upcaster forgets a value that an enum has lost",
        COLOUR.format("RED = 'red'; BLUE = 'blue'"),
        COLOUR.format("RED = 'red'").replace("@event", "@event(version=2)") + STEP.format("**data"),
        "unreadable",
    ),
    Change(
        "a splitter gives nothing back",
        ORDERED,
        "@chain.splitter('Ordered', 1)\ndef split(data): [('Requested', {'item': data['item']})]\n",
        "unreadable",
    ),
    Change("a type is split into one that nobody knows", ORDERED, SPLIT.format(second="Costed"), "unreadable"),
    Change(
        "a type is split, and its class keeps the version",
        ORDERED,
        ORDERED + SPLIT.format(second="Priced"),
        "lowered",
    ),
    Change(
        "a splitter misspells a field that has a default",
        ORDERED,
        SPLIT.format(second="Priced").replace("'item': data", "'itm': data").replace("item: str", "item: str = ''"),
        "lost",
    ),
    Change(
        "a splitter takes a field that is not there",
        ORDERED,
        SPLIT.format(second="Priced").replace("data['price']", "data['cost']"),
        "unreadable",
    ),
    Change(
        "an upcaster writes the recipe's value onto a field that was there",
        started("tags: list[str]"),
        started("tags: list[str]; n: int = 0").replace("@event", "@event(version=2)")
        + STEP.format("**data, 'tags': []"),
        "lost",
    ),
    Change(
        "an upcaster replaces a field by a constant",
        started("mode: Literal['a', 'b']; on: bool"),
        started("mode: Literal['a', 'b']; on: bool").replace("@event", "@event(version=2)")
        + STEP.format("**data, 'on': True"),
        "lost",
    ),
    Change(
        "an upcaster replaces a field by another one",
        started("mode: str"),
        started("mode: str; n: int").replace("@event", "@event(version=2)")
        + STEP.format("**data, 'n': 1, 'mode': data['provider_id']"),
        "lost",
    ),
    Change(
        "an upcaster forgets a field that has a default",
        STARTED,
        V2 + STEP.format("'provider_id': data['provider_id'], 'tags': []"),
        "lost",
    ),
    Change(
        "an upcaster passes on the names it knows, and forgets one",
        STARTED,
        V2 + STEP.format("**{k: data[k] for k in ('provider_id',)}, 'tags': []"),
        "lost",
    ),
    Change(
        "an upcaster forgets a nested field that has a default",
        "class Inner(Struct):\n    a: int\n    b: str = ''\n" + HOLDER.format("Inner"),
        "class Inner(Struct):\n    a: int\n    b: str = ''\n"
        + HOLDER.format("Inner").replace("@event", "@event(version=2)")
        + STEP.format("**data, 'inner': {'a': data['inner']['a']}"),
        "lost",
    ),
    Change(
        "an upcaster forgets a field of a list's items",
        "class Inner(Struct):\n    a: int\n    b: str = ''\n" + HOLDER.format("list[Inner]"),
        "class Inner(Struct):\n    a: int\n    b: str = ''\n"
        + HOLDER.format("list[Inner]").replace("@event", "@event(version=2)")
        + STEP.format("**data, 'inner': [{'a': each['a']} for each in data['inner']]"),
        "lost",
    ),
    Change(
        "the second of two upcasters overwrites what the first has written",
        "@event\nclass Started(Struct):\n    mode: str\n",
        "@event(version=3)\nclass Started(Struct):\n    mode: str\n    n: int\n"
        + STEP.format("**data, 'n': 1")
        + "@chain.upcaster('Started', 2)\ndef more(data): return {**data, 'mode': ''}\n",
        "lost",
    ),
    *FOUND,
]
