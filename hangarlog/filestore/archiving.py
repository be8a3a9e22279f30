"""Moves the journal's first segments into an archive, while others read and write.

They are copied, and proved in the archive. Only then the events are hidden in their streams, and the journal begins
later, as after a retention. So it may stop at any point: every event is there or here, and it goes on when it is run
again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from datetime import datetime

from hangarlog.eventstore.arguments import is_whole, moment_or_none, seconds_of
from hangarlog.eventstore.retention_policy import RetainedSegment, RetentionReport
from hangarlog.filestore.archive_folder import ArchiveFolder
from hangarlog.filestore.dropping import drop_before, most_to_drop
from hangarlog.filestore.folder import Meta
from hangarlog.filestore.hidden_events import HiddenEvents
from hangarlog.filestore.journal import Journal
from hangarlog.filestore.retaining import Retention
from hangarlog.filestore.retention_plan import Sealed, latest_recorded, sealed_segments, time_before

Before = int | str | datetime
"""What goes: events before a position, before a time (a datetime, or RFC 3339), or older than an age such as "90d"."""

ArchiveProgress = Callable[[int, int], None]
"""Called with the bytes of text that are read here and there, and with those that there are to read."""


class Archiving(Retention):
    """One move of a store's events into an archive, or back. One thread runs it; any may call `stop`."""

    def archive(
        self,
        archive: ArchiveFolder,
        settings: Meta,
        before: Before,
        *,
        compress: bool,
        past_subscribers: bool,
        dry_run: bool,
        progress: ArchiveProgress,
        seconds: float | None,
    ) -> RetentionReport:
        """Do what `FileEventStore.archive` says. `settings` are those of the store."""
        is_before = _before(before)
        report = RetentionReport(dry_run)
        archive.check(create=True)
        with self._alone(seconds):
            report.first_position = self._folder.journal.begins()
            due = [*self._due(is_before, report, past_subscribers=past_subscribers)]
            if dry_run:
                return report
            if due:
                self._move(archive, settings, due, report, compress, progress, seconds)
            drop_before(self._session, report.first_position)
        return report

    def _due(
        self, is_before: Callable[[Journal, Sealed], bool], report: RetentionReport, *, past_subscribers: bool
    ) -> Iterator[Sealed]:
        """Yield the segments that go, and note them in the report."""
        journal = self._folder.journal
        active_first, committed = self._ends()
        sealed = sealed_segments(journal, active_first)
        unread = sys.maxsize if past_subscribers else self._first_unread()
        most = sys.maxsize if report.dry_run or not sealed else most_to_drop(self._session)
        for each in sealed:
            self._go_on()
            if not is_before(journal, each):
                return
            report.held_by = self._why_kept(each, unread, most, committed)
            if report.held_by:
                return
            path = journal.sealed_path(each.first)
            size = self._session.filesystem.size_at(path)
            report.segments.append(RetainedSegment(os.path.basename(path), each.first, each.following - 1, size))
            report.bytes_freed += size
            report.first_position = each.following
            yield each

    def _move(
        self,
        archive: ArchiveFolder,
        settings: Meta,
        due: list[Sealed],
        report: RetentionReport,
        compress: bool,
        progress: ArchiveProgress,
        seconds: float | None,
    ) -> None:
        begins, end = due[0].first, due[-1].following
        # What is deleted is no longer to be found, so it does not go into the archive.
        erased = self._erasing.run(seconds=seconds, between=(begins, end), least=sys.maxsize)
        report.erased, report.damaged = erased.segments, erased.damaged
        done, total = 0, 2 * sum(each.size for each in due)

        def go_on(size: int) -> None:
            nonlocal done
            done += size
            progress(min(done, total), total)
            self._go_on()

        hidden, streams = HiddenEvents(self._folder), dict[str, int]()
        with archive.entered(settings, begins):
            archive.refuse_gap(begins)
            for each in due:
                streams |= archive.take(each, hidden.through, go_on)
            if compress:
                with archive.opened() as opened:
                    opened.compress()
            for stream_id, through in sorted(streams.items()):
                self._go_on()
                self._hide(stream_id, through)


def _before(before: Before) -> Callable[[Journal, Sealed], bool]:
    """Return what tells whether a whole segment is before that. Raises `TypeError` or `ValueError`."""
    if isinstance(before, int) and is_whole(before):
        return lambda journal, each: each.following <= before
    age = seconds_of(before) if isinstance(before, str) else None
    time = moment_or_none("before", before) if age is None else time_before(age)
    if time is None:
        raise TypeError(f"before must be a position, a time or an age, not {before!r}")
    return lambda journal, each: latest_recorded(journal, each) < time
