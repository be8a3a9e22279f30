"""What a store on JetStream asks of its servers, and how it refuses what is weaker, wrong or not there."""

from __future__ import annotations

import http.server
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Added
from nats_servers import Cluster, cluster, free_ports  # noqa: F401

import hangarlog
from hangarlog import CorruptionError, StoreOpenError, UnavailableError
from hangarlog.errors import HangarlogError, StorageError
from hangarlog.jetstream import JetStreamEventStore
from hangarlog.jetstream.settings import bucket_settings, stream_settings


@pytest.fixture(autouse=True)
def none_is_left(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.delete("orders")


def opened(cluster: Cluster, **options: Any) -> JetStreamEventStore[Any]:
    return JetStreamEventStore(cluster.address, "orders", **{**cluster.options, **options})


def refusal(open_it: Callable[[], Any], kind: type[HangarlogError] = StoreOpenError) -> str:
    with pytest.raises(kind) as caught:
        open_it()
    return str(caught.value)


WEAKER: list[tuple[str, dict[str, Any]]] = [
    ('storage is "memory", not "file"', {"storage": "memory"}),
    ("max_msgs is 10, not -1", {"max_msgs": 10}),
    ("max_bytes is 1000000, not -1", {"max_bytes": 1000000}),
    ("max_age is 60000000000, not 0", {"max_age": 60_000_000_000}),
    ("max_msgs_per_subject is 5, not -1", {"max_msgs_per_subject": 5}),
    ("max_msg_size is 1000, not -1", {"max_msg_size": 1000}),
    ("allow_direct is false, not true", {"allow_direct": False}),
    ("allow_atomic is false, not true", {"allow_atomic": False}),
    ("deny_delete is false, not true", {"deny_delete": False}),
    ("deny_purge is false, not true", {"deny_purge": False}),
    ('discard is "old", not "new"', {"discard": "old"}),
    ('retention is "interest", not "limits"', {"retention": "interest"}),
    ('subjects is ["orders.x.>"], not ["orders.e.*.*"]', {"subjects": ["orders.x.>"]}),
    ("allow_rollup_hdrs is set", {"allow_rollup_hdrs": True, "deny_purge": False}),
    ("subject_transform is set", {"subject_transform": {"src": "orders.e.>", "dest": "orders.f.>"}}),
    ("no_ack is set", {"no_ack": True, "allow_atomic": False}),
    ("first_seq is set", {"first_seq": 5}),
    ("persist_mode", {"persist_mode": "async", "allow_atomic": False}),
    ("lacks the metadata 'hangarlog.format'; use another name", {"metadata": {}}),
    ("has format '2', which this version does not know", {"metadata": {"hangarlog.format": "2"}}),
]


@pytest.mark.parametrize(("said", "weaker"), WEAKER, ids=[said for said, _ in WEAKER])
def test_a_stream_that_is_weaker_than_a_store_needs_is_refused(
    said: str, weaker: dict[str, Any], cluster: Cluster
) -> None:
    cluster.made({**stream_settings("orders", 1), **weaker})
    assert said in refusal(lambda: opened(cluster))


@pytest.mark.parametrize("weaker", [{"storage": "memory"}, {"max_age": 60_000_000_000}, {"deny_delete": False}])
def test_the_bucket_is_checked_too(weaker: dict[str, Any], cluster: Cluster) -> None:
    cluster.made({**bucket_settings("orders", 1), **weaker})
    text = refusal(lambda: opened(cluster))
    assert "KV_orders_state" in text
    assert next(iter(weaker)) in text


def test_fewer_replicas_are_accepted_if_they_are_named(cluster: Cluster) -> None:
    opened(cluster).close()
    assert "num_replicas is 1, not 3" in refusal(lambda: opened(cluster, replicas=3))


def test_replicas_that_the_servers_do_not_have_are_refused(cluster: Cluster) -> None:
    assert "cannot be made" in refusal(lambda: opened(cluster, replicas=3))


def test_servers_must_be_seen_to_sync_or_somebody_vouches_for_it(cluster: Cluster) -> None:
    text = refusal(lambda: opened(cluster, monitor=()))
    for said in ("monitor=", "synced=True", "durability='relaxed'"):
        assert said in text
    for options in ({"synced": True}, {"durability": "relaxed"}):
        opened(cluster, monitor=(), **options).close()
    for monitor in ("file:///etc/passwd", cluster.address):
        assert "is no monitoring address" in refusal(lambda monitor=monitor: opened(cluster, monitor=monitor))
    nobody = "http://127.0.0.1:1"
    assert "cannot be seen" in refusal(lambda: opened(cluster, monitor=nobody))
    opened(cluster, monitor=[nobody, *cluster.monitor]).close()


def test_servers_that_do_not_sync_each_write_are_refused(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1, syncs="1m") as lazy:
        assert "does not sync each write" in refusal(lambda: opened(lazy))
        opened(lazy, durability="relaxed").close()


def test_a_version_of_the_server_that_was_not_tested_is_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hangarlog.jetstream.settings.TESTED_SERVERS", ("9.9.",))
    assert "untested_server=True" in refusal(lambda: opened(cluster))
    opened(cluster, untested_server=True).close()


def test_a_store_is_not_made_without_being_asked_for(cluster: Cluster) -> None:
    assert "create=False" in refusal(lambda: opened(cluster, create=False))
    opened(cluster).close()
    opened(cluster, create=False).close()


# Servers


def test_a_server_that_cannot_be_reached_is_said() -> None:
    (port,) = free_ports(1)
    text = refusal(lambda: JetStreamEventStore(f"nats://127.0.0.1:{port}", "orders", timeout=1), UnavailableError)
    assert f"127.0.0.1:{port} cannot be reached" in text


def test_what_is_no_nats_server_is_said() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"nats://127.0.0.1:{server.server_port}"
        text = refusal(lambda: JetStreamEventStore(address, "orders", timeout=1), UnavailableError)
        server.shutdown()
        thread.join()
    assert "does not answer as a NATS server does" in text


def test_a_server_that_greets_otherwise_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.sendall(b"220 mail.example.com ESMTP\r\n")
                peer.recv(1)

        thread = threading.Thread(target=greet)
        thread.start()
        address = f"nats://127.0.0.1:{listening.getsockname()[1]}"
        assert "is no NATS server" in refusal(lambda: JetStreamEventStore(address, "orders", timeout=1))
        thread.join()


def test_a_server_without_jetstream_is_said(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1, without="jetstream") as plain:
        text = refusal(lambda: JetStreamEventStore(plain.address, "orders", replicas=1, synced=True))
        assert "JetStream is not enabled" in text


USERS = """
accounts {
  APP: { jetstream: enabled, users: [
    { user: ann, password: "s3cret/@:" },
    { user: ben, password: blue, permissions: { publish: { deny: "$JS.API.STREAM.INFO.>" } } },
    { user: cat, password: blue, permissions: { publish: { deny: "orders.e.>" } } },
    { user: dan, password: blue, permissions: { publish: { deny: "$JS.API.DIRECT.GET.>" } } },
    { user: eve, password: blue, permissions: { subscribe: { deny: "_INBOX.>" } } }
  ] }
  NONE: { users: [{ user: fay, password: blue }] }
}
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("guarded"), 1, rest=USERS) as cluster:
        yield cluster


def as_user(guarded: Cluster, user: str, **options: Any) -> JetStreamEventStore[Any]:
    address = f"nats://{user}@{guarded.servers[0].address}"
    return JetStreamEventStore(address, "orders", **{**guarded.options, "timeout": 3, **options})


SECRET = "s3cret%2F%40%3A"


def test_credentials_in_an_address_are_used_and_never_shown(guarded: Cluster) -> None:
    with as_user(guarded, f"ann:{SECRET}") as store:
        store.append_at_end("a:1", [Added(1)])
        shown = [repr(store), store.path, repr(vars(store))]
    try:
        store.get_event_count()
    except StoreOpenError as error:
        shown += [str(error), repr(error), traceback.format_exc()]
    for user in (f"{SECRET}:wrong", f"bob:{SECRET}", SECRET):
        with pytest.raises(StoreOpenError) as caught:
            as_user(guarded, user)
        assert "refuses the user, password, token or key" in str(caught.value)
        shown += ["".join(traceback.format_exception(caught.value))]
    for bad in (f"nats://ann:{SECRET}@host:port:9/x", f"nats://ann:{SECRET}@/x", f"http://ann:{SECRET}@h/x"):
        with pytest.raises(StoreOpenError) as caught:
            JetStreamEventStore(bad)
        shown += [str(caught.value), repr(caught.value)]
    assert not [text for text in shown if "s3cret" in text]


@pytest.mark.parametrize(("user", "missing"), [("ben", "$js.api.stream.info.orders"), ("eve", "_inbox")])
def test_a_permission_that_is_missing_is_named_when_a_store_is_opened(
    guarded: Cluster, user: str, missing: str
) -> None:
    text = refusal(lambda: as_user(guarded, f"{user}:blue"), StorageError)
    assert "a permission is missing" in text
    assert missing in text.lower()


def test_a_permission_that_is_missing_is_named_when_it_is_needed(guarded: Cluster) -> None:
    as_user(guarded, f"ann:{SECRET}").close()
    with as_user(guarded, "cat:blue") as store:
        text = refusal(lambda: store.append_at_end("a:1", [Added(1)]), StorageError)
        assert "a permission is missing" in text
    with as_user(guarded, f"ann:{SECRET}") as store:
        store.append_at_end("a:1", [Added(1)])
    with as_user(guarded, "dan:blue") as store:
        assert "a permission is missing" in refusal(lambda: store.read_stream("a:1"), StorageError)


def test_an_account_without_jetstream_is_said(guarded: Cluster) -> None:
    assert "JetStream" in refusal(lambda: as_user(guarded, "fay:blue"))


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "nats://127.0.0.1:4222",
        "nats://127.0.0.1:4222/a.b",
        "nats://127.0.0.1:4222/a/b",
        "nats://127.0.0.1:4222/%2A",
        "nats://127.0.0.1:99999/a",
        "nats://127.0.0.1:x/a",
        "nats:///a",
        "nats://a,,b/a",
        "nats://h/a?replicas=x",
        "nats://h/a?unknown=1",
        "nats://h/a?synced=maybe",
    ],
)
def test_a_bad_address_is_refused(address: str) -> None:
    refusal(lambda: hangarlog.open(address))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"replicas": 0}, ValueError),
        ({"replicas": "3"}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": None}, ValueError),
        ({"durability": "never"}, ValueError),
        ({"synced": 1}, TypeError),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        JetStreamEventStore("nats://127.0.0.1:1", "orders", **options)


def test_one_call_opens_either_store(cluster: Cluster, tmp_path: Path) -> None:
    address = f"{cluster.address}/orders?replicas=1&synced=yes"
    with hangarlog.open(address) as store, hangarlog.open(tmp_path / "orders") as other:
        assert isinstance(store, JetStreamEventStore)
        for each in (store, other):
            each.append_at_end("a:1", [Added(1)])
            assert each.read_stream("a:1") == [Added(1)]
    assert "file" not in refusal(lambda: hangarlog.open("http://127.0.0.1/orders"))


def test_a_store_without_its_bucket_is_refused_until_that_is_accepted(cluster: Cluster) -> None:
    with opened(cluster) as store:
        store.append_at_end("a:1", [Added(1)])
        store.cursor("mailer").advance(1)
    cluster.api("STREAM.DELETE.KV_orders_state")
    assert "bucket of the store is gone" in refusal(lambda: opened(cluster))
    with opened(cluster, accept_loss=True) as store:
        assert (store.read_stream("a:1"), store.cursor("mailer").position) == ([Added(1)], 0)
    opened(cluster).close()


def test_a_store_whose_events_are_gone_is_refused_until_that_is_accepted(cluster: Cluster) -> None:
    with opened(cluster) as store:
        store.append_at_end("a:1", [Added(1), Added(2)])
    cluster.api("STREAM.DELETE.orders")
    assert "accept_loss=True" in refusal(lambda: opened(cluster), CorruptionError)
    with opened(cluster, accept_loss=True) as store:
        assert store.append_at_end("a:1", [Added(3)]) == 0
    with opened(cluster) as store:
        assert store.read_stream("a:1") == [Added(3)]


def test_a_forked_child_must_open_the_store_itself(cluster: Cluster) -> None:
    with opened(cluster) as store:
        store.append_at_end("a:1", [Added(1)])
        child = os.fork()
        if not child:
            code = 1
            try:
                store.get_event_count()
            except StoreOpenError as error:
                code = 0 if "parent process" in str(error) else 2
            finally:
                store.close()
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.get_event_count() == 1
