"""`hangarlog stats --watch`: how a store is doing, again and again, until its reader goes or it is interrupted."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Any

from hangarlog.cli.following import refuse_closed_output
from hangarlog.cli.screen import Screen
from hangarlog.cli.terminal import colored, has_blocks, is_terminal, say, write_json
from hangarlog.cli.watch_frame import History, Line, frame, one_line
from hangarlog.record.timestamp import as_recorded
from hangarlog.system.interrupts import Interrupts
from hangarlog.watching.activity import Share
from hangarlog.watching.watcher import Look, Watcher

_BEAT_SECONDS = 0.5
"""Seconds after which it is noticed that the reader has gone."""


def watch(store: str, seconds: float) -> None:
    """Show how the store is doing every `seconds`. Raises `StoreOpenError` if it is gone."""
    with contextlib.closing(Watcher(store, seconds)) as watcher, Interrupts() as interrupts, _no_warnings():
        if is_terminal() and os.environ.get("TERM", "dumb") != "dumb" and sys.platform != "win32":
            with Screen() as screen:
                try:
                    interrupts.release()
                    _on_screen(watcher, screen, seconds)
                finally:
                    interrupts.hold()
        else:
            interrupts.release()
            _in_lines(watcher, seconds)


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Drop warnings about damage: they would stand in the middle of the screen. `hangarlog verify` has them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _on_screen(watcher: Watcher, screen: Screen, seconds: float) -> None:
    unicode, color, history = has_blocks(), not _is_plain(), History()
    due = monotonic()
    look: Look | None = None
    while True:
        if look is None or monotonic() >= due:
            look = watcher.look()
            history.add(look.rates)
            due = max(due + seconds, monotonic())
        columns, rows = screen.size()
        lines = frame(look, history, columns - 1, rows, unicode=unicode, seconds=seconds)
        screen.draw([_text(line, color) for line in lines])
        if screen.wait(due - monotonic()):
            return


def _text(line: Line, color: bool) -> str:
    return "".join(colored(text, **(style if color else {})) for text, style in line)


def _in_lines(watcher: Watcher, seconds: float) -> None:
    due = monotonic()
    while True:
        look = watcher.look()
        if is_terminal():
            say(one_line(look, unicode=has_blocks()))
        else:
            write_json(as_json(look))
            sys.stdout.flush()
        due = max(due + seconds, monotonic())
        while (left := due - monotonic()) > 0:
            refuse_closed_output()
            sleep(min(left, _BEAT_SECONDS))
        refuse_closed_output()


def _is_plain() -> bool:
    return bool(os.environ.get("NO_COLOR"))


def as_json(look: Look) -> dict[str, Any]:
    """Return what a look has found as one flat object."""
    vitals, rates, files = look.vitals, look.rates, look.vitals.files
    state = vitals.state
    rate = rates.events_per_second if rates else None
    return {
        "at": as_recorded(datetime.fromtimestamp(vitals.at, UTC)),
        "path": vitals.path,
        "open": state.is_open,
        "events": vitals.committed,
        "journal_events": vitals.events,
        "journal_bytes": vitals.journal.bytes if vitals.journal else None,
        "bytes": sum(part.bytes for part in files.parts.values()) if files else None,
        "streams": files.streams if files else None,
        "unsynced_events": vitals.unsynced,
        "failed_syncs": state.failed_syncs,
        "events_per_second": rate,
        "bytes_per_second": rates.bytes_per_second if rates else None,
        "syncs_per_second": rates.syncs_per_second if rates else None,
        "sync_p50_seconds": rates.sync_p50 if rates else None,
        "sync_p99_seconds": rates.sync_p99 if rates else None,
        "busy_streams": [_busy(share, "stream_id", rate) for share in look.streams],
        "types": [_busy(share, "event_type", rate) for share in look.types],
        "is_sample": look.is_sample,
        "large_streams": [{"stream_id": each.name, "bytes": each.bytes} for each in files.largest] if files else [],
        "subscribers": list(vitals.subscribers),
        "problems": look.problems,
    }


def _busy(share: Share, key: str, rate: float | None) -> dict[str, Any]:
    return {key: share.name, "share": share.share, "events_per_second": None if rate is None else share.share * rate}
