"""The standard streams of the command line, whatever they are connected to: closed, full, or of another encoding.

If standard output or input fails, an error of its own says so. Failures of standard error are ignored, because there is
no place left to report them.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer


_BUFFER_BYTES = 64 << 10  # As much as a pipe takes; a call for each 8 KiB is 3 % of a read.


class InputError(Exception):
    """Standard input cannot be read."""

    def __init__(self, error: OSError) -> None:
        closed = error.errno == errno.EBADF
        super().__init__(f"standard input {'is closed' if closed else f'cannot be read: {error.strerror}'}")


class OutputError(Exception):
    """Standard output cannot be written.

    Attributes:
        reader_is_gone: it is a pipe that its reader has closed.
        done: what the command had done before, "" if nothing.
        result: the exit code that the command had returned before, 0 if it had not ended.
    """

    def __init__(self, error: OSError) -> None:
        closed = error.errno == errno.EBADF
        super().__init__(f"standard output {'is closed' if closed else f'cannot be written: {error.strerror}'}")
        self.reader_is_gone = error.errno == errno.EPIPE
        self.done, self.result = "", 0

    def __str__(self) -> str:
        cause = super().__str__()
        return f"{self.done}, but this answer could not be written: {cause}" if self.done else cause


class _Input(io.FileIO):
    def readinto(self, buffer: Buffer) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise InputError(error) from error

    def readall(self) -> bytes:
        try:
            return super().readall()
        except OSError as error:
            raise InputError(error) from error


class _Output(io.FileIO):
    discards = False
    """True once the command has ended with a failure: Python flushes at exit, and would report it in its own way."""

    @cached_property
    def _is_terminal(self) -> bool:
        return super().isatty()

    def isatty(self) -> bool:  # Each event asks, and a call of the system is a tenth of what it costs.
        return self._is_terminal

    def write(self, data: Buffer) -> int:
        if self.discards:
            return memoryview(data).nbytes
        try:
            return _write(self, data)
        except OSError as error:
            raise OutputError(error) from error


class _Errors(io.FileIO):
    def write(self, data: Buffer) -> int:
        try:
            return _write(self, data)
        except OSError:
            return memoryview(data).nbytes


def _write(file: io.FileIO, data: Buffer) -> int:
    """Write all of `data`. Without a buffer (PYTHONUNBUFFERED), Python would lose what a call did not take."""
    left = memoryview(data).cast("B")
    while left:
        written = io.FileIO.write(file, left)
        if written is None:  # Somebody made the file non-blocking, and it is full.
            import select

            select.select([], [file], [])
        left = left[written or 0 :]
    return memoryview(data).nbytes


def fill_closed_streams() -> None:
    """Open a substitute for each closed standard stream, so that no file of a store gets its descriptor.

    Otherwise a child process, or a crash of Python, would write its errors into the journal. The substitutes refuse
    what the stream is for. This must be called before any other file is opened.
    """
    for number, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.set_inheritable(os.open(os.devnull, flags), True)


def take_over_streams() -> None:
    """Replace `sys.stdin`, `sys.stdout` and `sys.stderr` so that they fail as this module says.

    Characters that the output's encoding lacks are escaped. Streams that are no files of Python's stay as they are.
    """
    sys.stdin = _taken_over(sys.stdin, 0, _Input, "r")
    sys.stdout = _taken_over(sys.stdout, 1, _Output, "w")
    sys.stderr = _taken_over(sys.stderr, 2, _Errors, "w")


def _taken_over(stream: TextIO | None, number: int, kind: type[io.FileIO], mode: str) -> TextIO:
    buffered = True
    if stream is not None:
        if not isinstance(stream, io.TextIOWrapper):
            return stream
        buffered = hasattr(stream.buffer, "raw")
        if type(stream.buffer.raw if buffered else stream.buffer) is not io.FileIO:
            return stream
        number = stream.fileno()
    try:
        raw: Any = kind(number, mode, closefd=False)
    except OSError:  # Also the substitute could not be opened.
        raw = kind(os.devnull, mode)
    raw.replaced = stream  # Its end would close the descriptor.
    encoding = stream.encoding if stream is not None else "utf-8"
    if mode == "r":
        return io.TextIOWrapper(io.BufferedReader(raw), encoding, errors=stream.errors if stream else None)
    lines = kind is _Errors or raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw, _BUFFER_BYTES) if buffered else raw,
        encoding,
        errors="backslashreplace",
        line_buffering=lines,
        write_through=not buffered,
    )


def end_output() -> None:
    """Write what standard output still buffers. If that fails, drop it, and all that comes."""
    try:
        sys.stdout.flush()
    except OutputError:
        output: Any = sys.stdout.buffer
        getattr(output, "raw", output).discards = True


def output_is_file() -> bool:
    """True if standard output is a regular file, which nobody reads meanwhile."""
    import stat

    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):
        return False
