"""The errors of the library."""

from __future__ import annotations

import pickle
from typing import Any

from hangarlog import UpcastingError, errors
from hangarlog.errors import HangarlogError
from hangarlog.eventstore import server_errors

EXAMPLES: dict[str, tuple[Any, ...]] = {
    "ConcurrencyError": ("s", 1, 2),
    "RetryUnknownError": ("s", 1, 2),
    "CursorConflictError": ("c", 1, 2, 3),
    "PartialRetryError": ("s", 1, 2, ("x", "y", "s", 0)),
    "NumberError": ("position", 3, 2),
    "TooLargeError": ("event", 3, 2),
    "CorruptionError": ("p", "s", 3, "c", 7, "s:1", 2, False),
    "LinkedFileError": ("p", "s", 3, "c", 7, "s:1", 2, False),
    "StorageError": ("p", 28, "c", True),
    "StoreBusyError": ("p", 7),
    "LockTimeoutError": ("p", 7, 1.5),
    "StreamNotFoundError": ("s",),
    "PositionError": ("p", 7, 5),
    "EventsDroppedError": ("/s", 101, 7),
    "EventsGoneError": ("s", 7, 9),
    "UnavailableError": ("nats://h/a", "c", 1.5, True),
    "AppendUnknownError": ("nats://h/a", "c", {"s:1": (2, ("x",))}),
    "BatchLimitError": ("nats://h/a", 1001),
    "HangarlogError": ("x",),
}


NAMED = {**vars(errors), **vars(server_errors)}


def example(kind: type[HangarlogError]) -> HangarlogError:
    if issubclass(kind, UpcastingError):
        return kind(event_type="T", from_version=1, message="m")
    return kind(*EXAMPLES.get(kind.__name__, ("a", "b")))


def test_every_error_pickles_with_its_fields() -> None:
    """And has one base."""
    kinds = [kind for kind in NAMED.values() if isinstance(kind, type) and issubclass(kind, HangarlogError)]
    assert len(kinds) > 15
    for kind in kinds:
        error = example(kind)
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        assert type(again) is kind
        assert vars(again) == vars(error)
        assert str(again) == str(error)


def test_every_field_of_an_error_is_documented() -> None:
    """In its own docstring, or in that of the class it is derived from."""
    for kind in NAMED.values():
        if isinstance(kind, type) and issubclass(kind, HangarlogError):
            said = " ".join(each.__doc__ or "" for each in kind.__mro__ if issubclass(each, HangarlogError))
            missing = [name for name in vars(example(kind)) if f"`{name}`" not in said and not name.startswith("_")]
            assert not missing, kind.__name__
