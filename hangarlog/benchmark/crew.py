"""The processes that measure together: started once, given tasks, and killed at the end."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence

import msgspec

from hangarlog.benchmark.errors import BenchmarkError
from hangarlog.benchmark.turn import Turn
from hangarlog.benchmark.worker import READY, Task
from hangarlog.system.child_process import start

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from hangarlog.benchmark.worker import serve; serve()"
_decode = msgspec.json.Decoder(Turn).decode


class Crew:
    """Worker processes. `folder` is where they measure, for errors."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        """Start processes until there are `count`."""
        while len(self._processes) < count:
            self._processes.append(start(_PROGRAM, {}))

    def together(self, tasks: Sequence[Task]) -> list[Turn]:
        """Give each task to a process of its own, let them begin together, and return their turns."""
        self.begin(tasks)
        return [self.answer(number) for number in range(len(tasks))]

    def begin(self, tasks: Sequence[Task]) -> None:
        """Give the tasks to the first processes, and return when all have begun."""
        self.start(len(tasks))
        for number, task in enumerate(tasks):
            self._say(number, msgspec.json.encode(task) + b"\n")
        for number in range(len(tasks)):
            line = self._hear(number)
            if line != READY:
                self._refuse(_decode(line))
        for number in range(len(tasks)):
            self._say(number, b"go\n")

    def answer(self, number: int) -> Turn:
        """Return the turn of a process that has begun."""
        turn = _decode(self._hear(number))
        self._refuse(turn)
        return turn

    def stop(self) -> None:
        """Kill all processes, and wait for them."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.communicate()
        self._processes.clear()

    def _say(self, number: int, line: bytes) -> None:
        pipe = self._processes[number].stdin
        assert pipe
        try:
            pipe.write(line)
            pipe.flush()
        except OSError as error:  # Not as a closed pipe: that would mean that nobody reads the results.
            raise self._ended(number) from error

    def _hear(self, number: int) -> bytes:
        pipe = self._processes[number].stdout
        assert pipe
        line = pipe.readline()
        if not line.endswith(b"\n"):
            raise self._ended(number)
        return line

    def _ended(self, number: int) -> BenchmarkError:
        code = self._processes[number].wait()
        return BenchmarkError(self._folder, f"a process that measured has ended by itself (exit code {code})")

    def _refuse(self, turn: Turn) -> None:
        if turn.errno:
            raise OSError(turn.errno, turn.error)
        if turn.error:
            raise BenchmarkError(self._folder, turn.error)
