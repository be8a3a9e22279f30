"""The errors of the library."""

from __future__ import annotations

import pickle
from typing import Any

from hangarlog import UpcastingError, errors
from hangarlog.errors import HangarlogError


def test_every_error_pickles_with_its_fields() -> None:
    """And has one base."""
    examples: dict[str, tuple[Any, ...]] = {
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
        "HangarlogError": ("x",),
    }
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HangarlogError)]
    assert len(kinds) > 15
    for kind in kinds:
        if issubclass(kind, UpcastingError):
            error: HangarlogError = kind(event_type="T", from_version=1, message="m")
        else:
            error = kind(*examples.get(kind.__name__, ("a", "b")))
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        assert type(again) is kind
        assert vars(again) == vars(error)
        assert str(again) == str(error)
