"""The one place where types of an application are first given to msgspec, which crashes the process on some of them.

What msgspec 0.22 does wrong, and what is done about it here:

- It misreads a union of a tuple of fixed length and a type with limits. Such a union is refused.
- It frees what it must not when a union of text with a pattern and a collection goes. Such a union is kept for ever.
- When it refuses a class, others that hold that class keep a half-made description of it. So all types that a class
  reaches are looked at first, and a type that was refused is never tried again, nor is one that reaches it.
"""

from __future__ import annotations

import contextlib
import sys
import typing
from collections.abc import Callable, Collection, Iterator
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import msgspec

UNRESOLVED = (NameError, AttributeError)
"""What a forward reference raises while its class, or the name in its module, does not exist yet."""

_LIMITS = ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length")
_MANY = 50  # Classes that may refer to each other in a row without more frames than usual.
_FRAMES = 8_000
_MAX_DEPTH = 100  # Generic classes in one another.
_NOT_FIELDS = (typing.ClassVar, typing.Literal)
_TEXTS = (str, bytes, bytearray, memoryview)
_UNION = type(int | str)

_accepted: WeakSet[type] = WeakSet()
_refused: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_hints: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()


def has_fields(kind: type) -> bool:
    """True for a Struct, a dataclass and an attrs class."""
    return issubclass(kind, msgspec.Struct) or hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__attrs_attrs__")


def decoder_of(kind: Any, dec_hook: Callable[[type, Any], Any] | None = None) -> msgspec.json.Decoder[Any]:
    """Return a decoder of a type.

    Raises anything, because an annotation is code of the application, and `TypeError` if msgspec would crash.
    """
    if isinstance(kind, type) and kind in _accepted:
        return msgspec.json.Decoder(kind, dec_hook=dec_hook)
    parts = list(_reached(kind))
    for part in parts:
        if _refused and (why := _why_refused(part)) is not None:
            raise TypeError(why)
        if _crashes(part):
            raise TypeError(f"a union of a tuple of fixed length and a type with limits is not supported: `{part!r}`")
    classes = [part for part in parts if isinstance(part, type)]
    must_stay = any(map(_must_stay, parts))
    if must_stay:
        _try_other_fields(classes)
    try:
        with deep_recursion() if len(classes) > _MANY else contextlib.nullcontext():
            decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind, dec_hook=dec_hook)
    except Exception as error:
        with contextlib.suppress(TypeError):  # A type that cannot be a key holds no other one.
            _refused[kind] = str(error) or type(error).__name__
        raise
    if must_stay:
        import ctypes  # Needed only here.

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(decoder))  # Not even the end of the process frees it.
    if isinstance(kind, type):
        _accepted.add(kind)
    return decoder


def _try_other_fields(classes: list[type]) -> None:
    """Raise the error if msgspec refuses a field of some classes that it may free again."""
    for hint in [hint for each in classes for hint in _hints_of(each).values()]:
        if not any(map(_must_stay, _reached(hint))):
            decoder_of(hint)


def _why_refused(part: Any) -> str | None:
    try:
        return _refused.get(part)
    except TypeError:  # It cannot be a key.
        return None


@contextlib.contextmanager
def deep_recursion() -> Iterator[None]:
    """Allow deeper recursion than usual: msgspec recurs through classes that refer to each other."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _FRAMES))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _reached(kind: Any) -> Iterator[Any]:
    """Yield a type and all types that it is made of, without those in classes that were accepted.

    Raises `NameError` if a forward reference does not lead to a type yet, `TypeError` if there is no end.
    """
    seen: set[Any] = set()
    waiting = [(kind, 0)]
    while waiting:
        part, depth = waiting.pop()
        key = _key(part)
        origin = typing.get_origin(part)
        if key in seen or origin in _NOT_FIELDS:
            continue
        seen.add(key)
        yield part
        waiting += [(inner, depth) for inner in (*typing.get_args(part), *_meant(part))]
        owner = part if origin is None else origin
        if isinstance(owner, type) and not (owner is part and owner in _accepted):
            hints = _hints_of(owner)
            if origin is not None and hints:
                depth += 1
                if depth > _MAX_DEPTH:
                    raise TypeError(f"{owner.__qualname__} holds ever more of itself")
                given = dict(zip(getattr(owner, "__parameters__", ()), typing.get_args(part), strict=False))
                hints = {name: _with_parameters(hint, given) for name, hint in hints.items()}
            waiting += [(hint, depth) for hint in hints.values()]


def _key(part: Any) -> Any:
    """Return what a type is known by: itself, if it has a hash."""
    try:
        hash(part)
    except TypeError:
        return _Kept(part)
    return part


class _Kept:
    def __init__(self, part: Any) -> None:
        self.part = part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept) and self.part is other.part

    def __hash__(self) -> int:
        return id(self.part)


def _meant(part: Any) -> Iterator[Any]:
    """Yield the type that a new type, an alias or a type variable stands for."""
    names = ("__supertype__", "__value__", "__bound__")
    return (found for name in names if (found := getattr(part, name, None)) is not None)


def _hints_of(owner: type) -> dict[str, Any]:
    """Return the types of the fields of a class, none if msgspec does not look into it."""
    found = _hints.get(owner)
    if found is None:
        has_names = hasattr(owner, "_fields") if issubclass(owner, tuple) else hasattr(owner, "__total__")
        if not (has_fields(owner) or has_names):
            return {}
        try:
            found = typing.get_type_hints(owner, include_extras=True)
        except UNRESOLVED:
            raise
        except Exception:  # An annotation may be anything. msgspec says what is wrong with it.
            return {}
        _hints[owner] = found
    return found


def _with_parameters(hint: Any, given: dict[Any, Any]) -> Any:
    """Return a type with the parameters of a generic class replaced."""
    needed = getattr(hint, "__parameters__", ()) if given and not isinstance(hint, type) else ()
    if needed and isinstance(needed, tuple):
        return hint[tuple(given.get(parameter, parameter) for parameter in needed)]
    return given.get(hint, hint) if isinstance(hint, typing.TypeVar) else hint


def _crashes(part: Any) -> bool:
    """True for a union of a tuple of fixed length and a type with limits."""
    members = list(_members(part))
    return any(map(_is_fixed_tuple, members)) and _have_limits(members, _LIMITS)


def _must_stay(part: Any) -> bool:
    """True for a union of text with a pattern and a collection."""
    members = list(_members(part))
    return _have_limits(members, ("pattern",)) and any(map(_is_collection, members))


def _have_limits(members: list[Any], names: tuple[str, ...]) -> bool:
    metas = (member for member in members if isinstance(member, msgspec.Meta))
    return any(getattr(meta, name) is not None for meta in metas for name in names)


def _members(part: Any) -> Iterator[Any]:
    """Yield the alternatives of a union, and their limits. Of any other type, there are none."""
    waiting = [part] if typing.get_origin(part) in (typing.Union, _UNION) else []
    while waiting:
        part = waiting.pop()
        inner = list(_meant(part))
        origin = typing.get_origin(part)
        if origin in (typing.Union, _UNION, typing.Final, typing.Annotated):
            inner += typing.get_args(part)
        elif not inner:
            yield part
        waiting += inner


def _is_fixed_tuple(part: Any) -> bool:
    return typing.get_origin(part) is tuple and part is not typing.Tuple and typing.get_args(part)[1:] != (...,)  # noqa: UP006


def _is_collection(part: Any) -> bool:
    origin = typing.get_origin(part) or part
    return isinstance(origin, type) and issubclass(origin, Collection) and origin not in _TEXTS
