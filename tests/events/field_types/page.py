"""docs/field-types.md: what becomes of every kind of field and every form of class."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .classes import FORMS, Form
from .kinds import GROUPS, Kind
from .outcome import Outcome, of_form, of_kind

PAGE = Path(__file__).resolve().parents[3] / "docs" / "field-types.md"

_HEAD = """# What an event's fields may hold

An append proves that each event can be read back, before anything is written: it decodes what it is about to store into
the event's class, and compares every field. So what the store acknowledges stays readable, and means the same.

- *Refused at registration*: no event of the class could ever be read. `event` raises `EventSerializationError`, which
  names the field. An annotation whose class does not exist yet is checked at the first write.
- *Refused at the write*: this event would not be read, or would be read as something else. `append` raises
  `EventSerializationError` with the path of the field, and writes nothing.
- *Equal*: what is read is equal to what was written. A tuple in a field for a list comes back as a list, an integer in
  a field for a float as a float. A field of type `Any` holds what JSON has: other values need a type.
- A class must be registered under the name that it is written with. To write data without a class, append an
  `UntypedEvent`. If its type is registered, its payload must fit the class, through the upcasters.
- A class with a `__post_init__` runs it once more for the proof. `event_id` may be a UUID where its text comes back.
- A dataclass or an attrs class also keeps attributes that are no fields, if a new event has them, and `event_id` and
  `occurred_at` always.

`EventSerializer(validate=False)` switches the proof of each event off, not the checks of classes. It saves 0.04 to
0.2 µs an event of a batch and 0.15 to 0.4 µs of one event, or 1 µs if the event has attributes that are no fields.

What no check sees, because Python calls it equal: the name of a time zone (its offset stays), `fold`, and the zone of a
`time` that has no offset without a date. A number with more than 17 digits, which no Python float has, becomes a float
on its way through an upcaster, also for a field of type `Decimal`.

The tables are written by the test that stores every value and reads it back, alone and in a batch, directly and through
an upcaster: `python -m tests.events.field_types`. They are of msgspec 0.22.
"""


def table() -> str:
    """The page."""
    lines = [_HEAD]
    lines += _tables()
    return "\n".join(lines).rstrip() + "\n"


def _tables() -> Iterator[str]:
    for title, kinds in GROUPS.items():
        yield f"## {title}\n"
        yield "| field | value | Struct | dataclass | attrs | through an upcaster | why |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        yield from map(_kind_row, kinds)
        yield ""
    for title, forms in FORMS.items():
        yield f"## {title}\n"
        yield "| class | directly | through an upcaster | why |"
        yield "| --- | --- | --- | --- |"
        yield from map(_form_row, forms)
        yield ""


def _kind_row(kind: Kind) -> str:
    outcomes = [of_kind(kind, family) for family in ("Struct", "dataclass", "attrs")]
    value = kind.shown or f"`{kind.value!r}`"
    first = outcomes[0]
    return _row(kind.title, value, *(found.what for found in outcomes), first.upcast, _why(first))


def _form_row(form: Form) -> str:
    found = of_form(form)
    return _row(form.title, found.what, found.upcast, _why(found))


def _why(found: Outcome) -> str:
    text = found.why.partition("': ")[2] or found.why
    text = text.removesuffix("; nothing was written")
    text = re.sub(r"^(\w+ could not be read back|it would not be read back as the same \w+): ", "", text)
    text = re.sub(r" \(`[^)]*\)", "", text)  # The list of all types that are alike.
    parts = re.sub(r"[\w.]*field_types\.kinds\.", "", text).split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]  # Not within code.
    return "`".join(parts)


def _row(*cells: str) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
