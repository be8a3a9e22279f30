"""Every kind of field is read back equal, directly and through an upcaster, or refused; the documentation says so."""

from __future__ import annotations

import pytest
from field_types.classes import ALL_FORMS, Form
from field_types.kinds import KINDS, Kind
from field_types.outcome import of_form, of_kind
from field_types.page import PAGE, table


@pytest.mark.parametrize("family", ["Struct", "dataclass", "attrs"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.title} {kind.shown or repr(kind.value)[:30]}")
def test_a_field_is_read_back_equal_or_refused(kind: Kind, family: str) -> None:
    """Alone, in a batch, and through an upcaster."""
    found = of_kind(kind, family)
    assert found.what == kind.expected, found.why
    assert found.upcast in ("-", kind.expected)


@pytest.mark.parametrize("form", [form for _, form in ALL_FORMS], ids=[f"{of}: {form.title}" for of, form in ALL_FORMS])
def test_a_form_of_class_is_read_back_equal_or_refused(form: Form) -> None:
    """Alone, in a batch, and through an upcaster."""
    found = of_form(form)
    assert found.what == form.expected, found.why
    assert found.upcast in ("-", form.expected)


def test_the_page_of_field_types_says_what_happens() -> None:
    """Write it anew with `python -m tests.events.field_types`."""
    assert PAGE.read_text() == table()
