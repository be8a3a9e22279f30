"""The prepared stores, which many rounds read: their contents, and how an engine writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bench.harness.engine import Run

Batch = tuple[str, list[Any]]


def one_stream(run: Run) -> Iterator[Batch]:
    """Yield all events of one stream, in batches of 1,000."""
    count = run.size("events")
    for begin in range(0, count, 1000):
        yield "provider:math", run.events(min(1000, count - begin), begin)


def interleaved(run: Run) -> Iterator[Batch]:
    """Yield many streams in turn, a block of events at a time, until each has its full length."""
    streams, each, block = run.size("streams"), run.size("each"), run.size("block")
    for begin in range(0, each, block):
        for stream in range(streams):
            yield f"provider:{stream}", run.events(min(block, each - begin), begin * streams + stream * block)


def short_streams(run: Run) -> Iterator[Batch]:
    """Yield many streams of one to five events."""
    for n in range(run.size("streams")):
        yield f"provider:{n}", run.events(1 + n % 5, 5 * n)


RECIPES: dict[str, Callable[[Run], Iterator[Batch]]] = {
    "one stream": one_stream,
    "interleaved": interleaved,
    "short streams": short_streams,
}


def write(run: Run, recipe: str) -> None:
    """Write the store of a recipe through a session of the engine."""
    versions: dict[str, int] = {}
    with run.opened() as session:
        for stream, batch in RECIPES[recipe](run):
            versions[stream] = session.append(stream, batch, versions.get(stream, -1))
