"""Whether real events would have the error that a generated event has."""

from __future__ import annotations

from typing import Any

import msgspec

from hangarlog.errors import HangarlogError, UpcastingError
from hangarlog.schema.describe import Schema
from hangarlog.schema.places import lists_all_values, places

_STRUCTURAL_ERRORS = (KeyError, IndexError, AttributeError, TypeError, NameError)
"""Errors of an upcaster that does not fit the shape of its payloads. Other errors may come from a generated value."""


def is_structural(error: HangarlogError, payload: dict[str, Any], schema: Schema) -> bool:
    """True if an error comes from the shape of the payload, not from a generated value."""
    cause = error.__cause__
    if isinstance(error, UpcastingError):
        if isinstance(cause, KeyError) and _is_generated(cause.args, payload, schema):
            return False  # A lookup table of real values lacks the generated one.
        return cause is None or isinstance(cause, _STRUCTURAL_ERRORS)
    if isinstance(cause, msgspec.ValidationError):
        return cause.__cause__ is None  # Otherwise a hook or validator has refused the generated value.
    return not str(cause).startswith("unhashable type")  # Else a set cannot hold the generated value.


def _is_generated(missing: tuple[Any, ...], payload: dict[str, Any], schema: Schema) -> bool:
    """True if the missing key is a generated value of the payload, not one that the shape lists."""
    return any(
        part is not None and not lists_all_values(part) and type(value) is type(key) and value == key
        for key in missing[:1]
        for _, value, part in places(payload, schema)
    )
