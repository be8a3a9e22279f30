"""A handler that keeps what `logging` emits as events: with `extra`, structured exceptions, from many processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from hangarlog.eventstore.engine import Durability
from hangarlog.integrations.log_writer import LogWriter, Store
from hangarlog.integrations.plain_values import as_text, exception, plain
from hangarlog.integrations.stream_names import as_part, shortened
from hangarlog.record.timestamp import as_recorded

EVENT_TYPE = "Logged"

_STANDARD = frozenset([*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime", "taskName"])
_PLACE = ("pathname", "lineno", "funcName", "process", "processName", "thread", "threadName")

StreamOf = str | Callable[[Any], str]
"""A stream id, in which `{name}` stands for the logger's name, or a function of the record."""


class HangarlogHandler(logging.Handler):
    """Appends each record to a store, which is given open, or as the path of its folder.

    Args:
        store: an open store, which stays yours to close; or a path.
        level: as of any handler.
        stream: the stream; by default one for each logger. `"log:all"` is one for all.
        durability: "relaxed" (a record survives the death of the process, not a power cut), "always", or, for a path,
            the seconds between syncs. By default that of an open store, and "relaxed" for a path.
        linger: seconds that a record below ERROR may wait in memory, to be appended with others. With 0, each is in the
            store when the call that logs it returns.

    Raises what opening a store raises. Later, what keeps a record from being stored goes to `handleError`, as with any
    handler.
    """

    def __init__(
        self,
        store: Store,
        level: int | str = logging.NOTSET,
        *,
        stream: StreamOf = "log:{name}",
        durability: Durability | float | None = None,
        linger: float = 0.0,
    ) -> None:
        super().__init__(level)
        self._stream = stream
        self._writer = LogWriter(store, durability, linger)
        self._writer.open()

    def handle(self, record: logging.LogRecord) -> bool | logging.LogRecord:  # type: ignore[override]
        """Filter and emit a record. Threads may do this at once: their records are appended together."""
        passed: bool | logging.LogRecord = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record. It is in the store when this returns, unless it lingers, or `handleError` was called."""
        try:
            stream_id, data = self.stream_of(record), msgspec.json.encode(self.data_of(record))
            time = as_recorded(datetime.fromtimestamp(record.created, UTC))
        except RecursionError:  # As `logging.StreamHandler` does it: bpo-36272.
            raise
        except Exception:
            self.handleError(record)
            return
        now = record.levelno >= logging.ERROR
        self._writer.write(stream_id, EVENT_TYPE, data, time, lambda: self.handleError(record), now=now)

    def stream_of(self, record: logging.LogRecord) -> str:
        """Return the stream for a record."""
        if callable(self._stream):
            return self._stream(record)
        return shortened(self._stream.replace("{name}", as_part(record.name) or "%"))

    def data_of(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the payload for a record, in values that JSON has. Override it to store something else."""
        given = record.__dict__
        data = {"logger": as_text(record.name), "level": as_text(record.levelname), "levelno": record.levelno}
        data["message"] = as_text(record.getMessage())
        if record.args:
            data |= {"template": as_text(record.msg), "args": plain(record.args)}
        if self.formatter is not None:
            data["text"] = as_text(self.format(record))
        data |= {name: plain(given.get(name)) for name in _PLACE}
        if given.get("taskName") is not None:
            data["taskName"] = plain(record.taskName)  # type: ignore[attr-defined]
        raised = exception(record.exc_info) if isinstance(record.exc_info, tuple) else None
        if raised is None and record.exc_text:  # Formatted by a handler before, as QueueHandler does it.
            raised = {"text": as_text(record.exc_text)}
        if raised is not None:
            data["exception"] = raised
        if record.stack_info:
            data["stack"] = as_text(record.stack_info)
        if extra := {as_text(name): plain(given[name]) for name in [*given] if name not in _STANDARD}:
            data["extra"] = extra
        return data

    def flush(self) -> None:
        """Append what waits: what lingers, and what was logged while a record was being appended."""
        self._writer.flush()

    def close(self) -> None:
        """Close the store if it was given as a path. A record that comes later opens it again, as with a file."""
        self._writer.close()
        super().close()
