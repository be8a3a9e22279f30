"""A forked process that reports what it does."""

from __future__ import annotations

import os
import select
import signal
import traceback
from collections.abc import Callable

PATIENCE = 600.0  # A hang guard, no promise.


class Child:
    """A forked process that does `work(fd)` and reports through `fd`; an error in it is reported behind a `!`."""

    def __init__(self, work: Callable[[int], None]) -> None:
        self.reading, writing = os.pipe()
        self.pid = os.fork()
        self.status: int | None = None
        if self.pid:
            os.close(writing)
            return
        status = 1
        try:
            os.close(self.reading)  # With the parent gone a report fails, and this process ends too.
            work(writing)
            status = 0
        except BaseException:
            os.write(writing, b"!" + traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(status)

    def reported(self) -> bytes:
        """What it reports next, nothing if it has ended; fails if it hangs, or says that it failed."""
        assert select.select([self.reading], [], [], PATIENCE)[0], f"process {self.pid} hangs"
        report = os.read(self.reading, 1 << 16)
        assert b"!" not in report, report.decode(errors="replace")
        return report

    def rest(self) -> bytes:
        """All it has still reported when it has ended."""
        return b"".join(iter(self.reported, b""))

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, negative for the signal that ended it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def end(self) -> None:
        """Leave nothing of it behind, whatever it does."""
        if self.status is None:
            self.kill()
            self.wait()
        os.close(self.reading)
