"""Repairs streams and snapshots from an intact journal. For the holder of the write lock only."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

import msgspec

from hangarlog.errors import CorruptionError
from hangarlog.eventstore.snapshot import Snapshot
from hangarlog.filestore.file_names import stream_id_of, stream_path
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.hidden_events import DeletedStreams
from hangarlog.filestore.line_scan import File, found_in, opened, stream_files
from hangarlog.filestore.recovery.rebuild import VersionSpan
from hangarlog.filestore.recovery.rewriting import Replaced, Rewriting
from hangarlog.filestore.snapshot_files import SnapshotFiles, snapshot_paths
from hangarlog.log.segment_name import CACHES, compressed_path, index_beside, text_path
from hangarlog.record.checksum import crc32
from hangarlog.record.envelope import Envelope
from hangarlog.record.line import StoredEnvelope, erased_line, erased_record, is_erased
from hangarlog.record.strict import snapshot_flaw
from hangarlog.system.file_copy import copy_file, keep_damaged
from hangarlog.system.filesystem import FileSystem

GROUP_BYTES = 64 << 20
"""Bytes of streams rewritten at a time."""

_LOST = b'{"stream_version":%d,"lost":"no whole copy of this event is left"}'

_SHORTENED = re.compile("~[0-9a-f]{64}(/|$)").search
"""Matches a shortened name, which no stream id can be derived from."""

Key = tuple[str, str]
"""A stream's (category folder, name)."""


class _Stream(msgspec.Struct):
    """A stream as its files have it and as the journal has it.

    The files have the versions from `start` to before `next`. `whole` is True if their segments are intact and have no
    gap between them; `holes` are the versions whose lines are lost. What a mark hides, up to version `hidden`, is not
    compared. The journal has erased the events up to version `gone`.
    """

    stream_id: str = ""
    files: list[File] = []
    whole: bool = False
    start: int = 0
    next: int = 0
    holes: list[int] = []
    erased: bool = False  # The first line is an erased one.
    hidden: int = -1
    crc: int = 0
    position: int = 0  # Of the last record.
    # In the journal:
    gone: int = -1
    first: int = -1
    last: int = -1
    last_position: int = 0
    size: int = 0
    journal_crc: int = 0
    # Before its beginning:
    dropped: bool = False


