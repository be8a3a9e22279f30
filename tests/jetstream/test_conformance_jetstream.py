"""A store on JetStream keeps the promises that the suite states, on one server and on three."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from adapter import SyncStore
from nats_servers import Cluster, cluster  # noqa: F401

from hangarlog import EventSerializer
from hangarlog.jetstream import JetStreamEventStore
from hangarlog.testing import EventStoreConformance
from hangarlog.testing.conformance import (
    AppendConformance,
    ExecuteConformance,
    NamedConformance,
    SubscribeConformance,
    WaitConformance,
)

_NAMES = (f"store-{number}" for number in count())


class OnServers:
    """Opens stores on the servers of a test, and deletes them after it."""

    @pytest.fixture(autouse=True)
    def servers(self, cluster: Cluster) -> Iterator[None]:
        self._cluster, self._opened = cluster, list[JetStreamEventStore[Any]]()
        yield
        for store in self._opened:
            store.close()
            cluster.delete(store.name)

    def open_store(self, serializer: EventSerializer) -> JetStreamEventStore[Any]:
        store = JetStreamEventStore(self._cluster.address, next(_NAMES), serializer=serializer, **self._cluster.options)
        self._opened.append(store)
        return store


@pytest.mark.parametrize("cluster", [1], indirect=True, scope="session")
class TestOnOneServer(OnServers, EventStoreConformance):
    pass


@pytest.mark.parametrize("cluster", [3], indirect=True, scope="session")
class TestOnThreeServers(OnServers, EventStoreConformance):
    pass


class AsyncOnServers(
    OnServers, AppendConformance, ExecuteConformance, NamedConformance, SubscribeConformance, WaitConformance
):
    """What an event loop has a part in."""

    backend = "asyncio"

    def open_store(self, serializer: EventSerializer) -> Any:
        return SyncStore(lambda: OnServers.open_store(self, serializer), self.backend)


@pytest.mark.parametrize("cluster", [1], indirect=True, scope="session")
class TestAsyncOnOneServer(AsyncOnServers):
    pass


@pytest.mark.parametrize("cluster", [1], indirect=True, scope="session")
class TestAsyncOnOneServerOnTrio(AsyncOnServers):
    backend = "trio"
