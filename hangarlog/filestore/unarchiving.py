"""Brings the segments of an archive back to the beginning of the store's journal, while others read and write.

They are copied and proved here first, where nobody reads them, before the journal's beginning. Then one file makes the
journal begin earlier, and stream after stream shows again what was archived. So it may stop at any point, and goes on
when it is run again. The archive stays as it is.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable

import msgspec

from hangarlog.errors import ArchiveError
from hangarlog.eventstore.retention_policy import RetainedSegment, RetentionReport
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.archive_folder import ArchiveFolder, Proof, lines_of, put_sealed
from hangarlog.filestore.catalog import Known
from hangarlog.filestore.compaction import compact, end_of
from hangarlog.filestore.retaining import Retention
from hangarlog.filestore.retention_plan import Sealed, sealed_segments
from hangarlog.filestore.snapshot_files import SnapshotFiles
from hangarlog.log.log import Log
from hangarlog.log.rewriting import Change
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import index_path, text_path
from hangarlog.record.line import erased_journal_record

Ends = defaultdict[str, set[int]]
"""The versions of each stream up to which an archive may have hidden it: the last ones in its segments."""


class Unarchiving(Retention):
    """One return of an archive into its store. One thread runs it; any may call `stop`."""

    def restore(
        self, archive: ArchiveFolder, *, progress: Callable[[int, int], None], seconds: float | None
    ) -> RetentionReport:
        """Do what `FileEventStore.restore_archive` says."""
        report = RetentionReport()
        archive.check(create=False)
        with self._alone(seconds), self._erasing.alone(seconds), archive.opened_folder():
            begins = self._folder.journal.begins()
            archive.refuse_gap(begins)
            with archive.opened() as opened:
                last = opened.last_position
            segments = sealed_segments(archive.folder.journal, last + 1)
            done, total = 0, 2 * sum(each.size for each in segments)

            def go_on(size: int) -> None:
                nonlocal done
                done += size
                progress(min(done, total), total)
                self._go_on()

            ends = self._bring(archive, segments, begins, report, go_on)
            first = archive.folder.journal.begins()
            if first <= begins:  # Also what an earlier run has begun: its sync may have failed.
                self._begin_earlier(first, report)
            report.first_position = first
            self._show(
                archive.folder.stream, SnapshotFiles(archive.folder.filesystem, archive.folder.snapshots_path), ends
            )
        return report

    def _bring(
        self,
        archive: ArchiveFolder,
        segments: list[Sealed],
        begins: int,
        report: RetentionReport,
        go_on: Callable[[int], None],
    ) -> Ends:
        """Have the segments before position `begins` here, proved and on the device."""
        ends: Ends = defaultdict(set)
        for each in segments:
            if each.first < begins < each.following:
                raise ArchiveError(archive.path, f"no segment of it ends before position {begins}")
            with contextlib.closing(archive.folder.journal.open_sealed(each.first)) as segment:
                proof = Proof.of(segment, each, go_on)
                for stream_id, version in proof.streams.items():
                    ends[stream_id].add(version)
                if each.first >= begins:
                    self._put_back_erased(segment, proof, each.first)
                    continue
                put_sealed(segment, self._folder, each.first)
                with contextlib.closing(self._folder.journal.open_sealed(each.first)) as copy:
                    if Proof.of(copy, each, go_on).crc != proof.crc:
                        raise copy.damage(0, "what was copied reads differently; the disk or the memory may be faulty")
                name, last = os.path.basename(segment.path), each.following - 1
                report.segments.append(RetainedSegment(name, each.first, last, segment.file_bytes))
        return ends

    def _put_back_erased(self, archived: Segment, proof: Proof, first: int) -> None:
        """Put back in the journal what was erased again, as no stream showed it yet: an earlier run was cut short."""
        if first not in self._folder.journal.sealed():
            return  # A repair has written the journal anew.
        marks = SnapshotFiles(self._session.filesystem, self._folder.snapshots_path)
        loaded = {stream_id: marks.load(stream_id) for stream_id in proof.streams}
        deleted = {stream_id: mark.deleted_through for stream_id, mark in loaded.items() if mark}

        def taken(line: bytes, other: bytes) -> bytes:
            erased = erased_journal_record(line)
            if erased is None or erased.stream_version <= deleted.get(erased.stream_id, -1):
                return line
            return line if erased_journal_record(other) else other

        def change(_: int) -> Change:
            others = lines_of(archived)
            return lambda text: b"\n".join([*map(taken, text.split(b"\n")[:-1], others), b""])

        with contextlib.closing(self._folder.journal.open_sealed(first)) as segment:
            pairs = zip(lines_of(segment), lines_of(archived), strict=False)
            due = any(taken(line, other) is not line for line, other in pairs)
            if due and not self._erasing.rewrite(segment, first, change):
                raise ArchiveError(self._folder.path, "another process has replaced a segment; run it again")

    def _begin_earlier(self, first: int, report: RetentionReport) -> None:
        """Make the journal begin with the segments that were brought back."""
        session, journal, filesystem = self._session, self._folder.journal, self._session.filesystem
        with session.lock():
            for each in report.segments:  # A recovery takes them for left over from a retention.
                path = os.path.join(self._folder.path, each.name)
                if not filesystem.is_there(path) or filesystem.size_at(path) != each.bytes:
                    raise ArchiveError(self._folder.path, "another process has removed what was copied; run it again")
            self._folder.refuse_moved()
            filesystem.remove(self._folder.ids_path)  # It may lack the ids of these events.
            journal.write_retained(first)
            session.changed_layout()

    def _show(self, stream: Callable[[str], Log], marks: SnapshotFiles, ends: Ends) -> None:
        """Let the streams show again what the archive has hidden, and nothing else."""
        mine = SnapshotFiles(self._session.filesystem, self._folder.snapshots_path)
        for stream_id, versions in sorted(ends.items()):
            self._go_on()
            with self._session.lock():
                mark, other = mine.load(stream_id), marks.load(stream_id)
                begins = max(other.compacted_through if other else -1, mark.deleted_through if mark else -1)
                if mark and mark.compacted_through in versions and mark.compacted_through > begins:
                    end = end_of(self._session, stream_id)
                    with self._session.changing_files():
                        if end:
                            # If an earlier sync of the mark failed, a power cut would show the line erased below.
                            mine.save(mark, mark, in_place=False)
                        self._put_back(stream(stream_id), begins + 1, mark, end)
                        mine.save(msgspec.structs.replace(mark, compacted_through=begins), mark, in_place=False)

    def _put_back(self, archived: Log, first: int, mark: Snapshot, end: Known | None) -> None:
        """Put the lines of an archived stream that are hidden here, from version `first` on, before those shown."""
        log, filesystem, last = self._folder.stream(mark.stream_id), self._session.filesystem, mark.compacted_through
        if end:
            compact(self._session, mark, end)  # So that what follows begins in a file of its own.
        text, size, begins, number = list[bytes](), 0, first, first
        for records, lines in archived.forward_lines(first):
            for record, line in zip(records, lines, strict=True):
                if record.stream_version != number or number > last:
                    break
                if size >= self._session.segment_bytes:
                    filesystem.replace_file(text_path(log.sealed_base(begins)), b"".join(text))
                    text, size, begins = [], 0, number
                text.append(line + b"\n")
                size, number = size + len(line) + 1, number + 1
        if number <= last:
            cause = f"its stream {mark.stream_id!r} lacks version {number}; run `hangarlog repair` on it"
            raise ArchiveError(archived.folder, cause)
        if end and end.version > last:
            filesystem.replace_file(text_path(log.sealed_base(begins)), b"".join(text))
        else:
            filesystem.remove(index_path(log.base))
            filesystem.replace_file(log.active_path, b"".join(text))
