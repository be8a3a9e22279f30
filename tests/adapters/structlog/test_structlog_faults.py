"""What befalls the store of a log: of structlog, and of the standard library."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import faults

from hangarlog.integrations.logging import HangarlogHandler
from hangarlog.integrations.structlog import HangarlogProcessor


class TestStructlog(faults.Faults):
    stream, makes_anew = "log:s", True
    test_an_event_of_a_newer_release_is_an_error_that_names_it = None  # It reads nothing.

    def open(self, path: Path) -> Any:
        failed: list[Any] = []
        processor: Any = HangarlogProcessor(path, on_error=lambda _: failed.append(sys.exc_info()[1]))
        processor.failed = failed
        return processor

    def add(self, session: Any, turn: int) -> None:
        session(None, "info", {"logger": "s", "event": turn})
        if session.failed:
            raise session.failed.pop()

    def turns(self, session: Any) -> list[int]:
        return [each.data["event"] for each in session._writer.open().read_stream(self.stream)]


class TestLogging(TestStructlog):
    def open(self, path: Path) -> Any:
        handler: Any = HangarlogHandler(path)
        handler.failed = []
        handler.handleError = lambda record: handler.failed.append(sys.exc_info()[1])
        return handler

    def add(self, session: Any, turn: int) -> None:
        session.handle(logging.LogRecord("s", logging.INFO, "", 0, "%d", (turn,), None))
        if session.failed:
            raise session.failed.pop()

    def turns(self, session: Any) -> list[int]:
        return [each.data["args"][0] for each in session._writer.open().read_stream(self.stream)]
