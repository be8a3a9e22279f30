"""The errors and warnings of named subscribers."""

from __future__ import annotations

from hangarlog.errors import CursorConflictError, HangarlogError


class SubscriptionLostError(CursorConflictError):
    """Somebody else has moved a subscriber's cursor, so this subscription does not own it any more.

    Fields: those of `CursorConflictError`. What it has delivered since `expected` may be delivered again.
    """

    def __str__(self) -> str:
        return (
            f"subscriber {self.name!r}: its cursor is at position {self.actual}, not {self.expected}: somebody else "
            "has moved it; iterate again to continue from there, once this subscription is the owner again"
        )


class HandlerError(HangarlogError):
    """A subscriber could not process an event, and stopped in front of it. The cause is `__cause__`.

    Fields: `name` of the subscriber; `position`, `stream_id`, `stream_version` and `event_type` of the event; `cause`;
    `attempts`, the number of calls of the handler, 0 if the event cannot be read.
    """

    def __init__(
        self, name: str, position: int, stream_id: str, stream_version: int, event_type: str, cause: str, attempts: int
    ) -> None:
        super().__init__(name, position, stream_id, stream_version, event_type, cause, attempts)
        self.name, self.position, self.stream_id, self.stream_version = name, position, stream_id, stream_version
        self.event_type, self.cause, self.attempts = event_type, cause, attempts

    def __str__(self) -> str:
        failed = f"its handler failed {self.attempts} times" if self.attempts else "it cannot be read"
        return (
            f"subscriber {self.name!r} stopped at position {self.position} (stream {self.stream_id!r}, version "
            f"{self.stream_version}, type {self.event_type!r}): {failed}: {self.cause}; mend that and run it again, or "
            "run it with on_failure='park' or 'skip'"
        )


class WorkersError(HangarlogError):
    """A subscriber cannot run with this number of workers: it has cursors of another. Fields: `name`, `cause`."""

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(name, cause)
        self.name, self.cause = name, cause

    def __str__(self) -> str:
        return f"the number of workers of subscriber {self.name!r} cannot change: {self.cause}"


class ReplayBusyError(HangarlogError):
    """Another process replays the subscriber's parked events. Fields: `name`, `pid` (0 if unknown)."""

    def __init__(self, name: str, pid: int) -> None:
        super().__init__(name, pid)
        self.name, self.pid = name, pid

    def __str__(self) -> str:
        who = f"process {self.pid}" if self.pid else "another process"
        return f"{who} replays the parked events of subscriber {self.name!r}; try again when it is done"


class SkippedWarning(UserWarning):
    """A subscriber skipped an event that it could not process (`on_failure="skip"`)."""
