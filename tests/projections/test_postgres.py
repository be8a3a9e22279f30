"""The recipe for PostgreSQL in docs/projections.md, against a real server. Skipped where there is none."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import ROOT, tool

from hangarlog import FileEventStore
from hangarlog.testing import registered


class Deposited(msgspec.Struct):
    """The event of the page."""

    amount: int


@pytest.fixture
def server() -> Iterator[str]:
    """A server of its own in a temporary folder; the text by which it is connected to."""
    pytest.importorskip("psycopg")
    control = tool("pg_ctl")
    folder = tempfile.mkdtemp(prefix="hangarlog-pg-", dir="/tmp")
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:  # The server refuses to run as root.
        as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(folder, "postgres")
    run: dict[str, Any] = {"check": True, "capture_output": True, "cwd": folder, **as_user}
    try:
        subprocess.run([tool("initdb"), "-D", f"{folder}/data", "-A", "trust", "-U", "test"], **run)
        options = f"-c listen_addresses= -k {folder}"
        subprocess.run([control, "-D", f"{folder}/data", "-l", f"{folder}/log", "-o", options, "-w", "start"], **run)
        try:
            yield f"host={folder} user=test dbname=postgres"
        finally:
            subprocess.run([control, "-D", f"{folder}/data", "-m", "immediate", "stop"], **run)
    finally:
        shutil.rmtree(folder)


def test_the_recipe_counts_each_event_once(server: str, tmp_path: Path) -> None:
    """Killed within its transactions again and again, by several processes; a second runner is refused."""
    import psycopg

    page = (ROOT / "docs" / "projections.md").read_text()
    (program,) = (b for b in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL) if "pg_try" in b)
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - that is the test
    follow, events = names["follow"], 3000
    with registered(Deposited=Deposited), FileEventStore(tmp_path / "s", durability="relaxed") as store:
        for number in range(events):
            store.append_at_end(f"account:{number % 7}", [Deposited(number)])
        for kill_at in range(100, events, 450):
            pid = os.fork()
            if pid == 0:
                with FileEventStore(tmp_path / "s", durability="relaxed") as own:
                    connection = psycopg.connect(server, autocommit=True)
                    execute, count = connection.execute, iter(range(1 << 60))

                    def dies(*arguments: Any) -> Any:
                        if next(count) == kill_at:  # noqa: B023
                            os.kill(os.getpid(), signal.SIGKILL)
                        return execute(*arguments)  # noqa: B023

                    connection.execute = dies  # type: ignore[method-assign]
                    follow(own, connection, timeout=0)
                os._exit(0)
            os.waitpid(pid, 0)
        with psycopg.connect(server, autocommit=True) as first, psycopg.connect(server, autocommit=True) as second:
            while not first.execute("SELECT pg_try_advisory_lock(hashtext('balance'))").fetchone()[0]:  # type: ignore[index]
                pass  # The server has not noticed yet that the last one died.
            follow(store, first, timeout=0)
            with pytest.raises(RuntimeError, match="another runner has balance"):
                follow(store, second, timeout=0)
            total = first.execute("SELECT sum(amount) FROM balance").fetchone()
        assert total is not None
        assert total[0] == sum(range(events))
        assert store.wait("balance", events, 0)
