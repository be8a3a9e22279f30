"""`hangarlog import` of transcripts: what it takes for one, and what it says."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import Any, TypeGuard

import click
import msgspec

from hangarlog import OutcomeUnknownError, SourceError
from hangarlog.cli.app import note_done, open_store
from hangarlog.cli.terminal import counted, progress, say, write_object
from hangarlog.integrations.transcript_files import Kind, is_export

_START_BYTES = 256 << 10


def are_transcripts(kind: str | None, source: str, more: Sequence[str]) -> TypeGuard[Kind]:
    """True if sources are transcripts. JSON lines by themselves are one unless an export wrote any of the first."""
    if kind != "jsonl" or source == "-":
        return kind in ("claude", "codex")
    if more or not os.path.isfile(source):
        return bool(more) or os.path.isdir(source)  # A pipe, as of `<(zcat FILE)`, is an export.
    try:
        with open(source, "rb") as file:
            return not any(map(is_export, file.read(_START_BYTES).split(b"\n")))
    except OSError:
        return False


def take_transcripts(store: str, sources: list[str], kind: Kind) -> int:
    """Import transcripts, name what is lost, and return the exit code."""
    from hangarlog.integrations.transcripts import Transcripts, import_transcripts
    from hangarlog.integrations.whole_records import Lost

    if "-" in sources:
        raise click.UsageError("transcripts are not read from standard input: the stream is named after the file")
    for source in sources:
        if not os.path.exists(source):
            raise SourceError(source, "it cannot be read: there is no file or folder of this name")
    report = Transcripts()

    def tell(path: str, lost: Lost) -> None:
        place = f"{path}: offset {lost.offset} (line {lost.number})"
        say(f"hangarlog: {place}: {counted(lost.size, 'byte')} not imported: {lost.cause}", err=True)

    try:
        with open_store(store, create=True, durability="relaxed") as event_store, progress("importing") as advance:
            import_transcripts(event_store, sources, kind, report, tell=tell, advance=advance)
    except BaseException as error:
        if report.taken:
            say(f"hangarlog: {_imported(report.taken)} before this; run it again for the others", err=True)
        if isinstance(error, OutcomeUnknownError):  # Its advice is for a single append.
            cause = f"its events in the store may not survive a power cut: {error.cause}; run the import again"
            raise SourceError(shlex.join(sources), cause) from error
        raise
    note_done(f"{_imported(report.taken)}, {report.already} were there already")
    shown: dict[str, Any] = msgspec.structs.asdict(report)
    left_out = shown.pop("left_out")
    write_object(shown)
    for path, cause in left_out.items():
        say(f"hangarlog: {path} was not imported: {cause}", err=True)
    return 1 if report.lost or left_out else 0


def _imported(count: int) -> str:
    return f"{counted(count, 'event')} {'was' if count == 1 else 'were'} imported"
