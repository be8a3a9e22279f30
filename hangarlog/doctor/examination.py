"""The examination of a store: all checks, each by itself. One that fails is a finding, too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from hangarlog.doctor.files import check_leftovers, check_segments
from hangarlog.doctor.finding import Finding, command, found
from hangarlog.doctor.followers import check_followers
from hangarlog.doctor.growth import check_clock, check_growth
from hangarlog.doctor.inventory import check_files
from hangarlog.doctor.look import Look
from hangarlog.doctor.neighbours import check_checksums, check_neighbours
from hangarlog.doctor.place import check_file_system, check_room
from hangarlog.doctor.processes import check_limit, check_processes
from hangarlog.doctor.running import check_locks, check_recovery, check_syncs
from hangarlog.errors import CorruptionError, MissingExtraError, StoreFormatError
from hangarlog.system.filesystem import NO_FILE, FileSystem

Check = Callable[[Look], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    check_file_system,
    check_room,
    check_processes,
    check_limit,
    check_locks,
    check_syncs,
    check_recovery,
    check_followers,
    check_growth,
    check_clock,
    check_segments,
    check_leftovers,
    check_files,
    check_checksums,
    check_neighbours,
)


def examine(
    path: str | os.PathLike[str], *, thorough: bool = False, filesystem: FileSystem | None = None
) -> Iterator[Finding]:
    """Yield what is to be known of the store at `path`, whatever state it is in.

    It changes nothing, and takes no lock: processes may write meanwhile. Nothing is raised for what is found, not even
    if there is no store. Without `thorough`, at most 10,000 files of each kind are looked at.
    """
    with contextlib.closing(Look(os.fspath(path), thorough=thorough, filesystem=filesystem)) as look:
        damaged = set[str]()
        for check in (_check_store, *CHECKS):
            for finding in _findings(look, check):
                if finding.kind == "damaged":
                    if finding.where in damaged:
                        continue
                    damaged.add(finding.where)
                yield finding
        if look.skipped:
            said = f"some of the files in {', '.join(map(os.path.basename, look.skipped))} were not looked at"
            text = command("hangarlog", "doctor", look.path, "--thorough")
            yield found("skipped", "note", said, look.skipped[0], text, folders=look.skipped)


def _check_store(look: Look) -> Iterator[Finding]:
    """Yield why the folder cannot be looked at as a store."""
    refused = look.refused
    if refused is None:
        return
    if isinstance(refused, StoreFormatError):
        text = command("hangarlog", "repair", look.path)
        yield found("damaged", "problem", str(refused), look.folder.meta_path, text)
    elif isinstance(refused.__cause__, PermissionError) or isinstance(refused, PermissionError):
        yield _unreadable(look, look.path, "problem")
    else:
        text = command("ls", "-la", look.path if look.is_folder else os.path.dirname(look.path))
        yield found("no-store", "problem", str(refused), look.path, text)


def _unreadable(look: Look, path: str, severity: str) -> Finding:
    said = "this user may not read it"
    text = command("sudo", "hangarlog", "doctor", look.path)
    return found("unreadable", severity, said, path, text)  # type: ignore[arg-type]


def _findings(look: Look, check: Check) -> Iterator[Finding]:
    """Yield what a check finds. An error that ends it is a finding: damage, a lack of rights, or what it is."""
    try:
        yield from check(look)
    except CorruptionError as error:
        text = command("hangarlog", "verify", "--read-only", look.path)
        yield found("damaged", "problem", f"offset {error.offset}: {error.cause}", error.path, text)
    except PermissionError as error:
        if look.refused is None:
            yield _unreadable(look, str(error.filename or look.path), "warning")
    except OSError as error:
        if error.errno in NO_FILE and error.filename:
            text = command("hangarlog", "verify", "--read-only", look.path)
            yield found("damaged", "problem", f"it is no file that can be read: {error.strerror}", error.filename, text)
        else:
            yield _failed(look, check, error)
    except MissingExtraError as error:
        text = command("pip", "install", "hangarlog[zstd]")
        yield found("check-failed", "warning", str(error), error.path, text)
    except Exception as error:  # Whatever somebody has put into the files, the other checks must be made.
        yield _failed(look, check, error)


def _failed(look: Look, check: Check, error: Exception) -> Finding:
    name = check.__name__.removeprefix("check_").replace("_", " ")
    return found("check-failed", "warning", f"the check of {name} failed: {type(error).__name__}: {error}", look.path)
