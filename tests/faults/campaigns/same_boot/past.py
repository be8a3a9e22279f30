"""A recorded workload, with all files at every moment."""

from __future__ import annotations

import os
import random
import sys
from functools import cache
from pathlib import Path
from typing import Any

from hangarlog.filestore.shared_state import COMMITTED
from hangarlog.testing import Unsynced

from ..crash_states import COMPACTED, IDS, Failing, open_store
from ..crash_states import record as record_workload
from ..proofs import Files, all_stored, text_in, whole_lines

STATE = "state"


class Moments(Failing):
    """A recording that keeps all files, the shared state too, as they were after each operation."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.moments: list[Files] = []
        super().__init__(folder)

    def _add(self, *rest: Any, **more: Any) -> None:
        super()._add(*rest, **more)
        self.moments.append(Files.of(self.folder, self.moments[-1].contents if self.moments else None))


class Past:
    """A recorded workload: its files at every moment, its commits, its acknowledgements."""

    def __init__(self, recording: Moments, durable: dict[Any, int], commits: dict[int, list[tuple[str, str]]]) -> None:
        self.recording, self.moments, self.commits = recording, recording.moments, commits
        self._durable = durable
        self.notes = [at for at, operation in enumerate(recording.operations) if operation.kind == "note"]
        self.states = list(dict.fromkeys(files.contents[STATE] for files in self.moments if STATE in files.contents))

    def notes_before(self, at: int) -> list[Any]:
        """What was noted among the first `at` operations."""
        return [operation.note for operation in self.recording.operations[:at]]

    def durable(self, notes: list[Any]) -> int:
        """The last position that was acknowledged durable by then."""
        return max((self._durable.get(note, 0) for note in notes if note), default=0)

    @cache  # noqa: B019 - there are few pasts
    def agreeing(self) -> list[int]:
        """The moments between two calls whose lines all came to stay: none of an append that was taken back."""
        last = _ids_by_position(self.moments[-1])
        return [
            at
            for at in self.notes
            if "hangarlog.json" in self.moments[at].contents
            and _ids_by_position(self.moments[at]).items() <= last.items()
        ]

    def state_before(self, at: int, rng: random.Random) -> bytes | None:
        """The shared state as it was at some moment up to then: often the last one, which is most often believed."""
        place = at if rng.random() < 0.4 else rng.randrange(at + 1)
        return self.moments[min(place, len(self.moments) - 1)].contents.get(STATE)


def last_of(state: bytes) -> int:
    """The last position that the words of a shared state say was committed."""
    return int.from_bytes(state[8 * COMMITTED :][:8], sys.byteorder)


def _ids_by_position(files: Files) -> dict[int, str]:
    texts = [
        text_in(path, content)
        for path, content in files.contents.items()
        if path.endswith((".jsonl", ".jsonl.zst")) and path != "put-aside.jsonl"
    ]
    return {line.position: line.event_id for text in texts for line in whole_lines(text)}


def recorded(path: Path) -> Past:
    """The workload of row 1."""
    recording = record_workload(path, Moments)
    assert isinstance(recording, Moments)
    durable, position = {}, 0
    commits = [note for note in (operation.note for operation in recording.operations) if note and note[0] == "always"]
    with open_store(path, Unsynced()) as store:
        rows = all_stored(store, {COMPACTED[0]: {COMPACTED[2] + 1}})
        last = {int(event_id.partition("-")[0]): position for position, _, _, event_id in rows}
    for note in commits:
        position = durable[note] = last[note[1]]
    assert position > 30
    return Past(recording, durable, dict(enumerate(IDS)))
