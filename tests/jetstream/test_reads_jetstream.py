"""Reads that most servers confirm. What a leader that is cut off answers is in test_faults_jetstream.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from nats_servers import Cluster, cluster  # noqa: F401

from hangarlog import StoreOpenError, UnavailableError, UntypedEvent
from hangarlog.jetstream import JetStreamEventStore
from hangarlog.jetstream.confirming import Majority, _is_confirmed, is_followed

SINCE, BEFORE = "2026-01-01T00:00:02Z", "2026-01-01T00:00:01Z"


def node(name: str, term: int, leader: str, since: str | None = None) -> dict[str, Any]:
    return {
        "id": name,
        "state": "LEADER" if since else "FOLLOWER",
        "term": term,
        "leader": leader,
        "leader_since": since,
    }


@pytest.mark.parametrize(
    ("nodes", "confirmed"),
    [
        ([node("a", 5, "a", SINCE), node("b", 5, "a")], True),
        ([node("a", 5, "a", SINCE), node("b", 5, "a"), node("c", 9, "")], True),  # One that was cut off stands alone.
        ([node("a", 5, "a", SINCE)], False),
        ([node("a", 5, "a", SINCE), node("b", 6, ""), node("c", 6, "")], False),  # They elect another one.
        ([node("a", 5, "a", SINCE), node("b", 6, "b", "later"), node("c", 6, "b")], False),
        ([node("a", 7, "a", "later"), node("b", 7, "a"), node("c", 7, "a")], False),  # It was elected again since.
        ([node("b", 5, "a"), node("c", 5, "a")], False),  # The leader itself says nothing.
        ([], False),
    ],
)
def test_a_leader_is_confirmed_by_most_servers_of_its_term(nodes: list[dict[str, Any]], confirmed: bool) -> None:
    assert _is_confirmed(nodes, {"leader": "n1", "leader_since": SINCE}, 3) is confirmed
    assert not _is_confirmed(nodes, {"leader": "n1"}, 3)


def test_a_leader_that_has_not_heard_of_its_followers_lately_is_not_believed() -> None:
    near, far, never = {"active": 900_000_000}, {"active": 2_500_000_000}, {"active": 0}
    assert is_followed({"leader": "n1", "replicas": [near, far]})
    assert not is_followed({"leader": "n1", "replicas": [far, never]})
    assert is_followed({"leader": "n1", "replicas": None})  # One copy.
    assert is_followed({})  # One server.


def opened(cluster: Cluster, **options: Any) -> JetStreamEventStore[Any]:
    return JetStreamEventStore.untyped(cluster.address, "orders", **{**cluster.options, **options})


@pytest.mark.parametrize("cluster", [3], indirect=True, scope="session")
def test_reads_that_are_confirmed_see_what_the_others_see(cluster: Cluster) -> None:
    with opened(cluster) as store, opened(cluster, reads="linearizable") as confirmed:
        for number in range(5):
            store.append_at_end(f"a:{number % 2}", [UntypedEvent("Added", {"number": number})])
            assert confirmed.last_position == number + 1
            assert confirmed.get_stream_version(f"a:{number % 2}") == number // 2
        assert [*confirmed.read_all()] == [*store.read_all()]
        assert confirmed.read_stream("a:0") == store.read_stream("a:0")
        assert (confirmed.list_streams(), confirmed.get_stream_count()) == (["a:0", "a:1"], 2)
        assert confirmed.get_stream_version("b:1") == -1
        info = cluster.api("STREAM.INFO.orders")["cluster"]
        majority = Majority(cluster.monitor, "$G")
        assert asyncio.run(majority.confirms(info))
        assert not asyncio.run(majority.confirms({**info, "leader_since": BEFORE}))
    cluster.delete("orders")


@pytest.mark.parametrize("cluster", [3], indirect=True, scope="session")
def test_without_a_majority_a_read_is_an_error(cluster: Cluster) -> None:
    opened(cluster).close()
    with pytest.raises(StoreOpenError, match="at their monitoring addresses"):
        opened(cluster, reads="linearizable", monitor=(), synced=True)
    with pytest.raises(ValueError, match="'leader' or 'linearizable'"):
        opened(cluster, reads="latest")
    for monitors in (cluster.monitor[:1], [*cluster.monitor[:1], "http://127.0.0.1:1", "http://127.0.0.1:1/x"]):
        with opened(cluster, reads="linearizable", monitor=monitors, timeout=1) as store:
            for look in (lambda: store.last_position, lambda: store.get_stream_version("a:1"), store.list_streams):
                with pytest.raises(UnavailableError, match="most servers do not confirm") as caught:
                    look()
                assert "nothing was written" not in str(caught.value)
    cluster.delete("orders")
