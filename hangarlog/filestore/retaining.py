"""Retention: policies hide events of streams, then the journal drops the segments in which every event is hidden."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping

from hangarlog.errors import StreamNotFoundError
from hangarlog.eventstore.retention_policy import RetainedSegment, RetentionPolicy, RetentionReport
from hangarlog.filestore.dropping import drop_before, most_to_drop
from hangarlog.filestore.erasing import Erasing
from hangarlog.filestore.hidden_events import HiddenEvents
from hangarlog.filestore.retention_plan import Plan, Sealed, Streams, sealed_segments
from hangarlog.filestore.write_session import WriteSession
from hangarlog.record.cursor_move import CursorPlace
from hangarlog.system.file_lock import FileLock, held

Hide = Callable[[str, int], int]
"""Hides a stream's events up to a version, and returns how many."""

RetentionProgress = Callable[[int, int], None]
"""Called with the streams that are done, and with those that there are to do."""


class _StoppedError(Exception):
    pass


class Retention:
    """One retention of a store. One thread runs it; any may call `stop`."""

    def __init__(self, session: WriteSession, streams: Streams, hide: Hide, places: list[CursorPlace]) -> None:
        """`places` are those of all cursors."""
        self._session, self._folder = session, session.folder
        self._streams, self._hide, self._places = streams, hide, places
        self._erasing, self._stopped = Erasing(session), False
        self._unread = 1

    def stop(self) -> None:
        """Stop soon. What is not done stays as it was."""
        self._stopped = True
        self._erasing.stop()

    def run(
        self,
        policies: tuple[RetentionPolicy, ...],
        *,
        dry_run: bool,
        progress: RetentionProgress = lambda done, total: None,
        seconds: float | None = 0,
    ) -> RetentionReport:
        """Do what `FileEventStore.retain` says. If another one is running, wait for it.

        Raises:
            LockTimeoutError: the other one takes too long.
            What taking the write lock raises.
        """
        report = RetentionReport(dry_run)
        with self._alone(seconds):
            planned = self._run(policies, report, progress)
            self._erase(report, planned, seconds)
        return report

    @contextlib.contextmanager
    def _alone(self, seconds: float | None) -> Iterator[None]:
        """Keep others from dropping events meanwhile. `stop` ends the block."""
        with self._session.lock():
            pass  # Refuses a store that may only be read, and finishes what a dead writer left.
        lock = FileLock(self._session.filesystem, self._folder.lock_path("retain"))
        with contextlib.closing(lock), held(lock, seconds), contextlib.suppress(_StoppedError):
            yield

    def _erase(self, report: RetentionReport, planned: Mapping[str, int], seconds: float | None) -> None:
        """Write the segments that stay anew without what is hidden."""
        begins, planned = (report.first_position, planned) if report.dry_run else (1, {})
        between = (begins, self._unread)
        done = self._erasing.run(seconds=seconds, dry_run=report.dry_run, between=between, planned=planned)
        report.erased, report.damaged = done.segments, done.damaged
        report.bytes_freed += sum(each.bytes for each in done.segments)

    def _run(
        self, policies: tuple[RetentionPolicy, ...], report: RetentionReport, progress: RetentionProgress
    ) -> Mapping[str, int]:
        """Hide what the policies say, and drop what begins the journal. Return {stream: version} of what they say."""
        report.first_position = self._folder.journal.begins()
        active_first, committed = self._ends()
        sealed = sealed_segments(self._folder.journal, active_first)
        unread = self._first_unread()
        plan = Plan(
            self._folder.journal,
            sealed,
            committed,
            unread,
            self._streams,
            HiddenEvents(self._folder),
            self._go_on,
        )
        report.policies = [plan.add(policy) for policy in policies]
        if not report.dry_run:
            for done, (stream_id, through) in enumerate(sorted(plan.through.items())):
                progress(done, len(plan.through))
                self._go_on()
                with contextlib.suppress(StreamNotFoundError):
                    self._hide(stream_id, through)
            progress(len(plan.through), len(plan.through))
        if any(policy.past_subscribers for policy in policies):
            unread = sys.maxsize
        self._unread = unread
        self._drop(sealed, unread, plan.through if report.dry_run else {}, report)
        return plan.through

    def _first_unread(self) -> int:
        """Return the first position that a named subscriber, cursor or projection has not read."""
        return min((place.position for place in self._places), default=sys.maxsize - 1) + 1

    def _go_on(self) -> None:
        if self._stopped:
            raise _StoppedError

    def _ends(self) -> tuple[int, int]:
        """Return (the first position of the active segment, the committed position)."""
        with self._session.lock():
            return self._session.journal_first, self._session.committed

    def _drop(self, sealed: list[Sealed], unread: int, planned: Mapping[str, int], report: RetentionReport) -> None:
        journal, hidden = self._folder.journal, HiddenEvents(self._folder, planned)
        most = sys.maxsize if report.dry_run or not sealed else most_to_drop(self._session)
        first, committed = report.first_position, self._ends()[1]
        for each in sealed:
            self._go_on()
            report.held_by = self._why_kept(each, unread, most, committed) or hidden.first_shown(journal, each.first)
            if report.held_by:
                break
            path = journal.sealed_path(each.first)
            size = self._session.filesystem.size_at(path)
            report.segments.append(RetainedSegment(os.path.basename(path), each.first, each.following - 1, size))
            report.bytes_freed += size
            first = each.following
        if not report.dry_run:
            drop_before(self._session, first)
        report.first_position = first

    def _why_kept(self, each: Sealed, unread: int, most: int, committed: int) -> str:
        if each.following > unread:
            name = min(self._places, key=lambda place: place.position).name
            return f"{name!r} has not read position {unread}; past_subscribers=True (`--past-subscribers`) drops it"
        if each.following > committed:
            return "the last event of the journal stays"
        if each.following > most:
            return "no checkpoint could be made; if a sync has failed, it stays until the machine restarts"
        return ""
