"""Where a read ends: at a number, after some records, or after some events."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, TypeVar

from hangarlog.errors import HangarlogError
from hangarlog.record.envelope import Envelope

_Item = TypeVar("_Item")
_Envelope = TypeVar("_Envelope", bound=Envelope)


def limited(blocks: Iterator[Sequence[Envelope]], limit: int | None) -> Iterator[Sequence[Envelope]]:
    """Yield the first `limit` records of some blocks, all of them with None."""
    if limit is None:
        yield from blocks
        return
    if limit <= 0:
        return
    for block in blocks:
        yield block[:limit]
        limit -= len(block)
        if limit <= 0:
            return


def ended(blocks: Iterable[Sequence[_Envelope]], field: str, stop: int, reverse: bool) -> Iterator[Sequence[_Envelope]]:
    """Yield the records of some blocks up to the one whose `field` is `stop`. No later block is asked for.

    The numbers rise from record to record; with `reverse` they fall.
    """
    number = attrgetter(field)

    def beyond(record: Any) -> int:
        at: int = number(record)
        return stop - at if reverse else at - stop

    for block in blocks:
        after = beyond(block[-1])
        if after > 0:
            count = len(block) - after  # Right if no number is missing in the block.
            if after - beyond(block[0]) != len(block) - 1:
                count = bisect_right(block, 0, key=beyond)
            if count > 0:
                yield block[:count]
        else:
            yield block
        if after >= 0:
            return


def counted(
    blocks: Iterable[Sequence[Envelope]],
    read: Callable[[Sequence[Envelope]], Iterable[_Item]],
    position_of: Callable[[_Item], int],
    limit: int | None,
) -> Iterator[_Item]:
    """Yield the items that `read` makes of each block, up to `limit` of them (None: all).

    The parts of one stored event share its position, and are not torn apart: the last event may exceed the limit.
    """
    return chain.from_iterable(map(read, blocks)) if limit is None else _counted(blocks, read, position_of, limit)


def _counted(
    blocks: Iterable[Sequence[Envelope]],
    read: Callable[[Sequence[Envelope]], Iterable[_Item]],
    position_of: Callable[[_Item], int],
    limit: int,
) -> Iterator[_Item]:
    if limit <= 0:
        return
    last = 0
    for block in blocks:
        try:
            for item in read(block):
                if limit > 0:
                    limit -= 1
                    last = 0 if limit else position_of(item)
                elif position_of(item) != last:
                    return
                yield item
        except HangarlogError:
            if limit > 0:
                raise  # Otherwise the event that cannot be read is not wanted any more.
        if limit <= 0:
            return
