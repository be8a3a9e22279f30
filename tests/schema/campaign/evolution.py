"""Random classes, and random changes of them such as applications make."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from .payloads import Hints, NoPayloadError, Payloads
from .worlds import ROOT, Class, Default, Field, Type, World

NAMES = (
    "id",
    "user_id",
    "userId",
    "created",
    "created_at",
    "msg",
    "message",
    "name",
    "total",
    "state",
    "lines",
    "type",
)
_SIMPLE = ("bool", "int", "float", "str", "bytes", "Any", "UUID", "Decimal", "date", "time", "timedelta", "datetime")
_SCALARS = (*_SIMPLE, "aware", "naive", "int", "str", "str", "float", "int")
_PATTERNS = ("^a", "b$", "^[a-z]*$", "^.{1,3}$")
_LIMITS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("int", "float"), ("ge", "gt", "le", "lt", "multiple_of")),
    "str": ("min_length", "max_length", "pattern"),
    **dict.fromkeys(("bytes", "list", "many", "set", "frozenset", "dict"), ("min_length", "max_length")),
}
_LITERALS: tuple[Any, ...] = ("a", "b", "c", "red", 1, 2, 0, None)
_VALUES: tuple[Any, ...] = ("red", "blue", "green", "a", 1, 2, 7)
_KEYS = (Type("str"), Type("str"), Type("int"), Type("date"), Type("UUID"), Type("literal", ("a", "b")), Type("float"))
_RENAMES = (None, None, "camel", "pascal", "kebab", "upper")


class Evolution:
    """Makes worlds and their next versions from a source of randomness."""

    def __init__(self, choose: random.Random) -> None:
        self.choose = choose

    # Worlds

    def first(self) -> World:
        """A world: some enums and nested classes, perhaps a tagged union, and the event."""
        choose, world = self.choose, World({})
        for name in choose.sample(("Colour", "Level"), choose.randint(0, 2)):
            world = replace(world, enums={**world.enums, name: self._members()})
        for name in choose.sample(("Inner", "Part"), choose.randint(0, 2)):
            world = world.with_class(name, self._class(world, nested=name))
        if choose.random() < 0.5:
            world = self._with_tagged(world)
        event = self._class(world)
        while not event.fields:
            event = self._class(world)
        return world.with_class(ROOT, event)

    def _members(self) -> tuple[tuple[str, Any], ...]:
        values = self.choose.sample(_VALUES, self.choose.randint(1, 3))
        if self.choose.random() < 0.8:
            kind = type(values[0])
            values = [each for each in values if type(each) is kind]
        return tuple((f"M{str(value).upper()}", value) for value in values)

    def _with_tagged(self, world: World) -> World:
        """Add a few Structs with tags, which may be in a union."""
        tag_field = self.choose.choice((None, None, "kind"))
        arrays, numbers = self.choose.random() < 0.2, self.choose.random() < 0.2
        for at, name in enumerate(("Docker", "Local", "Remote")[: self.choose.randint(2, 3)]):
            made = self._class(world, nested=name, kind="struct")
            made = made.with_option("tag", at if numbers else name.lower())
            made = made.with_option("tag_field", tag_field).with_option("array_like", arrays)
            world = world.with_class(name, made)
        return world

    def _class(self, world: World, nested: str = "", kind: str = "") -> Class:
        choose = self.choose
        kind = kind or choose.choice(("struct", "struct", "struct", "dataclass", "attrs"))
        names = choose.sample(NAMES, choose.randint(0 if nested else 1, 3 if nested else 4))
        made = Class(kind, tuple(self.field(world, name) for name in names))
        if nested and choose.random() < 0.15:
            inner = choose.choice((Type("list", (Type("ref", (nested,)),)), _optional(Type("ref", (nested,)))))
            default = Default("factory", "[]") if inner.kind == "list" else Default("value", "null")
            made = replace(made, fields=(*made.fields, Field("again", inner, default)))
        if kind == "struct":
            made = made.with_option("kw_only", True)
            for option, value, chance in (
                ("omit_defaults", True, 0.4),
                ("rename", choose.choice(_RENAMES), 0.3),
                ("frozen", True, 0.2),
                ("array_like", bool(nested), 0.15),
                ("forbid_unknown_fields", bool(nested), 0.2),
                ("tag", True, 0.1),
            ):
                if choose.random() < chance:
                    made = made.with_option(option, value)
        return made

    def field(self, world: World, name: str) -> Field:
        kind = self.type(world)
        default = self.default(world, kind) if self.choose.random() < 0.5 else None
        return Field(name, kind, default, f"x_{name}" if self.choose.random() < 0.05 else "")

    def default(self, world: World, kind: Type) -> Default | None:
        """A default of a type, None if none could be made."""
        if self.choose.random() < 0.15:
            return Default("unset")
        if kind.kind in ("list", "dict", "set") and self.choose.random() < 0.6:
            return Default("factory", "{}" if kind.kind == "dict" else "[]")
        if kind.kind == "union" and Type("None") in kind.args and self.choose.random() < 0.6:
            return Default("value", "null")
        if "ref" in _kinds_in(kind):
            return None if kind.kind != "ref" else self._nested_default(world, kind)
        if kind.kind in ("enum", "literal") and self._is_single(world, kind):
            return None  # Left out always by a class that leaves defaults out: no event would ever have it.
        try:
            payloads = Payloads(world, None, self.choose, Hints())
            value = [payloads.of(kind) for _ in range(self.choose.randint(1, 6))][-1]
        except (NoPayloadError, RecursionError):
            return None
        plain = kind.kind in (*_SIMPLE, "aware", "naive", "enum", "literal") and kind.kind != "Any"
        return Default("value" if plain else "factory", msgspec.json.encode(value).decode())

    def _is_single(self, world: World, kind: Type) -> bool:
        return len(kind.args if kind.kind == "literal" else world.enums[kind.args[0]]) < 2

    def _nested_default(self, world: World, kind: Type) -> Default | None:
        """The nested class by its own defaults, if it has no others."""
        made = world.classes[kind.args[0]]
        if any(each.default is None for each in made.fields) or made.option("tag") or made.option("array_like"):
            return None
        return Default("factory", "{}")

    def type(self, world: World, depth: int = 0) -> Type:
        """A type of a field."""
        choose, roll = self.choose, self.choose.random()
        if roll < 0.35 or depth > 2:
            return Type(choose.choice(_SCALARS))
        if roll < 0.45:
            return self._limited(Type(choose.choice(("int", "float", "str", "bytes"))))
        if roll < 0.5:
            return Type("literal", tuple(choose.sample(_LITERALS, choose.randint(1, 3))))
        if roll < 0.6 and world.enums:
            return Type("enum", (choose.choice(list(world.enums)),))
        if roll < 0.75 and world.classes:
            return Type("ref", (choose.choice(list(world.classes)),))
        tagged = [Type("ref", (name,)) for name, made in world.classes.items() if made.option("tag")]
        if roll < 0.82 and len(tagged) > 1:
            more = choose.choice(([], [], [Type("None")], [Type("int")], [Type("str")]))
            return Type("union", (*tagged[: choose.randint(2, 3)], *more))
        return self._wrapped(world, depth)

    def _wrapped(self, world: World, depth: int) -> Type:
        choose, inner = self.choose, self.type(world, depth + 1)
        roll = choose.random()
        if roll < 0.35:
            return _optional(inner)
        if roll < 0.45:
            return _union(inner, self.type(world, depth + 1))
        if roll < 0.55:
            return Type("tuple", (inner, *(self.type(world, depth + 1) for _ in range(choose.randint(0, 1)))))
        if roll < 0.7:
            made = Type("dict", (choose.choice(_KEYS), inner))
        elif roll < 0.8:
            made = Type("set", (choose.choice((Type("int"), Type("str"), Type("UUID"), Type("literal", ("a", "b")))),))
        else:
            made = Type(choose.choice(("list", "list", "many")), (inner,))
        return self._limited(made) if choose.random() < 0.15 else made

    def _limited(self, kind: Type) -> Type:
        """The same with another limit."""
        choose = self.choose
        word = choose.choice(_LIMITS.get(kind.kind, ("",)))
        few = word == "min_length" and kind.kind in ("set", "frozenset", "dict")
        if not word or few or any(part.kind == "literal" for part in kind.args if isinstance(part, Type)):
            return kind  # There may be fewer values than a limit asks for.
        values: dict[str, tuple[Any, ...]] = {
            "pattern": _PATTERNS,
            "multiple_of": (1, 2, 3, 4),
            **dict.fromkeys(("min_length", "max_length"), (0, 1, 2, 3)),
        }
        return _with_limit(
            kind, word, choose.choice(values.get(word, (-1, 0, 1, 2, 5, 100, 1 << 53 if kind.kind == "int" else 1000)))
        )

    # Changes

    def next(self, world: World) -> tuple[World, str]:
        """A world after a change, and the change in a few words."""
        choose = self.choose
        name = choose.choice([*world.classes, ROOT, ROOT])
        made = world.classes[name]
        changes: list[tuple[float, Callable[[World, str, Class], World], str]] = [
            (4, self._retyped, "a type changes"),
            (1, self._added, "a field is added"),
            (1, self._removed, "a field is removed"),
            (1, self._renamed, "a field is renamed"),
            (2, self._redefaulted, "a default changes"),
            (3 if made.option("array_like") else 0.5, self._moved, "a field moves"),
            (0.5, self._aliased, "a field's name in events changes"),
            (1, self._reoptioned, "an option of a class changes"),
            (0.7, self._retagged, "a tag changes"),
            (0.5, self._of_another_kind, "a class becomes one of another kind"),
            (0.5, self._of_another_name, "a nested class is renamed"),
            (1 if world.enums else 0, self._other_enum, "an enum changes"),
        ]
        _, change, title = choose.choices(changes, [weight for weight, _, _ in changes])[0]
        return change(world, name, made), f"{name}: {title}"

    def _retyped(self, world: World, name: str, made: Class) -> World:
        def retyped(each: Field) -> Field:
            kind = self.changed(world, each.type)
            default = each.default
            if default is not None and default.how != "unset" and self.choose.random() < 0.7:
                default = self.default(world, kind) or default
            return replace(each, type=kind, default=default)

        return self._with_field(world, name, made, retyped)

    def changed(self, world: World, kind: Type) -> Type:
        """A type that is related to another one."""
        parts = [at for at, part in enumerate(kind.args) if isinstance(part, Type)]
        if parts and self.choose.random() < 0.55:
            at = self.choose.choice(parts)
            if kind.kind == "dict" and at == 0:
                return replace(kind, args=(self.choose.choice(_KEYS), kind.args[1]))
            args = [*kind.args[:at], self.changed(world, kind.args[at]), *kind.args[at + 1 :]]
            return _union(*args) if kind.kind == "union" else replace(kind, args=tuple(args))
        options = [*self._relatives(world, kind), *self._usual(kind)]
        if self.choose.random() < 0.1:
            options.append(self.type(world))
        return self.choose.choice(options)

    def _usual(self, kind: Type) -> list[Type]:
        found = [_optional(kind)]
        if kind.kind in _LIMITS:
            found += [self._limited(kind)]
        if kind.limits:
            found += [replace(kind, limits=()), self._nudged(kind), self._nudged(kind)]
        return found

    def _nudged(self, kind: Type) -> Type:
        word, limit = self.choose.choice(kind.limits)
        if word == "pattern":
            return _with_limit(kind, word, self.choose.choice(_PATTERNS))
        swapped = {"ge": "gt", "gt": "ge", "le": "lt", "lt": "le"}.get(word)
        if swapped and self.choose.random() < 0.4:
            rest = tuple(each for each in kind.limits if each[0] != word)
            limit += self.choose.choice((0, -1, 1))
            return _with_limit(replace(kind, limits=rest), swapped, limit)
        return _with_limit(
            kind, word, max(limit + self.choose.choice((-1, 1)), 1 if word == "multiple_of" else -1 << 60)
        )

    def _relatives(self, world: World, kind: Type) -> list[Type]:
        made: list[Type] = []
        name, text = kind.kind, Type("str")
        if name in ("int", "float", "Decimal"):
            made += [Type("int"), Type("float"), text, Type("Decimal"), Type("bool"), _union(kind, text)]
            made += [Type("literal", (0, 1, 2)), Type("timedelta")]
        elif name in ("str", "bytes", "UUID", "date", "time", "timedelta", "datetime", "aware", "naive"):
            made += [Type(each) for each in ("str", "datetime", "aware", "naive", "date", "UUID", "bytes", "Any")]
            made += [Type("literal", ("a", "b")), _union(kind, Type("int"))]
            made += [Type("enum", (each,)) for each in world.enums]
        elif name in ("literal", "enum"):
            values = kind.args if name == "literal" else tuple(value for _, value in world.enums[kind.args[0]])
            others = [value for value in _LITERALS if value not in values]
            made += [Type("literal", (*values, others[0])), Type("literal", values), text, Type("int"), Type("float")]
            made += [Type("literal", values[1:])] if len(values) > 1 else []
            made += [_optional(text), self._limited(text), self._limited(Type("int")), Type("Decimal")]
        elif name == "union":
            made += [each for each in kind.args if each != Type("None")]
            made += [_union(*kind.args[1:]), _union(*kind.args[:-1]), _union(*reversed(kind.args))]
            made += [_union(*kind.args, self.type(world, 2)), Type("Any")]
        elif name in ("list", "many", "set", "frozenset"):
            inner = kind.args[0]
            made += [replace(kind, kind=each) for each in ("list", "many", "set", "frozenset")]
            made += [Type("tuple", (inner, inner)), Type("dict", (text, inner)), inner, Type("Any")]
        else:
            made += self._relatives_of_objects(world, kind)
        return made

    def _relatives_of_objects(self, world: World, kind: Type) -> list[Type]:
        name, any_value, text = kind.kind, Type("Any"), Type("str")
        if name == "dict":
            keys = [Type("dict", (key, kind.args[1]), kind.limits) for key in _KEYS]
            return [*keys, any_value, *(Type("ref", (each,)) for each in world.classes)]
        if name == "tuple":
            more = Type("tuple", (*kind.args, self.type(world, 2)))
            rows = [Type("ref", (each,)) for each, made in world.classes.items() if made.option("array_like")]
            rest = [Type("list", (kind.args[0],))] if len(set(kind.args)) == 1 else []
            return [more, Type("tuple", kind.args[:-1]), Type("list", (any_value,)), any_value, *rest, *rows]
        if name == "ref":
            others = [Type("ref", (each,)) for each in world.classes]
            maps = [Type("dict", (key, any_value)) for key in (text, Type("literal", ("id", "msg")))]
            fields = world.classes[kind.args[0]].fields
            maps += [Type("dict", (text, fields[0].type))] if fields else []
            unions = [_union(kind, other) for other in others if other != kind]
            return [*others, *maps, *unions, any_value, Type("list", (any_value,)), Type("list", (kind,))]
        if name == "bool":
            return [Type("int"), Type("literal", (0, 1)), text, any_value]
        return [self.type(world), any_value]

    def _with_field(self, world: World, name: str, made: Class, change: Callable[[Field], Field]) -> World:
        if not made.fields:
            return world
        at = self.choose.randrange(len(made.fields))
        fields = (*made.fields[:at], change(made.fields[at]), *made.fields[at + 1 :])
        return world.with_class(name, replace(made, fields=fields))

    def _added(self, world: World, name: str, made: Class) -> World:
        unused = [each for each in NAMES if each not in {field.name for field in made.fields}]
        at = self.choose.randint(0, len(made.fields))
        added = self.field(world, self.choose.choice(unused))
        return world.with_class(name, replace(made, fields=(*made.fields[:at], added, *made.fields[at:])))

    def _removed(self, world: World, name: str, made: Class) -> World:
        gone = self.choose.choice(made.fields or (None,))
        return world.with_class(name, replace(made, fields=tuple(each for each in made.fields if each != gone)))

    def _renamed(self, world: World, name: str, made: Class) -> World:
        unused = [each for each in NAMES if each not in {field.name for field in made.fields}]
        new = self.choose.choice(unused)
        return self._with_field(world, name, made, lambda each: replace(each, name=new))

    def _redefaulted(self, world: World, name: str, made: Class) -> World:
        def redefaulted(each: Field) -> Field:
            none = each.default is not None and self.choose.random() < 0.3
            return replace(each, default=None if none else self.default(world, each.type))

        return self._with_field(world, name, made, redefaulted)

    def _moved(self, world: World, name: str, made: Class) -> World:
        fields = tuple(self.choose.sample(made.fields, len(made.fields)))
        return world.with_class(name, replace(made, fields=fields))

    def _aliased(self, world: World, name: str, made: Class) -> World:
        def aliased(each: Field) -> Field:
            new = self.choose.choice(NAMES)
            keeps = self.choose.random() < 0.3
            return replace(each, name=new, alias=each.alias or each.name) if keeps else replace(each, alias=new)

        return self._with_field(world, name, replace(made, kind="struct"), aliased)

    def _reoptioned(self, world: World, name: str, made: Class) -> World:
        option = self.choose.choice(("omit_defaults", "rename", "array_like", "forbid_unknown_fields", "frozen"))
        if name == ROOT and option in ("array_like", "forbid_unknown_fields"):
            option = "omit_defaults"
        value = self.choose.choice(_RENAMES) if option == "rename" else not made.option(option)
        return world.with_class(name, made.with_option(option, value)) if made.kind == "struct" else world

    def _retagged(self, world: World, name: str, made: Class) -> World:
        if made.kind != "struct" or made.option("array_like"):
            return world  # An array's tag is one of its items.
        if made.option("tag") and self.choose.random() < 0.4:
            return world.with_class(name, made.with_option("tag_field", self.choose.choice((None, "kind", "msg"))))
        tags = (None, None, True, name.lower(), "docker", 1)
        return world.with_class(name, made.with_option("tag", self.choose.choice(tags)))

    def _of_another_kind(self, world: World, name: str, made: Class) -> World:
        kind = self.choose.choice(("struct", "dataclass", "attrs"))
        options = (("kw_only", True),) if kind == "struct" != made.kind else made.options
        return world.with_class(name, replace(made, kind=kind, options=options))

    def _of_another_name(self, world: World, name: str, made: Class) -> World:
        if name == ROOT:
            return world
        new = f"{name}2"

        def renamed(kind: Type) -> Type:
            if kind == Type("ref", (name,)):
                return Type("ref", (new,))
            args = tuple(renamed(part) if isinstance(part, Type) else part for part in kind.args)
            return replace(kind, args=args)

        classes = {
            new if each == name else each: replace(
                one, fields=tuple(replace(field, type=renamed(field.type)) for field in one.fields)
            )
            for each, one in world.classes.items()
        }
        return replace(world, classes=classes)

    def _other_enum(self, world: World, name: str, made: Class) -> World:
        changed = self.choose.choice(list(world.enums))
        members, roll = list(world.enums[changed]), self.choose.random()
        at = self.choose.randrange(len(members))
        others = [value for value in _VALUES if value not in {value for _, value in members}]
        new = self.choose.choice(others)
        if roll < 0.3:
            members.append((f"M{str(new).upper()}", new))
        elif roll < 0.6 and len(members) > 1:
            del members[at]
        elif roll < 0.8:
            members[at] = (members[at][0], new)
        else:
            members[at] = (f"N{len(members)}", members[at][1])
        return replace(world, enums={**world.enums, changed: tuple(members)})


def _optional(kind: Type) -> Type:
    return _union(kind, Type("None"))


def _union(*kinds: Type) -> Type:
    """A union without unions in it, or the type itself if there is one."""
    parts: dict[Any, Type] = {}
    for kind in kinds:
        for part in kind.args if kind.kind == "union" else (kind,):
            same = "datetime" if part.kind in ("aware", "naive") else part.kind
            parts[part if part.args else same] = part  # msgspec mixes up those that differ in limits alone.
    if any(part.kind in ("literal", "enum") for part in parts.values()):  # msgspec applies limits to them, too.
        parts = {key: replace(part, limits=()) if part.kind in ("str", "int") else part for key, part in parts.items()}
    found = tuple(parts.values())
    return found[0] if len(found) == 1 else Type("union", found)


def _kinds_in(kind: Type) -> set[str]:
    return {kind.kind}.union(*(_kinds_in(part) for part in kind.args if isinstance(part, Type)))


def _with_limit(kind: Type, word: str, value: Any) -> Type:
    limits = {**dict(kind.limits), word: value}
    if word.endswith("length"):
        limits[word] = max(value, int(word == "max_length"))
    for one, other in (("ge", "gt"), ("le", "lt")):
        if word in (one, other):
            limits.pop(other if word == one else one, None)
    return replace(kind, limits=tuple(sorted(limits.items())))
