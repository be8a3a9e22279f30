"""What a retention keeps, and the report of one."""

from __future__ import annotations

import re

import msgspec

from hangarlog.eventstore.arguments import seconds_of, whole_number

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)").fullmatch


def bytes_of(size: str) -> int | None:
    """Return the bytes of a size such as "10G", None if it is none."""
    found = _SIZE(size)
    return int(found[1]) * _UNITS[found[2]] if found else None


class RetentionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Which events of the streams that begin with `prefix` ("": all) may go: those that are beyond any of its limits.

    Only events in sealed segments of the journal ever go.

    Args:
        prefix: how the streams' ids begin.
        max_age: the age from which on events go: seconds, or text such as "30d" (s, m, h, d or w).
        max_events: how many events are kept, the newest ones of all these streams together.
        max_bytes: how many bytes of text of one copy are kept, in the same way: a number, or "10G" (K, M, G or T).
        max_events_per_stream: how many events of each stream are kept.
        behind_snapshot: only what a snapshot covers goes; all of it, if there is no limit.
        past_subscribers: what a named subscriber, cursor or projection has not read yet goes, too.

    Raises:
        TypeError: a limit is of another kind.
        ValueError: it is below 0, or cannot be read; or the policy says nothing.
    """

    prefix: str = ""
    max_age: float | str | None = None
    max_events: int | None = None
    max_bytes: int | str | None = None
    max_events_per_stream: int | None = None
    behind_snapshot: bool = False
    past_subscribers: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str):
            raise TypeError(f"prefix must be text, not {self.prefix!r}")
        for name in ("max_events", "max_events_per_stream"):
            value = getattr(self, name)
            if value is not None and whole_number(name, value) < 0:
                raise ValueError(f"{name} must be from 0 on, not {value}")
        if not (self.limits or self.behind_snapshot or self.past_subscribers):
            raise ValueError("a policy needs a limit, behind_snapshot or past_subscribers")

    @property
    def limits(self) -> bool:
        """True if the policy has a limit."""
        found = (self.seconds, self.max_events, self.bytes, self.max_events_per_stream)
        return any(limit is not None for limit in found)

    @property
    def seconds(self) -> float | None:
        """`max_age` in seconds. Raises `TypeError` or `ValueError`."""
        age = seconds_of(self.max_age) if isinstance(self.max_age, str) else self.max_age
        return _checked("max_age", age, self.max_age, "seconds, or a time such as '30d' (s, m, h, d or w)")

    @property
    def bytes(self) -> int | None:
        """`max_bytes` as a number. Raises `TypeError` or `ValueError`."""
        size = bytes_of(self.max_bytes) if isinstance(self.max_bytes, str) else self.max_bytes
        found = _checked("max_bytes", size, self.max_bytes, "bytes, or a size such as '10G' (K, M, G or T)")
        return None if found is None else int(found)


def _checked(name: str, value: float | None, given: object, form: str) -> float | None:
    if given is None:
        return None
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"{name} must be {form}, not {given!r}")
    if value is None or not value >= 0:
        raise ValueError(f"{name} must be {form}, from 0 on, not {given!r}")
    return value


class HiddenByPolicy(msgspec.Struct):
    """What one policy hides: `events` of `streams`."""

    streams: int = 0
    events: int = 0


class RetainedSegment(msgspec.Struct, frozen=True):
    """A segment of the journal that goes: its file's name and bytes, and its positions from `first` to `last`."""

    name: str
    first: int
    last: int
    bytes: int


class ErasedSegment(msgspec.Struct, frozen=True):
    """A segment of the journal that stays without what is hidden.

    The name of its file, the position in that name, how many `events` are erased, and the bytes that this frees.
    """

    name: str
    first: int
    events: int
    bytes: int


class RetentionReport(msgspec.Struct):
    """What a retention did, or, as a `dry_run`, would do.

    `policies` is what each policy hides, in the order given. `segments` of the journal are removed; the journal then
    begins with `first_position`. `erased` ones are written anew without what is hidden; `damaged` are the paths of
    those that cannot be. Together this frees `bytes_freed` bytes. `held_by` says what keeps the next segment.
    """

    dry_run: bool = False
    policies: list[HiddenByPolicy] = []
    segments: list[RetainedSegment] = []
    erased: list[ErasedSegment] = []
    damaged: list[str] = []
    bytes_freed: int = 0
    first_position: int = 1
    held_by: str = ""
