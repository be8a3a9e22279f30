"""What a shell may complete an argument to: stores, streams, event types, subscribers.

A store is only looked into: its folders are listed, and some of its bytes are read. It is not opened, so nothing is
locked, recovered or written, and what it says may be a moment old.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import click
import msgspec

from hangarlog.cli.app import STORE_VARIABLE
from hangarlog.errors import HangarlogError
from hangarlog.eventstore.share import split_name
from hangarlog.filestore.cursor_file import pairs_in, read_content
from hangarlog.filestore.file_names import file_name, stream_id_of, stream_path
from hangarlog.filestore.folder import Folder
from hangarlog.log.segment import Segment
from hangarlog.log.segment_name import TEXT
from hangarlog.system.read_only import ReadOnly

_SAMPLE_BYTES = 256 << 10
"""So many of the journal's last bytes are searched for event types."""

_find_type = re.compile(rb'"event_type":("(?:[^"\\]|\\.)*")').search


class Word(NamedTuple):
    """A word, or a part of one that the person goes on from."""

    text: str
    is_part: bool = False


def is_store(path: str) -> bool:
    """True if a path is the folder of a store."""
    return os.path.isfile(os.path.join(path, "hangarlog.json"))


def _store(context: click.Context) -> str | None:
    """Return the store that the words before name, or else the environment."""
    given = (context.params.get("store"), context.params.get("store_option"), os.environ.get(STORE_VARIABLE))
    return next((path for path in given if path and is_store(os.path.expanduser(path))), None)


def stores(context: click.Context, typed: str) -> Iterator[Word]:
    """Yield the stores in a folder, and its other folders as parts. With a default store, what follows it, too."""
    yield from _folders(typed)
    if os.environ.get(STORE_VARIABLE):
        names = [parameter.name for parameter in context.command.params if isinstance(parameter, click.Argument)]
        for name in names[1:2]:
            yield from VALUES[name](context, typed) if name in VALUES else ()


def _folders(typed: str) -> Iterator[Word]:
    head, slash, start = typed.rpartition("/")
    folder = os.path.expanduser(head + slash)
    if typed in ("", ".") and is_store("."):
        yield Word(".")
    with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
        for entry in entries:
            hidden = entry.name.startswith(".") and not start
            if entry.name.startswith(start) and not hidden and entry.is_dir():
                path = f"{head}{slash}{entry.name}"
                yield Word(path) if is_store(entry.path) else Word(f"{path}/", is_part=True)


@contextlib.contextmanager
def _looked_into(context: click.Context) -> Iterator[Folder | None]:
    """Yield the folder of the store, None if there is none. What cannot be read ends the block."""
    path = _store(context)
    if path is None:
        yield None
        return
    with contextlib.suppress(OSError), contextlib.closing(Folder(ReadOnly(), os.path.expanduser(path))) as folder:
        folder.enter()
        yield folder


def streams(context: click.Context, typed: str) -> Iterator[Word]:
    """Yield the streams of a category. Until there is a colon, yield categories as parts, and streams without one."""
    category, colon, rest = typed.partition(":")
    with _looked_into(context) as folder:
        if folder is None:
            return
        if not colon:
            yield from _categories(folder, typed, streams_too=True)
            return
        name, _ = stream_path(f"{category}:x")
        start = rest if rest and file_name(rest) == rest else ""  # Most names are their files' names.
        for entry in folder.filesystem.entries(folder.category_path(name)):
            if entry.name.startswith(start) and entry.name.endswith(TEXT):
                file = entry.name.removesuffix(TEXT)
                stream_id = f"{category}:{file}" if file and file_name(file) == file else stream_id_of(name, file)
                if stream_id:
                    yield Word(stream_id)


def _categories(folder: Folder, typed: str, *, streams_too: bool) -> Iterator[Word]:
    for entry in folder.filesystem.entries(folder.streams_path):
        if entry.is_dir():
            stream_id = stream_id_of(entry.name, "x")
            if stream_id:
                category = stream_id.removesuffix(":x")
                yield Word(f"{category}:", is_part=True) if streams_too else Word(category)
        elif streams_too and entry.name.endswith(TEXT):
            stream_id = stream_id_of("", entry.name.removesuffix(TEXT))
            if stream_id:
                yield Word(stream_id)


def categories(context: click.Context, typed: str) -> Iterator[Word]:
    """Yield the categories."""
    with _looked_into(context) as folder:
        if folder is not None:
            yield from _categories(folder, typed, streams_too=False)


def _end(segment: Segment | None) -> bytes:
    """Return the last bytes of a segment, and close it."""
    if segment is None:
        return b""
    with contextlib.closing(segment):
        return segment.read(min(segment.size, _SAMPLE_BYTES), max(0, segment.size - _SAMPLE_BYTES))


def event_types(context: click.Context, typed: str) -> Iterator[Word]:
    """Yield the types of the latest events. Those of hangarlog itself are left out."""
    with _looked_into(context) as folder:
        if folder is None:
            return
        content = _end(folder.journal.open_active())
        sealed = folder.journal.sealed() if len(content) < _SAMPLE_BYTES else []
        with contextlib.suppress(HangarlogError):
            content += _end(folder.journal.open_sealed(sealed[-1])) if sealed else b""
        texts = {found[1] for found in map(_find_type, content.split(b"\n")) if found}
        for text in texts:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                name = msgspec.json.decode(text, type=str)
                if not name.startswith("hangarlog."):
                    yield Word(name)


def subscribers(context: click.Context, typed: str) -> Iterator[Word]:
    """Yield the names of the subscribers."""
    with _looked_into(context) as folder:
        if folder is not None:
            for pair in pairs_in(read_content(folder.filesystem, folder.cursors_path)):
                if pair.name:
                    yield Word(split_name(pair.name)[0])


Find = Callable[[click.Context, str], Iterable[Word]]

VALUES: dict[str, Find] = {
    "category": categories,
    "event_type": event_types,
    "event_types": event_types,
    "name": subscribers,
    "prefix": streams,
    "store": stores,
    "store_option": stores,
    "stream": streams,
}
"""Name of a parameter -> what finds its values."""

FILES = frozenset(["lock_path", "more", "page_file", "source", "target"])
"""Names of parameters that are paths, which the shell completes by itself."""
