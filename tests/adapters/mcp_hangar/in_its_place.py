"""A plugin for pytest (`-p in_its_place`): every SQLiteEventStore of MCP Hangar's tests is one on hangarlog."""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import Any

import mcp_hangar.infrastructure.persistence as persistence
import mcp_hangar.infrastructure.persistence.sqlite_event_store as module
import pytest
from places import place

from hangarlog.integrations.mcp_hangar import HangarlogEventStore

opened = weakref.WeakSet[HangarlogEventStore]()


class SQLiteEventStore(HangarlogEventStore):
    def __init__(self, db_path: str | Path = ":memory:", *, serializer: Any = None) -> None:
        self._is_memory = str(db_path) == ":memory:"
        self._temporary = tempfile.TemporaryDirectory() if self._is_memory else None
        # Their checkpoint wants a database at `db_path` itself.
        folder = self._temporary.name if self._temporary else f"{db_path}.log"
        super().__init__(place(folder), serializer=serializer)
        opened.add(self)
        self._db_path = str(db_path)

    def _connect(self) -> Any:
        return _Rows(self)


class _Rows:
    """Answers what one of their tests asks by SQL: the versions of a stream."""

    def __init__(self, store: HangarlogEventStore) -> None:
        self._store = store

    def execute(self, sql: str, params: tuple[str, ...] = ()) -> _Rows:
        assert "SELECT stream_version FROM events" in sql, sql
        self._rows = [(each.stream_version,) for block in self._store.log.envelopes(*params) for each in block]
        return self

    def fetchall(self) -> list[tuple[int]]:
        return self._rows

    def close(self) -> None: ...


persistence.SQLiteEventStore = module.SQLiteEventStore = SQLiteEventStore


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Child processes of one test use this store, too."""
    for item in items:
        writer = getattr(getattr(item, "module", None), "_WRITER", None)
        if writer and "in_its_place" not in writer:
            folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
            head = f"import sys; sys.path[:0] = {folders}; import in_its_place\n"
            item.module._WRITER = head + writer  # type: ignore[attr-defined]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """At the end, close what their tests leave open: they look for threads, which a store on servers has."""
    if nextitem is None:
        for store in list(opened):
            store.close()
