"""A call that was cut short before it synced a folder is made again: what is acknowledged then survives a power cut."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from hangarlog import ANY, EncodedEvent, FileEventStore
from hangarlog.testing import Recording, crash_states

CALLS: dict[str, tuple[Callable[[FileEventStore], object], Callable[[FileEventStore], object]]] = {
    "snapshot": (lambda store: store.save_snapshot("a:1", 1, {}), lambda store: store.load_snapshot("a:1") is not None),
    "delete": (lambda store: store.delete_stream("a:1"), lambda store: "a:1" not in store.list_streams()),
    "cursor": (lambda store: store.cursor("c").advance(2), lambda store: store.cursor("c").position == 2),
}


class Interrupting(Recording):
    """Interrupts the sync of a folder that is numbered `at`, before it is done."""

    at = -1

    def sync_folder(self, path: str) -> None:
        self.at -= 1
        if self.at == -1:
            raise KeyboardInterrupt
        super().sync_folder(path)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore:.*no whole history leads to:hangarlog.CorruptionWarning")
def test_what_is_made_again_after_an_interrupt_is_durable(tmp_path: Path, name: str) -> None:
    """Folders and files that an earlier attempt has made are there, but perhaps not on the device."""
    call, holds = CALLS[name]
    at, interrupted = 0, True
    while interrupted:
        path = tmp_path / f"s-{at}"
        recording = Interrupting(path)
        with FileEventStore.untyped(path, filesystem=recording) as store:
            store.append("a:1", [EncodedEvent("Noted", b"{}")] * 2, ANY)
            recording.at, interrupted = at, False
            try:
                call(store)
            except KeyboardInterrupt:
                interrupted = True
            recording.at = -1
            call(store)
            begun = len(recording.operations)
            recording.note("done")
            store.append("a:2", [EncodedEvent("Noted", b"{}")], ANY, durability="relaxed")
        points = range(begun, len(recording.operations) + 1)
        for number, state in enumerate(crash_states(recording.operations, random.Random(at), 20, points)):
            crashed = tmp_path / f"crashed-{at}-{number}"
            crashed.mkdir()
            state.write_to(crashed)
            with FileEventStore.untyped(crashed) as store:
                assert holds(store) or not state.notes, state.lost
        at += 1
    assert at > 1
