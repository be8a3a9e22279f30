"""A backend whose log is on a server: `event_store_path` is an address."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcp_hangar.domain.contracts.event_store import ConcurrencyError
from mcp_hangar.domain.events import McpServerStarted
from mcp_hangar.infrastructure.persistence.registry import create_backend
from places import place

from hangarlog import StoreOpenError


def test_a_backend_keeps_its_log_and_its_mark_there(tmp_path: Path) -> None:
    config = {"data_dir": str(tmp_path), "event_store_path": place(tmp_path), "durability": "relaxed"}
    for number in range(2):  # The second one finds what the first one has left.
        backend = create_backend("hangarlog", config)
        store, mark = backend.event_store(), backend.dispatch_checkpoint()
        assert (store.get_event_count(), mark.read()) == (number, number)
        store.append("a:1", [McpServerStarted("math", "subprocess", 3, 1.5)], number - 1)
        with pytest.raises(ConcurrencyError):
            store.append("a:1", [McpServerStarted("math", "subprocess", 4, 1.5)], number - 1)
        ((_, event),), _ = store.read_since(store.tail_head().__class__(str(number)))
        assert event.tools_count == 3
        mark.advance(number + 1)
        backend.close()
    assert not (tmp_path / "events").exists()


@pytest.mark.parametrize(("setting", "value"), [("compress", "zstd"), ("segment_bytes", 1 << 20), ("mode", 0o600)])
def test_a_setting_of_folders_is_refused(tmp_path: Path, setting: str, value: object) -> None:
    address = place(tmp_path).replace("nats://", "nats://user:secret@")
    with pytest.raises(StoreOpenError, match=f"{setting} is a setting of stores in folders") as caught:
        create_backend("hangarlog", {"data_dir": str(tmp_path), "event_store_path": address, setting: value})
    assert "secret" not in str(caught.value)
