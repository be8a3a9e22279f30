"""Row 5, of an archive: what rots in it is read from its other copy, or refused; it is restored whole or not at all."""

from __future__ import annotations

import json
import random
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from hangarlog import ANY, CorruptionWarning, FileEventStore, HangarlogError, StoreFormatError, UntypedEvent
from hangarlog.maintenance.repair import Lost, repair
from hangarlog.maintenance.verify import verify

from .check import Broken
from .damages import CLOSED, RESTARTED, Case, damages
from .folder import Folder
from .store import FILESYSTEM, SEGMENT_BYTES, SERIALIZER, Row, open_store, rows


class Pair:
    """A store and its archive, of which all files are put back, in place, before each case."""

    def __init__(self, folder: Path) -> None:
        self.store, self.archive = folder / "store", folder / "archive"
        fill(folder)
        with open_store(str(self.archive)) as archive, open_store(str(self.store)) as store:
            self.archived, self.kept = rows(archive.envelopes()), rows(store.envelopes())
        self._store, self._archive = Folder(str(self.store)), Folder(str(self.archive))
        self.texts = self._archive.texts

    def damage(self, case: Case) -> None:
        self._store.put_back(case.mode)
        self._archive.damage(case)


def fill(folder: Path) -> None:
    """Three streams, of which the first segments are in an archive: some compressed there, some as they were."""
    options: Any = {"serializer": SERIALIZER, "segment_bytes": SEGMENT_BYTES, "filesystem": FILESYSTEM}
    with FileEventStore(folder / "store", **options) as store:
        for number in range(60):
            event = UntypedEvent("Added", {"n": number, "text": "x" * (number % 7 * 20)}, event_id=f"e{number}")
            store.append(f"a:{number % 3}", [event], ANY)
            if number == 40:
                store.archive(folder / "archive", before=30)
                with open_store(str(folder / "archive")) as archive:
                    assert archive.compress().segments > 4
        store.archive(folder / "archive", before=45)


def run_archives(folder: Path, size: int, seed: int) -> Counter[str]:
    """Damage the archive `size` times, and count how that ended."""
    pair, counted, rng = Pair(folder), Counter[str](), random.Random(seed)
    places = {name: list(damages(content)) for name, content in pair.texts.items()}
    for number in range(size):
        name = [*places][number % len(places)]
        case = Case(rng.choice([CLOSED, RESTARTED]), name, *rng.choice(places[name]))
        pair.damage(case)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CorruptionWarning)
                counted[_tried(pair)] += 1
        except Exception as error:
            raise AssertionError(f"HANGARLOG_SEED={seed}: archive: {case}: {error!r}") from error
    return counted


def _tried(pair: Pair) -> str:
    _read(pair)
    whole = pair.archived + pair.kept
    with open_store(str(pair.store)) as store:
        if not _refusal(store, pair):
            _holds(store, whole)
            return "archives restored"
        if store.first_position > 1:  # Else its journal has all, and only streams wait for the archive's.
            _holds(store, pair.kept)
        try:
            results = list(repair(pair.archive, filesystem=FILESYSTEM))
        except StoreFormatError:
            return "archives of another format refused"  # So it looks.
        last = pair.archived[-1][0]  # A line that became two at the end may have been two events.
        if lost := [result for result in results if isinstance(result, Lost) and result.first <= last]:
            raise Broken(f"a repair of the archive leaves {lost[0]}")
        _do_as_advised(pair)
        if refusal := _refusal(store, pair):
            raise Broken(f"after a repair of the archive it is not restored: {refusal}")
        _holds(store, whole)
        return "archives refused, then repaired and restored"


def _read(pair: Pair) -> None:
    """What is read of the archive is right, or refused with the place."""
    try:
        with open_store(str(pair.archive)) as archive:
            found, back = rows(archive.envelopes()), [each.position for each in archive.records(reverse=True)]
    except HangarlogError as error:
        if str(pair.archive) not in str(error):
            raise Broken(f"the refusal names no place: {error}") from error
        return
    positions = [row[0] for row in pair.archived]
    if found != pair.archived or back != positions[::-1]:
        raise Broken(f"the archive reads as {found}")


def _refusal(store: FileEventStore, pair: Pair) -> str:
    """Restore the archive. Return the error, "" if there is none."""
    try:
        store.restore_archive(pair.archive)
    except HangarlogError as error:
        if str(pair.archive) not in str(error):
            raise Broken(f"the refusal of a restoring names no place: {error}") from error
        return str(error)
    return ""


def _do_as_advised(pair: Pair) -> None:
    """Compress again where tables are damaged; say whose archive it is, where nothing in it tells."""
    meta, mine = pair.archive / "hangarlog.json", json.loads((pair.store / "hangarlog.json").read_text())
    meta.write_text(json.dumps({**mine, "archive": True}))
    with open_store(str(pair.archive)) as archive:
        archive.compress()


def _holds(store: FileEventStore, wanted: list[Row]) -> None:
    if (found := rows(store.envelopes())) != wanted:
        raise Broken(f"the store has {[row[0] for row in found]}")
    if damage := next(iter(verify(store)), None):
        raise Broken(f"verify finds {damage}")
