"""Worker processes that read shares of a store.

Requests and answers are lines of JSON. `multiprocessing` is not used, because its processes import from the current
folder, which may be a hostile store.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import msgspec

from hangarlog.errors import CorruptionWarning, HangarlogError
from hangarlog.schema.share import Share, StoredKind, read_share
from hangarlog.system.child_process import start

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from hangarlog.schema.workers import serve; serve()"


class Answer(msgspec.Struct):
    """The events of a share, None if it could not be read, and the warnings about damage."""

    stored: list[StoredKind] | None = None
    warnings: list[str] = []


_decode_answer = msgspec.json.Decoder(Answer, dec_hook=lambda kind, counts: kind(counts)).decode  # Builds a Counter.

Ask = Callable[[Share], Answer]


@contextlib.contextmanager
def workers(count: int) -> Iterator[Ask]:
    """Start `count` processes, and yield a function that reads a share in a free one, from any thread."""
    started = [start(_PROGRAM, {}) for _ in range(count)]
    free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    for process in started:
        free.put(process)

    def ask(share: Share) -> Answer:
        process = free.get()
        try:
            return _ask(process, share)
        finally:
            free.put(process)

    try:
        yield ask
    except BaseException:
        for process in started:
            process.kill()
        raise
    finally:
        for process in started:
            process.communicate()


def _ask(process: subprocess.Popen[bytes], share: Share) -> Answer:
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(msgspec.json.encode(share) + b"\n")
        process.stdin.flush()
        return _decode_answer(process.stdout.readline())
    except (
        OSError,
        ValueError,
        msgspec.DecodeError,
    ):  # The process has ended. The caller sees why.
        return Answer()


def serve() -> None:
    """Run a worker process: answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    del sys.argv[1:]
    with open(os.dup(0), "rb") as requests, open(os.dup(1), "wb") as answers:
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)  # The application's prints must not mix with the answers.
        for line in requests:
            answers.write(msgspec.json.encode(_answer(msgspec.json.decode(line, type=Share))) + b"\n")
            answers.flush()


def _answer(share: Share) -> Answer:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CorruptionWarning)
        try:
            stored: Any = read_share(share)
        except (HangarlogError, OSError):
            return Answer()
    return Answer(stored, [str(each.message) for each in caught if issubclass(each.category, CorruptionWarning)])
