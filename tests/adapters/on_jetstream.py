"""A plugin for pytest (`-p on_jetstream`): a suite's stores are on a server on loopback instead of in folders."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import VARIABLE

sys.path.append(str(Path(__file__).parents[1] / "jetstream"))
from nats_servers import Cluster


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    yield
    _cluster.stop()
    _folder.cleanup()


_folder = tempfile.TemporaryDirectory()
_cluster = Cluster(Path(_folder.name), 1)
_cluster.start()
os.environ[VARIABLE] = f"{_cluster.address}/{{}}?replicas=1&synced=yes"
