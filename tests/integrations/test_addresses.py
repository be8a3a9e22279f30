"""What keeps its records in folders refuses the address of a server, and makes no folder of that name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hangarlog import StoreOpenError
from hangarlog.integrations.logging import HangarlogHandler
from hangarlog.integrations.sessions import Opened


@pytest.mark.parametrize("keep", [HangarlogHandler, lambda where: Opened(where, "always")], ids=["logging", "agents"])
def test_an_address_is_refused_where_a_folder_is_needed(
    keep: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreOpenError, match="give a path, not an address") as caught:
        keep("nats://user:secret@host:4222/orders")
    assert "secret" not in str(caught.value)
    assert not list(tmp_path.iterdir())
