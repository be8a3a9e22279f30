"""The walks through an append and a read, as hangarlog/filestore/__init__.py shows them, are the real ones."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import pytest
from conftest import Added

import hangarlog
import hangarlog.filestore
from hangarlog import ANY, FileEventStore

pytestmark = pytest.mark.usefixtures("ring_at_once")

PACKAGE = os.path.dirname(os.path.abspath(hangarlog.__file__)) + os.sep


class Call(NamedTuple):
    depth: int
    module: str
    name: str


def traced(work: Callable[[], object]) -> list[Call]:
    """Every call of a function of the package, in order, with its depth."""
    calls: list[Call] = []
    depth = 0

    def see(frame: FrameType, event: str, _: object) -> None:
        nonlocal depth
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE):
            if event == "call":
                module = path.removeprefix(PACKAGE).removesuffix(".py").replace(os.sep, ".")
                calls.append(Call(depth, module, frame.f_code.co_qualname))
                depth += 1
            elif event == "return":
                depth -= 1

    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def shown(title: str) -> list[Call]:
    """A walk as the package's docstring shows it."""
    text = str(hangarlog.filestore.__doc__).partition(title)[2].lstrip("\n").partition("\n\n")[0]
    calls = []
    for line in text.splitlines():
        found = re.fullmatch(r"    ( *)([a-z_.]+) +([A-Za-z_.]+)", line)
        assert found, f"no line of a walk: {line!r}"
        calls.append(Call(len(found[1]) // 2, found[2], found[3]))
    return calls


def check(walk: list[Call], real: list[Call]) -> None:
    """Each call of the walk is made after the one before it, below the one that it stands under."""
    path: list[tuple[Call, int]] = []  # The walk's calls that enclose the next one, with their depths in reality.
    at = 0
    for call in walk:
        path = path[: call.depth]
        assert len(path) == call.depth, f"{call} is indented too far"
        least = path[-1][1] + 1 if path else 0
        while at < len(real) and (real[at][1:] != call[1:] or real[at].depth < least):
            assert not path or real[at].depth >= least, f"{call.module} {call.name} is not called below {path[-1][0]}"
            at += 1
        assert at < len(real), f"{call.module} {call.name} is not called there"
        path.append((call, real[at].depth))
        at += 1


def rooms(calls: list[Call]) -> set[str]:
    """The modules of the file store that these calls enter."""
    return {call.module for call in calls if call.module.startswith("filestore.")}


CHECKS = {"JournalSync._look_again", "WriteSession._look", "FileEventStore._look_again"}


def when_settled(work: Callable[[], object]) -> list[Call]:
    """A call. For a while after its folder has changed, a store checks whether its files are still in place."""
    for _ in range(10_000):
        calls = traced(work)
        if not CHECKS & {call.name for call in calls}:
            return calls
    raise AssertionError("a store that nobody else uses does not settle")


def test_an_append_walks_as_shown(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s") as store:
        walk, real = shown("from the call down:"), when_settled(lambda: store.append("a:1", [Added(1)], ANY))
        check(walk, real)
        assert rooms(real) <= rooms(walk), "the walk leaves out a part of the file store"


def test_a_read_walks_as_shown(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s") as store:
        store.append("a:1", [Added(1)], ANY)
        walk, real = shown("A read of a short stream:"), when_settled(lambda: store.read_stream("a:1"))
        check(walk, real)
        assert rooms(real) <= rooms(walk), "the walk leaves out a part of the file store"


@pytest.mark.parametrize("title", ["from the call down:", "A read of a short stream:"])
def test_a_walk_goes_down(title: str) -> None:
    """Each package is called only from those above it, or from itself."""
    order = ["eventstore", "filestore", "events", "log", "record", "system"]
    path: list[Call] = []
    for call in shown(title):
        path = path[: call.depth]
        room = call.module.partition(".")[0]
        if path:
            assert order.index(path[-1].module.partition(".")[0]) <= order.index(room), call
        path.append(call)


def test_a_walk_that_is_not_true_is_seen(tmp_path: Path) -> None:
    walk = shown("from the call down:")
    with FileEventStore(tmp_path / "s") as store:
        real = when_settled(lambda: store.append("a:1", [Added(1)], ANY))
    at = next(number for number, call in enumerate(walk) if call.name == "Writer._write_streams")
    for wrong in (
        [*walk[:at], Call(walk[at].depth, "filestore.writer", "Writer.nonsense"), *walk[at + 1 :]],
        [*walk[:at], *walk[at + 2 :], walk[at], walk[at + 1]],  # In another order.
        [*walk[:at], walk[at]._replace(depth=2)._replace(name="JournalSync.ensure"), *walk[at + 1 :]],
    ):
        with pytest.raises(AssertionError):
            check(wrong, real)
