"""The folder of a store: its paths, what `hangarlog.json` says, and the creation of a store."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from uuid import uuid4

import msgspec

from hangarlog.errors import CorruptionError, StoreFormatError, StoreOpenError
from hangarlog.filestore.file_names import stream_id_of, stream_path
from hangarlog.filestore.file_owners import JournalNames
from hangarlog.filestore.journal import Journal
from hangarlog.log.active_segment import ActiveSegment
from hangarlog.log.compressed_segment import open_segment
from hangarlog.log.log import Log
from hangarlog.log.segment_name import TEXT, text_path
from hangarlog.record.line import decode_record, is_record
from hangarlog.record.strict import refuse_repeated_keys
from hangarlog.record.timestamp import now
from hangarlog.system.file_copy import keep_damaged
from hangarlog.system.file_lock import FairLock, held
from hangarlog.system.filesystem import FRESH, PRIVATE_MODE, FileSystem
from hangarlog.system.mounts import refuse_unsafe
from hangarlog.system.open_folder import Entry

FORMAT = 1
MAX_SEGMENT_BYTES = 2 << 30  # An index has offsets of 32 bits, and a batch may exceed the segment size.

META_ADVICE = "; run `hangarlog repair`, or restore it from a backup"
"""What the error about a damaged `hangarlog.json` ends with."""

_META = "hangarlog.json"
_MOST_SHOWN, _MOST_CAUSE = 80, 200  # So many characters of a value, or of a cause, are shown: a file has 64 KiB.
_JOURNAL = "journal"
_MODES = frozenset(f"06{group}{others}" for group in "046" for others in "04")
_OURS = frozenset(["locks", "streams", "state", "ring", "catalog", text_path(_JOURNAL), _META + FRESH])


is_store_id = re.compile(r"[A-Za-z0-9-]{1,64}").fullmatch
"""Return a match if a text can be a store's id: the header of a frame in the commit ring has room for it."""


class Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    """The contents of `hangarlog.json`: the format's number, the store's id, and the settings it was created with.

    `mode` is the permissions of its files in octal digits; None means private. An `archive` of the store takes no
    appends.
    """

    format: int
    store_id: str
    created_at: str
    segment_bytes: int
    mode: str | None = None
    archive: bool = False


def _damaged(path: str, cause: str) -> StoreFormatError:
    return StoreFormatError(path, f"{_META} is damaged ({cause[:_MOST_CAUSE]}){META_ADVICE}")


