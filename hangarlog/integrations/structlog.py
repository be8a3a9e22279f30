"""A processor that keeps what structlog logs as events: each key, structured exceptions, from many processes."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, MutableMapping
from datetime import datetime
from typing import Any

import msgspec

from hangarlog.eventstore.engine import Durability
from hangarlog.integrations.log_writer import LogWriter, Store
from hangarlog.integrations.plain_values import as_text, exception, plain
from hangarlog.integrations.stream_names import as_part, shortened
from hangarlog.record.timestamp import as_recorded

EVENT_TYPE = "Logged"

_NOW = frozenset(["error", "exception", "critical", "fatal"])

EventDict = MutableMapping[str, Any]


class HangarlogProcessor:
    """Appends each event dictionary to a store, which is given open, or as the path of its folder.

    Args:
        store: an open store, which stays yours to close; or a path.
        stream: the stream, in which `{name}` stands for the key `logger`, else for the name of a standard logger, else
            for "structlog"; or a function of the event dictionary. By default one for each logger.
        durability, linger: as of `HangarlogHandler`.
        last: drop the event afterwards, so that nothing is printed. Otherwise the next processor gets it.
        on_error: called within the `except` block if an event cannot be stored. By default the traceback is printed to
            standard error, and the application goes on.

    Raises what opening a store raises.
    """

    def __init__(
        self,
        store: Store,
        *,
        stream: str | Callable[[EventDict], str] = "log:{name}",
        durability: Durability | float | None = None,
        linger: float = 0.0,
        last: bool = False,
        on_error: Callable[[EventDict], None] | None = None,
    ) -> None:
        self._stream, self._last, self._on_error = stream, last, on_error or _print_error
        self._writer = LogWriter(store, durability, linger)
        self._writer.open()

    def __call__(self, logger: Any, method_name: str, event_dict: EventDict) -> EventDict:
        """Append an event dictionary, and return it. It is in the store then, unless `on_error` was called."""
        try:
            stream_id, data = (
                self._stream_of(logger, event_dict),
                msgspec.json.encode(_data_of(method_name, event_dict)),
            )
        except Exception:
            self._on_error(event_dict)
        else:
            time, now = _time(event_dict.get("timestamp")), method_name in _NOW
            self._writer.write(stream_id, EVENT_TYPE, data, time, lambda: self._on_error(event_dict), now=now)
        if self._last:
            from structlog import DropEvent

            raise DropEvent
        return event_dict

    def _stream_of(self, logger: Any, event_dict: EventDict) -> str:
        if callable(self._stream):
            return self._stream(event_dict)
        name = as_part(as_text(event_dict.get("logger") or getattr(logger, "name", None) or "structlog"))
        return shortened(self._stream.replace("{name}", name))

    def flush(self) -> None:
        """Append what waits: what lingers, and what was logged while an event was being appended."""
        self._writer.flush()

    def close(self) -> None:
        """Close the store if it was given as a path. An event that comes later opens it again."""
        self._writer.close()


def _data_of(method_name: str, event_dict: EventDict) -> dict[str, Any]:
    data: dict[str, Any] = {as_text(name): plain(value) for name, value in event_dict.items() if name[:1] != "_"}
    data.setdefault("level", method_name)
    raised = event_dict.get("exc_info")
    if raised:
        if isinstance(raised, BaseException):
            raised = (type(raised), raised, raised.__traceback__)
        elif not isinstance(raised, tuple):
            raised = sys.exc_info()
        data["exception"] = exception(raised)
        del data["exc_info"]
    return data


def _time(given: object) -> str | None:
    """Return the time of a processor such as `TimeStamper(fmt="iso")`, None if it has no time zone."""
    try:
        moment = datetime.fromisoformat(given) if isinstance(given, str) else given
        if isinstance(moment, datetime) and moment.utcoffset() is not None:
            return as_recorded(moment)
    except (ValueError, OverflowError):
        pass
    return None


def _print_error(event_dict: EventDict) -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # Standard error may be missing, or closed.
        print(f"hangarlog could not store {as_text(event_dict.get('event'))!r}:", file=sys.stderr)
        traceback.print_exc()