class Mending:
    """Repairs the streams and snapshots of a store. `lost` are the versions that the journal has lost."""

    def __init__(self, folder: Folder, segment_bytes: int, lost: Iterable[VersionSpan]) -> None:
        self._folder, self._filesystem, self._segment_bytes = folder, folder.filesystem, segment_bytes
        self._snapshot_files = SnapshotFiles(folder.filesystem, folder.snapshots_path)
        self._journal_begins = folder.journal.begins()
        self._lost: defaultdict[str, set[int]] = defaultdict(set)
        for span in lost:
            self._lost[span.stream_id].update(range(span.first, span.last + 1))
        self._streams: defaultdict[Key, _Stream] = defaultdict(_Stream)
        self._snapshots: dict[str, Snapshot] = {}
        self._event_ids: dict[str, str] = {}  # {stream id: id of the event at its snapshot's version}

    def run(self) -> Iterator[Replaced]:
        """Repair everything, yielding each file when it was replaced."""
        yield from self._damaged_snapshots()
        for file in stream_files(self._folder):
            self._streams[file.category(self._folder), file.name].files.append(file)
        for stream in self._streams.values():
            self._read(stream)
        for record, line in self._journal():
            self._note_record(record, line)
        yield from self._dropped()
        yield from self._wrong_snapshots()
        wrong = [key for key, stream in self._streams.items() if not self._is_right(stream)]
        for group in self._groups(wrong):
            yield from self._write(group)
        for key, stream in self._streams.items():
            if stream.last < 0:
                yield from self._remove_unknown(key, stream)

    def _dropped(self) -> Iterator[Replaced]:
        """Keep the last versions of streams whose events were all dropped from the journal."""
        begins = self._journal_begins
        for stream in self._streams.values():
            stream_id, mark = stream.stream_id, self._snapshots.get(stream.stream_id)
            ahead = mark is not None and mark.compacted_through >= stream.next
            if stream.last < 0 < stream.next and stream.position < begins and stream.whole and not ahead:
                last = stream.next - 1
                if last > (mark.compacted_through if mark else -1):  # An older one, in a copy.
                    mark = msgspec.structs.replace(mark or Snapshot(stream_id), compacted_through=last)
                    self._snapshots[stream_id] = mark if mark.version >= last else mark.without_state()
                    self._snapshot_files.save(self._snapshots[stream_id])
                    yield Replaced(self._snapshot_files.path(stream_id), "")
                if not stream.holes:
                    stream.dropped, stream.last = True, last
        for stream_id, snapshot in self._snapshots.items() if begins > 1 else ():
            stream = self._streams[stream_path(stream_id)]
            if stream.last < 0 and not snapshot.is_beginning:  # Only its mark is left.
                for file in stream.files:
                    self._filesystem.remove(index_beside(file.path))
                    yield Replaced(file.path, keep_damaged(self._filesystem, file.path, remove=True))
                log, through = self._folder.stream(stream_id), snapshot.compacted_through
                record = Envelope(begins - 1, stream_id, through, "", "dropped", snapshot.saved_at, msgspec.Raw(b"{}"))
                self._folder.make_category(log)
                self._filesystem.replace_file(log.active_path, erased_line(record))
                stream.dropped, stream.last = True, through
                yield Replaced(log.active_path, "")

    # Snapshots

    def _damaged_snapshots(self) -> Iterator[Replaced]:
        for path in snapshot_paths(self._filesystem, self._folder.snapshots_path):
            category, name = os.path.split(os.path.relpath(path, self._folder.snapshots_path))
            snapshot, _ = load_snapshot(self._filesystem, path) or (None, b"")
            if snapshot and stream_path(snapshot.stream_id) == (category, name.removesuffix(".json")):
                self._snapshots[snapshot.stream_id] = snapshot
            else:
                yield Replaced(path, keep_damaged(self._filesystem, path, remove=True))

    def _wrong_snapshots(self) -> Iterator[Replaced]:
        """Replace snapshots that do not match the journal, and write those that say where an imported stream begins."""
        for stream_id, snapshot in list(self._snapshots.items()):
            last = self._streams[stream_path(stream_id)].last
            event_id = snapshot.event_id or ""
            if is_ahead(snapshot, last) or event_id != self._event_ids.get(stream_id, event_id):
                path = self._snapshot_files.path(stream_id)
                del self._snapshots[stream_id]
                self._streams[stream_path(stream_id)].whole = False  # What was hidden is to be compared, too.
                yield Replaced(path, keep_damaged(self._filesystem, path, remove=True))
                left = snapshot.still_hides(last)
                if self._streams[stream_path(stream_id)].dropped:
                    left = msgspec.structs.replace(left, compacted_through=last)
                if left.compacted_through >= 0:
                    self._snapshots[stream_id] = left
                    self._snapshot_files.save(left)
        deleted = DeletedStreams(self._folder)
        for stream_id, snapshot in self._snapshots.items():
            if snapshot.deleted_through >= 0 and not deleted.knows(stream_id):
                deleted.note(stream_id)
                yield Replaced(deleted.path(stream_id), "")
        for stream in self._streams.values():
            begins = max(0, stream.first, stream.gone + 1)
            if self._shows_erased(stream) or begins - 1 in self._lost[stream.stream_id]:
                continue
            if begins > self._compacted_through(stream) + 1:
                before = self._snapshots.get(stream.stream_id)
                kept = before if before and before.version >= begins - 1 else Snapshot(stream.stream_id)
                snapshot = msgspec.structs.replace(kept, compacted_through=begins - 1)
                self._snapshots[stream.stream_id] = snapshot
                self._snapshot_files.save(snapshot)
                yield Replaced(self._snapshot_files.path(stream.stream_id), "")

    def _compacted_through(self, stream: _Stream) -> int:
        snapshot = self._snapshots.get(stream.stream_id)
        return snapshot.compacted_through if snapshot else -1

    def _shows_erased(self, stream: _Stream) -> bool:
        """True if the journal has erased events that no mark hides, and the stream has them. It stays as it is."""
        has = stream.start <= stream.gone < stream.next and not stream.erased
        return has and stream.gone > self._compacted_through(stream)

    # Reading

    def _journal(self) -> Iterator[tuple[StoredEnvelope, bytes]]:
        journal = self._folder.journal
        for path in [*map(journal.sealed_path, journal.sealed()), journal.active_path]:
            with opened(self._filesystem, path) as segment:
                for _, found in found_in(segment, journal=True) if segment else ():
                    for line, record in found:
                        if record:
                            yield record, line

    def _note_record(self, record: StoredEnvelope, line: bytes) -> None:
        stream_id, version = record.stream_id, record.stream_version
        stream = self._streams[stream_path(stream_id)]
        stream.stream_id = stream_id
        if stream.first < 0:
            stream.first = version
        stream.last, stream.last_position = version, record.position
        stream.size += len(line) + 1
        gone = is_erased(record)
        stream.gone = version if gone else stream.gone
        if version >= stream.start and version > stream.hidden and (stream.erased or not gone):
            erased = stream.erased and version == stream.start
            stream.journal_crc = crc32(erased_line(record)[:-1] if erased else line, stream.journal_crc)
        snapshot = self._snapshots.get(stream_id)
        if snapshot and snapshot.version == version:
            self._event_ids[stream_id] = record.event_id if snapshot.event_id else ""

    def _read(self, stream: _Stream) -> None:
        """Note what the files of a stream have, as long as their segments are intact and continue each other."""
        stream.whole = bool(stream.files) and stream.files[-1].sealed is None and not stream.files[-1].spare
        stream.start = stream.next = -1
        for file in sorted(stream.files, key=lambda file: (file.sealed is None, file.sealed or 0, file.spare)):
            stream.whole &= not file.spare and self._read_segment(stream, file)
        stream.start = max(0, stream.start)

    def _read_segment(self, stream: _Stream, file: File) -> bool:
        holes, end, lost_within = 0, 0, False
        before = stream.next
        key = file.category(self._folder), file.name
        with opened(self._filesystem, file.path) as segment:
            if segment is None or file.sealed not in (None, stream.next if stream.next >= 0 else file.sealed):
                return False
            for _, found in found_in(segment):
                for line, record in found:
                    end += len(line) + 1
                    if record is None and stream.start < 0 and not holes:
                        record = erased_record(line)
                        stream.erased = record is not None and record.position >= self._journal_begins
                        if record and not stream.erased and stream_path(record.stream_id) == key:
                            stream.start = stream.next = record.stream_version + 1
                            stream.position, stream.stream_id = record.position, record.stream_id
                            continue  # The journal does not have it any more.
                    if record is None:
                        holes += 1
                        continue
                    version = record.stream_version
                    if stream.start < 0:
                        stream.start = stream.next = version - holes if file.sealed is None else file.sealed
                    if version != stream.next + holes or stream_path(record.stream_id) != key:
                        return False
                    stream.holes += range(stream.next, version)
                    lost_within |= holes > 0
                    if stream.hidden < 0 and (snapshot := self._snapshots.get(record.stream_id)):
                        stream.hidden = snapshot.compacted_through
                    if version > stream.hidden:
                        stream.crc = crc32(line, stream.crc)
                    stream.next, stream.position, holes = version + 1, record.position, 0
                    stream.stream_id = record.stream_id
            if file.sealed is None:  # Writers check the end of the active segment, so it may have no lost line.
                return not (holes or lost_within) and end == segment.size
            stream.holes += range(stream.next, stream.next + holes)
            stream.next += holes
            return before < stream.next and end == segment.size

    def _is_right(self, stream: _Stream) -> bool:
        """True if nothing needs to be written for a stream: it agrees with the journal, or that does not know it."""
        return stream.last < 0 or stream.dropped or self._matches_journal(stream)

    def _matches_journal(self, stream: _Stream) -> bool:
        if self._shows_erased(stream):
            return True
        lost = sorted(version for version in self._lost[stream.stream_id] if version >= stream.start)
        begins = max(self._begins(stream), 0)
        same = (stream.crc, stream.next, stream.holes) == (stream.journal_crc, stream.last + 1, lost)
        # What is hidden is not compared, so the last record may be of another history.
        same &= stream.position == stream.last_position or stream.holes[-1:] == [stream.last]
        hidden = not stream.erased or stream.start <= self._compacted_through(stream)
        return stream.whole and same and hidden and stream.start <= begins

    def _begins(self, stream: _Stream) -> int:
        """Return the highest version that the stream's files may begin with."""
        lost = self._lost[stream.stream_id]
        return min(stream.last, max(self._compacted_through(stream) + 1, min([stream.first, *lost])))

    # Writing

    def _groups(self, keys: list[Key]) -> Iterator[list[Key]]:
        group: list[Key] = []
        size = 0
        for key in sorted(keys):
            size += self._streams[key].size
            if group and size > GROUP_BYTES:
                yield group
                group, size = [], self._streams[key].size
            group.append(key)
        if group:
            yield group

    def _write(self, keys: list[Key]) -> Iterator[Replaced]:
        """Rewrite these streams from the journal."""
        writing: dict[str, tuple[Rewriting, int]] = {}
        for key in keys:
            stream = self._streams[key]
            kept = self._make_category(key[0])
            if kept:
                yield kept
            log = self._folder.stream(stream.stream_id)
            rewriting = Rewriting(log, self._segment_bytes)
            begins = self._begins(stream)
            least = begins if rewriting.begins is None else min(begins, rewriting.begins)
            # What comes before an erased event is hidden, too.
            writing[stream.stream_id] = rewriting, min(stream.last, max(least, stream.gone + 1))
        nexts: dict[str, int] = {}
        for record, line in self._journal():
            stream_id, version = record.stream_id, record.stream_version
            if stream_id in writing:
                rewriting, begins = writing[stream_id]
                stream = self._streams[stream_path(stream_id)]
                hidden = version == stream.last <= self._compacted_through(stream)
                if version >= begins and (hidden or not is_erased(record)):
                    for lost in self._lost_between(stream_id, nexts.get(stream_id, begins), version):
                        rewriting.add(lost, _LOST % lost, hole=True)
                    rewriting.add(version, erased_line(record)[:-1] if hidden else line)
                nexts[stream_id] = version + 1
        for rewriting, _ in writing.values():
            rewriting.finish()
            yield from rewriting.put_in_place()

    def _lost_between(self, stream_id: str, first: int, following: int) -> Iterable[int]:
        """Return the lost versions from `first` to before `following`, in order.

        It never walks a long range: a forged record may claim any version.
        """
        lost = self._lost[stream_id]
        if following - first < len(lost):
            return [version for version in range(first, following) if version in lost]
        return sorted(version for version in lost if first <= version < following)

    def _make_category(self, category: str) -> Replaced | None:
        path = self._folder.category_path(category)
        if self._filesystem.is_folder(path):
            return None
        kept = keep_damaged(self._filesystem, path, remove=True)
        self._filesystem.make_folder(self._folder.streams_path)
        self._filesystem.make_folder(path)
        return Replaced(path, kept) if kept else None

    def _remove_unknown(self, key: Key, stream: _Stream) -> Iterator[Replaced]:
        """Remove the files of a stream that the journal does not know, if a store may have written them."""
        if not is_stream_name(*key):
            return
        for file in stream.files:
            if file.sealed is not None or file.spare or not self._filesystem.is_empty(file.path):
                self._filesystem.remove(index_beside(file.path))
                yield Replaced(file.path, keep_damaged(self._filesystem, file.path, remove=True))
            else:
                self._filesystem.remove(file.path)  # An empty file of a stream without events.