class Folder:
    """The paths of a store."""

    fd = -1
    """The descriptor of the open folder, or -1."""

    def __init__(self, filesystem: FileSystem, path: str) -> None:
        path = os.path.abspath(path)  # The process may change its current folder.
        self.filesystem, self.path = filesystem, path
        self.meta_path = os.path.join(path, _META)
        self.state_path = os.path.join(path, "state")
        self.aside_path = os.path.join(path, "put-aside.jsonl")
        self.ring_path = os.path.join(path, "ring")
        self.catalog_path = os.path.join(path, "catalog")
        self.ids_path = os.path.join(path, "event-ids")
        self.checkpoint_path = os.path.join(path, "checkpoint.json")
        self.streams_path = os.path.join(path, "streams")
        self.snapshots_path = os.path.join(path, "snapshots")
        self.cursors_path = os.path.join(path, "cursors.jsonl")
        self.deleted_path = os.path.join(path, "deleted")
        self.projections_path = os.path.join(path, "projections")
        self.locks_path = os.path.join(path, "locks")
        self.store_id = ""
        """The store's id, once it is open."""
        self.is_archive = False
        self.journal = self.journal_log()
        self.home = 0
        """A number that identifies the folder; a copy of it has another one."""

    def journal_log(self) -> Journal:
        """Return the log of the journal."""
        return Journal(self.filesystem, self.path, _JOURNAL, self.store_id)

    def stream(self, stream_id: str, known: set[str] | None = None) -> Log:
        """Return the log of a stream. Raises `CorruptionError` if its folder is a symbolic link.

        Folders in `known` are not checked again.
        """
        category, name = stream_path(stream_id)
        folder = self.category_path(category)
        if known is None or folder not in known:
            if self.filesystem.is_link(folder):  # The system refuses a link only as the last part of a path.
                cause = "it is a symbolic link; put a folder in its place"
                raise CorruptionError(folder, category, 0, cause, mendable=False)
            if known is not None:
                known.add(folder)
        return Log(self.filesystem, folder, name, "stream_version")

    def category_path(self, folder: str) -> str:
        """Return the folder of a category's streams; "" is the folder of streams without a category."""
        return os.path.join(self.streams_path, folder) if folder else self.streams_path

    def make_category(self, log: Log) -> None:
        """Create the folder of a stream, durably. The store's own folder is not created: it may have been moved."""
        if log.folder != self.streams_path:
            self.filesystem.make_folder(self.streams_path)
        self.filesystem.make_folder(log.folder)

    def lock_path(self, name: str) -> str:
        """Return the path of a lock file."""
        return os.path.join(self.locks_path, f"{name}.lock")

    def write_lock(self) -> FairLock:
        """Return the lock that a writer takes."""
        return FairLock(self.filesystem, self.locks_path, "write")

    def put_aside(self, lines: Iterable[bytes]) -> None:
        """Append intact records that a recovery removed from the store to `put-aside.jsonl`."""
        filesystem = self.filesystem
        fd = filesystem.open_append(self.aside_path, create=True)
        try:
            if filesystem.names(fd) > 1:  # The old file is a hard link: its other name keeps it as it is.
                filesystem.remove(self.aside_path)
                other, fd = fd, filesystem.open_append(self.aside_path, create=True)
                filesystem.close(other)
            filesystem.write(fd, b"".join(line + b"\n" for line in lines))
        finally:
            filesystem.close(fd)

    def stream_files(self) -> Iterator[tuple[str, str, Entry]]:
        """Yield (category folder, name, directory entry) of every stream's active segment, in no order."""
        for entry in self.filesystem.entries(self.streams_path):
            if entry.is_dir():
                for file in self.filesystem.entries(entry.path):
                    if _is_live(file):
                        yield entry.name, file.name[: -len(TEXT)], file
            elif _is_live(entry):
                yield "", entry.name[: -len(TEXT)], entry

    def keep_damaged(self, path: str) -> None:
        """Keep a copy of a file as `NAME.damaged`, before it is repaired."""
        keep_damaged(self.filesystem, path)

    def all_folders(self) -> Iterator[str]:
        """Yield the folders within the store that hold its files."""
        for path in (self.streams_path, self.snapshots_path, self.deleted_path, self.projections_path):
            if self.filesystem.is_folder(path):
                yield path
            yield from (entry.path for entry in self.filesystem.entries(path) if entry.is_dir())

    def stream_ids(self, prefix: str = "") -> Iterator[str]:
        """Yield the ids of the streams that begin with `prefix`, in no order. Other files are skipped."""
        category, colon, _ = prefix.partition(":")
        if any("\ud800" <= character <= "\udfff" for character in prefix):
            return
        only = stream_path(f"{category}:x")[0] if colon and category else None
        names = JournalNames(self.journal)
        for folder, name, file in self.stream_files():
            if only is None or folder == only:
                stream_id = self.stream_id_at(folder, name, file.path, names)
                if stream_id is not None and stream_id.startswith(prefix):
                    yield stream_id

    def stream_id_at(self, folder: str, name: str, path: str, names: JournalNames) -> str | None:
        """Return the id of the stream whose active segment is (folder, name) at `path`, or None.

        `names` are the journal's streams, for a file without an intact line.
        """
        if "~" not in folder + name:
            return stream_id_of(folder, name)
        # A long name is shortened, but every line has the id.
        log = Log(self.filesystem, os.path.dirname(path), name, "stream_version")
        stream_id = _id_in(log.base, log) or next(
            filter(None, (_id_in(log.sealed_base(n), log) for n in names.sealed(log))), None
        )
        if stream_id is None and self.filesystem.size_at(path):
            with contextlib.suppress(CorruptionError):
                return names.get(folder, name)  # Every line of the stream itself is damaged.
        return stream_id if stream_id and stream_path(stream_id) == (folder, name) else None

    # Opening

    def open(
        self,
        segment_bytes: int,
        *,
        create: bool,
        mode: int | None = None,
        unsafe_file_system: str | None = None,
        settings: Meta | None = None,
    ) -> Meta:
        """Return the store's settings. With `create`, make a store if there is none, its files with `mode`.

        Given `settings` are those of a new store.

        Raises:
            UnsafeFileSystemError: its file system is not safe, and not of the type named by `unsafe_file_system`.
            StoreOpenError: it is not a store and cannot become one, or cannot be read.
            StoreFormatError: it has another format, or `hangarlog.json` is damaged.
        """
        if mode is not None and not (type(mode) is int and f"{mode:04o}" in _MODES):
            shown = oct(mode) if type(mode) is int else repr(mode)
            raise ValueError(f"mode must be 0o600, plus read or write for the group, or read for others, not {shown}")
        entered = self.fd >= 0
        try:
            if os.path.lexists(self.path) and not os.path.isdir(self.path):
                dangles = not os.path.exists(self.path)
                what = "it is a link to what does not exist" if dangles else "it is a file; a store is a folder"
                raise StoreOpenError(self.path, what)
            self._enter_checked(unsafe_file_system)
            meta = self._load() or self._create(segment_bytes, create, mode, settings)
            if self.fd < 0:  # Another process created it meanwhile.
                self._enter_checked(unsafe_file_system)
            self._set_rights(meta)
            self.home = self.filesystem.made_at(self.meta_path)
            self.store_id = self.journal.store_id = meta.store_id
            self.is_archive = meta.archive
            entered = True
            return meta
        except PermissionError as error:
            advice = "if it belongs to another user, run this as that user; else name another place"
            raise StoreOpenError(self.path, f"{error.strerror} ({error.filename}); {advice}") from error
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise StoreOpenError(self.path, f"{error.strerror}{where}; remove the cause, then try again") from error
        finally:
            if not entered:
                self.close()

    def _enter_checked(self, unsafe_file_system: str | None) -> None:
        self.enter()
        self._refuse_links()
        refuse_unsafe(self.filesystem, self.path, unsafe_file_system)

    def enter(self) -> None:
        """Open the folder, if it exists. From now on its files are found through its descriptor."""
        if self.fd < 0 and os.path.isdir(self.path):
            self.fd = self.filesystem.open_folder(self.path)
            self.filesystem.enter(self.path, self.fd)

    def refuse_moved(self) -> None:
        """Raise `StoreOpenError` if the open folder is no longer the one at its path."""
        if not self.filesystem.is_folder_at(self.fd, self.path):
            raise StoreOpenError(self.path, "its folder was moved, deleted or replaced while it was open; open it anew")

    def close(self) -> None:
        """Close the folder."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            try:
                self.filesystem.leave(fd)
            finally:
                self.filesystem.close(fd)

    __del__ = close

    def settings(self) -> Meta | None:
        """Return what `hangarlog.json` says, None if it is missing. Raises `StoreFormatError` or `OSError`."""
        return self._load()

    def _load(self) -> Meta | None:
        try:
            content = self.filesystem.read_file(self.meta_path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise _damaged(self.path, str(error.strerror)) from error
            raise
        try:
            found = msgspec.json.decode(content, type=dict[str, object]).get("format")
            if found != FORMAT:
                cause = f"its format is {repr(found)[:_MOST_SHOWN]}, this version knows {FORMAT}"
                if isinstance(found, int) and found > FORMAT:
                    raise StoreFormatError(self.path, f"{cause}; upgrade hangarlog to open it")
                raise _damaged(self.path, cause)
            refuse_repeated_keys(content)
            meta = msgspec.json.decode(content, type=Meta)
            if not is_store_id(meta.store_id):
                cause = f"store_id is {meta.store_id[:_MOST_SHOWN]!r}, not up to 64 of A-Z, a-z, 0-9 and -"
                raise _damaged(self.path, cause)
            if not 1 <= meta.segment_bytes <= MAX_SEGMENT_BYTES:
                cause = f"segment_bytes is {str(meta.segment_bytes)[:_MOST_SHOWN]}, not 1 to {MAX_SEGMENT_BYTES}"
                raise _damaged(self.path, cause)
            if meta.mode is not None and meta.mode not in _MODES:
                raise _damaged(self.path, f"mode is {meta.mode[:_MOST_SHOWN]!r}, not as '0640'")
            return meta
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _damaged(self.path, str(error)) from error

    def _set_rights(self, meta: Meta) -> None:
        """Set the permissions and the owner that new files of the store get."""
        mode: int | None = PRIVATE_MODE if meta.mode is None else int(meta.mode, 8)
        if mode == PRIVATE_MODE and self.filesystem.is_ours(self.path):
            mode = None
        self.filesystem.set_rights(self.path, mode)
        # Private even if others may read: opening a lock file is enough to hold the lock.
        self.filesystem.set_rights(self.locks_path, mode and (0o660 if mode & 0o020 else PRIVATE_MODE))

    def _create(self, segment_bytes: int, create: bool, mode: int | None, settings: Meta | None) -> Meta:
        if type(segment_bytes) is not int or not 1 <= segment_bytes <= MAX_SEGMENT_BYTES:
            raise ValueError(f"segment_bytes must be from 1 to {MAX_SEGMENT_BYTES}, not {segment_bytes!r}")
        if not create and not os.path.isdir(self.path):
            raise StoreOpenError(self.path, "there is no such folder")
        self._refuse_foreign()
        if not create:
            raise StoreOpenError(self.path, f"it is not a store: it has no {_META}")
        filesystem = self.filesystem
        if not filesystem.is_ours(self.path):
            cause = (
                "its folder belongs to another user, who could change the store; create it as that user, or elsewhere"
            )
            raise StoreOpenError(self.path, cause)
        private = mode is None or mode == PRIVATE_MODE
        new = Meta(FORMAT, str(uuid4()), now().decode(), segment_bytes, None if private else f"{mode:04o}")
        meta = settings or new
        self._set_rights(meta)
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        filesystem.make_folder(self.path)
        self.enter()
        filesystem.make_folder(self.locks_path)
        with contextlib.closing(self.write_lock()) as lock, held(lock):
            # Another process may have been quicker. If it died half-way, this makes the rest.
            theirs = self._load()
            if theirs is None:
                filesystem.make_folder(self.streams_path)
                # An earlier attempt may have left it after a failed sync, so it cannot be trusted.
                filesystem.remove(self.journal.active_path)
                filesystem.close(filesystem.open_new(self.journal.active_path))
                filesystem.sync_folder(self.path)  # A store without a journal counts as damaged.
                try:
                    filesystem.replace_file(self.meta_path, msgspec.json.format(msgspec.json.encode(meta)) + b"\n")
                except OSError:
                    # Its name may never reach the device. The next attempt makes it again.
                    filesystem.remove(self.meta_path)
                    raise
        return theirs or meta

    def _refuse_links(self) -> None:
        """Raise if a link or a file is in the place of one of the store's folders."""
        for path in (self.locks_path, self.streams_path, self.snapshots_path, self.deleted_path):
            if self.filesystem.is_there(path) and not self.filesystem.is_folder(path):
                cause = f"{path} is a symbolic link or a file; put the store's own folder in its place"
                raise StoreOpenError(self.path, cause)

    def _refuse_foreign(self) -> None:
        """Raise unless the folder is missing, empty, or a store whose creation was interrupted."""
        for entry in self.filesystem.entries(self.path):
            if entry.name not in _OURS:
                if self._load():
                    return
                raise StoreOpenError(
                    self.path, f"it is neither a store nor empty: it has {entry.name!r} but no {_META}"
                )
            if entry.name == text_path(_JOURNAL) and entry.stat().st_size and not self._load():
                raise StoreFormatError(
                    self.path,
                    f"its journal holds events but {_META} is missing; restore it from a backup, or write one: "
                    f'{{"format":{FORMAT},"store_id":"any","created_at":"","segment_bytes":67108864}}',
                )


def active_journal(journal: Log) -> ActiveSegment:
    """Return the active segment of the journal, which every store has. Raises `CorruptionError` if it is missing."""
    try:
        return ActiveSegment(journal)
    except FileNotFoundError as error:
        raise CorruptionError(journal.active_path, os.path.basename(journal.active_path), 0, "it is gone") from error


def _id_in(base: str, log: Log) -> str | None:
    """Return the stream id in the first intact record at a segment's beginning, or None."""
    with (
        contextlib.suppress(FileNotFoundError, CorruptionError),
        contextlib.closing(open_segment(log.filesystem, base, log.field)) as it,
    ):
        return next((decode_record(line).stream_id for line in it.lines_at(0)[0] if is_record(line)), None)
    return None


def _is_live(entry: Entry) -> bool:
    name = entry.name
    return name.endswith(TEXT) and "." not in name[: -len(TEXT)] and entry.is_file()
