"""The errors of projections."""

from __future__ import annotations

from hangarlog.errors import HangarlogError


class ProjectionError(HangarlogError):
    """An event cannot be read, or a projection's function failed at it: see `__cause__`. What was saved stays.

    Fields: `name` of the projection; `position`, `stream_id`, `stream_version` and `event_type` of the event; `cause`.
    """

    def __init__(
        self, name: str, position: int, stream_id: str, stream_version: int, event_type: str, cause: str
    ) -> None:
        super().__init__(name, position, stream_id, stream_version, event_type, cause)
        self.name, self.position, self.stream_id, self.stream_version = name, position, stream_id, stream_version
        self.event_type, self.cause = event_type, cause

    def __str__(self) -> str:
        return (
            f"projection {self.name!r} stopped at position {self.position} ({self.event_type}, version "
            f"{self.stream_version} of stream {self.stream_id!r}): {self.cause}; mend that, and run it again"
        )


class ProjectionBusyError(HangarlogError):
    """Another runner has the projection, or is rebuilding it. Fields: `name`, `work`."""

    def __init__(self, name: str, work: str) -> None:
        super().__init__(name, work)
        self.name, self.work = name, work

    def __str__(self) -> str:
        return f"another runner is {self.work} projection {self.name!r}; stop it, or wait for it with standby=True"


class ProjectionVersionError(HangarlogError):
    """What is stored of a projection is of another version. Fields: `name`, `version`, `stored`, `cause`."""

    def __init__(self, name: str, version: int, stored: int, cause: str) -> None:
        super().__init__(name, version, stored, cause)
        self.name, self.version, self.stored, self.cause = name, version, stored, cause

    def __str__(self) -> str:
        return f"projection {self.name!r} has version {self.version}, what is stored has {self.stored}: {self.cause}"


class ProjectionStateError(HangarlogError):
    """A projection's state cannot be kept, or not be read. Fields: `name`, `cause`."""

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(name, cause)
        self.name, self.cause = name, cause

    def __str__(self) -> str:
        return f"the state of projection {self.name!r} {self.cause}"
