"""Applications whose stores are on a server: `HANGARLOG_PATH` is an address."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import InterfaceError, OperationalError
from places import place

from hangarlog.integrations.eventsourcing import HangarlogFactory
from hangarlog.integrations.eventsourcing.factory import _store_name

MODULE = "hangarlog.integrations.eventsourcing"


def application(address: str, name: str = "Bank", **env: str) -> Application:
    class Named(Application):
        pass

    Named.name = name
    return Named({"PERSISTENCE_MODULE": MODULE, "HANGARLOG_PATH": address, "IS_SNAPSHOTTING_ENABLED": "y", **env})


def test_applications_have_stores_of_their_own_that_are_found_again(tmp_path: Path) -> None:
    address, dog = place(tmp_path), Aggregate()
    with application(address) as bank, application(address, "Bank-2") as other:
        bank.save(dog)
        bank.take_snapshot(dog.id)
        assert bank.recorder.store.path.endswith("-bank-events")
        assert bank.snapshots.recorder.store.path.endswith("-bank-snapshots")
        assert other.recorder.store.path.endswith("-bank_2d2-events")
        assert other.recorder.max_notification_id() is None
    with application(address) as bank:
        assert bank.repository.get(dog.id) == dog


def test_an_address_needs_no_name(tmp_path: Path) -> None:
    servers, _, options = place(tmp_path).partition("?")
    name = f"app {uuid4().hex[:8]}"
    with application(f"{servers.rpartition('/')[0]}?{options}", name) as bank:
        bank.save(Aggregate())
        assert bank.recorder.store.path.endswith(f"/{_store_name(name)}-events")


def test_names_of_stores_are_never_alike() -> None:
    names = ["a", "a-b", "a_b", "a b", "a.b", "a/b", "a_2db", "a\u00e9b", "a*b"]
    assert len(set(map(_store_name, names))) == len(names)
    assert all(set(_store_name(name)) <= set("abcdefghijklmnopqrstuvwxyz0123456789_") for name in names)


def test_what_servers_cannot_do_is_refused(tmp_path: Path) -> None:
    address = place(tmp_path)
    with pytest.raises(OSError, match="'always' or 'relaxed' on servers"):
        HangarlogFactory({"HANGARLOG_PATH": address, "HANGARLOG_DURABILITY": "2.5"})
    three = address.replace("replicas=1", "replicas=3")
    with pytest.raises(InterfaceError, match="replicas"):
        application(three, "three")
    with pytest.raises(InterfaceError, match="64 letters"):
        application(address, "a" * 64)
    with pytest.raises(OperationalError, match=r"127\.0\.0\.1:1\b") as caught:
        application("nats://user:secret@127.0.0.1:1/bank?timeout=1")
    assert "secret" not in str(caught.value)
