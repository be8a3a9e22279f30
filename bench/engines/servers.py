"""The tools of engines with a server: find its program, find a free port, run it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_START_TIMEOUT_SECONDS = 60.0
_STOP_TIMEOUT_SECONDS = 20.0


def program(name: str) -> str | None:
    """Return the path of a program, from this Python environment first; None if it is not installed."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def free_port() -> int:
    """Return a free port on the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str], answers: Callable[[], bool]) -> Iterator[None]:
    """Start a server, wait until it answers, and stop it at the end."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            last = time.monotonic() + _START_TIMEOUT_SECONDS
            while not answers():
                if server.poll() is not None or time.monotonic() > last:
                    raise RuntimeError(f"{Path(command[0]).name} did not answer (exit code {server.poll()})")
                time.sleep(0.001)
            yield
        finally:
            server.terminate()
            try:
                server.wait(_STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()


def listens(port: int) -> bool:
    """True if a server accepts connections at the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
