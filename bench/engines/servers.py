"""What engines with a server share: a free port, a program beside this Python, and waiting until it answers."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_PATIENCE = 60.0  # Seconds: a guard.


def program(name: str) -> str | None:
    """The path of a program that a package has installed, or that is there anyhow."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def free_port() -> int:
    """One that nobody listens at now, on the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str], answers: Callable[[], bool]) -> Iterator[None]:
    """A server, from when it answers on; it is stopped afterwards."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as it:
        try:
            last = time.monotonic() + _PATIENCE
            while not answers():
                if it.poll() is not None or time.monotonic() > last:
                    raise RuntimeError(f"{Path(command[0]).name} does not answer (exit code {it.poll()})")
                time.sleep(0.001)
            yield
        finally:
            it.terminate()
            try:
                it.wait(20)
            except subprocess.TimeoutExpired:
                it.kill()


def listens(port: int) -> bool:
    """Whether a connection is taken."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
