"""The journal's log: where it begins, which `retained.json` says.

A store without that file begins at position 1. What was dropped is gone: positions go on. Segments that begin before
are left over from a drop that was cut short, and no reader sees them.
"""

from __future__ import annotations

import os
from typing import Annotated

import msgspec

from hangarlog.errors import CorruptionError, StoreFormatError
from hangarlog.log.log import Log
from hangarlog.record.checked_json import with_crc, without_crc
from hangarlog.record.envelope import MAX_NUMBER
from hangarlog.record.strict import refuse_repeated_keys
from hangarlog.system.filesystem import NO_FILE, FileSystem

FORMAT = 1


class Retained(msgspec.Struct, frozen=True):
    """The contents of `retained.json`: the journal of the store `store_id` begins with `first_position`."""

    retained: int
    store_id: str
    first_position: Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]


class Journal(Log):
    """The log of the journal in a store's folder. `store_id` is the store's id, "" while it is unknown."""

    def __init__(self, filesystem: FileSystem, folder: str, name: str, store_id: str) -> None:
        super().__init__(filesystem, folder, name, "position")
        self.store_id = store_id
        self.retained_path = os.path.join(folder, "retained.json")

    def begins(self) -> int:
        """Return the first position that the journal has, by what `retained.json` says now.

        Raises:
            CorruptionError: the file is damaged, or of another store.
            StoreFormatError: it is of a newer version.
            OSError: it cannot be read.
        """
        found = self.read_retained()
        if found is not None and self.store_id not in ("", found.store_id):
            raise self.retained_damage(f"it is of store {found.store_id[:80]!r}, hangarlog.json of {self.store_id!r}")
        return found.first_position if found else 1

    def read_retained(self) -> Retained | None:
        """Return what `retained.json` says, of whichever store, None without one. Raises what `begins` raises."""
        try:
            content = self.filesystem.read_file(self.retained_path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in NO_FILE:
                raise
            raise self.retained_damage(f"it cannot be opened as a file ({error.strerror})") from error
        try:
            line = without_crc(content)
            refuse_repeated_keys(line)
            found = msgspec.json.decode(line, type=Retained)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self.retained_damage(f"it is damaged ({error})") from error
        if found.retained != FORMAT:
            cause = f"its format is {found.retained}, this version knows {FORMAT}"
            if found.retained > FORMAT:
                raise StoreFormatError(self.retained_path, f"{cause}; upgrade hangarlog to open the store")
            raise self.retained_damage(cause)
        return found

    def write_retained(self, first: int) -> None:
        """Make the journal begin with position `first`, durably. Hold the write lock."""
        self.filesystem.replace_file(self.retained_path, with_crc(Retained(FORMAT, self.store_id, first)))

    def retained_damage(self, cause: str) -> CorruptionError:
        """Return the error for a `retained.json` that does not tell where the journal begins."""
        cause = f"{cause}; `hangarlog repair` settles where the journal begins"
        return CorruptionError(self.retained_path, os.path.basename(self.retained_path), 0, cause, mendable=False)

    def sealed(self) -> list[int]:
        """As `Log.sealed`, without what is left over before the journal's beginning."""
        firsts = super().sealed()  # First: what was removed meanwhile lies before the beginning that is read now.
        begins = self.begins() if firsts else 1
        return [first for first in firsts if first >= begins]

    def left_over(self) -> list[int]:
        """Return the first positions of the segments that a drop, cut short, has left before the beginning."""
        firsts, begins = super().sealed(), self.begins()
        return [first for first in firsts if first < begins]
