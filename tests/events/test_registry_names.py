"""Two classes of one stored name: what is refused, and what a reload or a notebook may go on doing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import msgspec
import pytest

from hangarlog import EventRegistry, EventSerializationError, EventSerializer, MemoryEventStore
from hangarlog.schema.check import check, failing
from hangarlog.schema.lockfile import SchemaLock


class Started(msgspec.Struct):
    provider_id: str


class Billing:
    class Started(msgspec.Struct):
        amount: int = 0


def kinds(registry: EventRegistry) -> list[tuple[str, str]]:
    found = failing(check(EventSerializer(registry=registry), SchemaLock()))
    return [(finding.event_type, finding.kind) for finding in found]


def test_two_classes_of_one_name_are_refused() -> None:
    """The later one would read the earlier one's events."""
    registry = EventRegistry()
    registry.event(Started)
    registry.event(Billing.Started)
    assert kinds(registry) == [("Started", "same name")]
    store = MemoryEventStore(serializer=EventSerializer(registry=registry))
    with pytest.raises(EventSerializationError, match=r"would be read back as Billing\.Started"):
        store.append("a:1", [Started("math")], -1)
    assert store.append("a:1", [Billing.Started(3)], -1) == 0


def test_a_former_name_that_two_classes_have_is_refused() -> None:
    registry = EventRegistry()
    registry.event(Started, aliases=["Begun"])
    registry.event(Billing.Started, name="Charged", aliases=["Begun"])
    assert kinds(registry) == [("Begun", "same name")]


def test_a_class_under_the_former_name_of_another_is_refused() -> None:
    registry = EventRegistry()
    registry.event(Started, aliases=["Charged"])
    registry.event(Billing.Started, name="Charged")
    assert kinds(registry) == [("Charged", "same name")]


def test_a_class_may_be_registered_again_and_under_two_names() -> None:
    registry = EventRegistry()
    registry.event(Started)
    registry.event(Started, aliases=["Begun"])
    assert kinds(registry) == []


def test_a_reloaded_module_replaces_its_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it gives a former name to another class; events of the old class can still be appended."""
    source = (
        "import msgspec\nfrom hangarlog import EventRegistry\n"
        "if 'registry' not in globals(): registry = EventRegistry()\n"
        "@registry.event({})\nclass Opened(msgspec.Struct): a: int = 0\n"
        "@registry.event({})\nclass Shut(msgspec.Struct): b: int = 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "reloaded_events.py").write_text(source.format("aliases=['Former']", ""))
    module = importlib.import_module("reloaded_events")
    old = module.Opened
    (tmp_path / "reloaded_events.py").write_text(source.format("", "aliases=['Former']"))
    importlib.reload(module)
    assert module.Opened is not old
    assert kinds(module.registry) == []
    store = MemoryEventStore(serializer=EventSerializer(registry=module.registry))
    assert store.append("a:1", [old(1), module.Opened(2)], -1) == 1


def test_a_cell_of_a_notebook_may_be_run_again() -> None:
    registry = EventRegistry()
    kept = []
    for _ in range(2):
        names = {"__name__": "__main__", "msgspec": msgspec, "registry": registry}
        exec("@registry.event\nclass Opened(msgspec.Struct): a: int = 0", names)  # noqa: S102 - as a notebook does
        kept.append(names["Opened"])
    assert kinds(registry) == []


def test_a_module_that_runs_as_a_program_and_is_imported_too_is_one() -> None:
    registry = EventRegistry()
    twin = msgspec.defstruct("Started", [("provider_id", str)], module="__mp_main__")
    sys.modules["__mp_main__"] = sys.modules[__name__]
    try:
        registry.event(twin)
        registry.event(Started)
        assert kinds(registry) == []
    finally:
        del sys.modules["__mp_main__"]