def break_links(folder: Folder) -> Iterator[str]:
    """Copy each active segment that is a hard link, and yield its path. The other name keeps the old file."""
    active = [file.path for file in stream_files(folder) if file.sealed is None]
    for path in [folder.journal.active_path, *active]:
        if folder.filesystem.has_other_names(path):
            folder.filesystem.remove(index_beside(path))
            copy_file(folder.filesystem, path, path)
            yield path


def forget_indexes(folder: Folder) -> None:
    """Delete each index, and each file of times, whose segment is missing: a new segment may get its name."""
    filesystem = folder.filesystem
    categories = [e.path for e in filesystem.entries(folder.streams_path) if e.is_dir()]
    for path in [folder.path, folder.streams_path, *categories]:
        names = {entry.name for entry in filesystem.entries(path)}
        for name in names:
            base, _ = os.path.splitext(name)
            if name.endswith(CACHES) and not names & {text_path(base), compressed_path(base)}:
                filesystem.remove(os.path.join(path, name))


def is_stream_name(category: str, name: str) -> bool:
    """True if the store may have given this name to a file."""
    return stream_id_of(category, name) is not None or _SHORTENED(f"{category}/{name}") is not None


def load_snapshot(filesystem: FileSystem, path: str) -> tuple[Snapshot, bytes] | None:
    """Return (the snapshot in a file, all bytes of the file), or None if it is not intact."""
    with contextlib.suppress(CorruptionError, FileNotFoundError):
        snapshot, text, content = SnapshotFiles(filesystem, os.path.dirname(path)).read_whole(path)
        return None if snapshot_flaw(text, snapshot.version) else (snapshot, content)
    return None


def is_ahead(snapshot: Snapshot, last: int) -> bool:
    """True if a snapshot is newer than a stream whose last version is `last`."""
    if last < 0 and snapshot.is_beginning:
        return False  # The stream is being imported.
    return snapshot.compacted_through > last or (snapshot.event_id is not None and snapshot.version > last)
