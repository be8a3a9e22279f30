"""Faults that come in a call of the file system, and interrupts at any point."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import hangarlog
import hangarlog.system.futex
from hangarlog.system.filesystem import FileSystem
from hangarlog.system.open_folder import Beneath
from hangarlog.testing import Unsynced

HERE = os.path.dirname(__file__)
LIBRARY = os.path.dirname(os.path.abspath(hangarlog.__file__))


class Faults:
    """Raises in the call numbered `at` of those made while armed: instead of it, or after it was done."""

    def __init__(self) -> None:
        self.arm(0, KeyboardInterrupt)
        self.armed = False

    def arm(self, at: int, kind: Callable[[], BaseException], *, after: bool = False) -> None:
        self.at, self.kind, self.after = at, kind, after
        self.calls, self.fired, self.armed, self.thread = 0, "", True, threading.get_ident()

    def call(self, name: str, real: Callable[[], Any]) -> Any:
        if not self.armed or threading.get_ident() != self.thread or (self.after and name in LOOKING):
            return real()
        # A close that fails has closed: so it is on Linux.
        late = self.after or name == "close"
        result = real() if late else None
        self.calls += 1
        if self.calls != self.at:
            return result if late else real()
        self.fired = f"{name}, call {self.calls}, {caller(sys._getframe())}"
        if late and name.startswith("open_"):
            os.close(result[0] if isinstance(result, tuple) else result)  # Nobody was given it.
        raise self.kind()

    def filesystem(self) -> FileSystem:
        """A file system all of whose public methods may fail, also those called by others of them."""

        def failing(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
            return lambda this, *args, **options: self.call(name, lambda: method(this, *args, **options))

        methods = {
            name: failing(name, method)
            for name, method in {**vars(Beneath), **vars(FileSystem), **vars(Unsynced)}.items()
            if callable(method) and not name.startswith("_")
        }
        return type("FailingFileSystem", (FileSystem,), methods)()  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def beside_the_seam(self) -> Iterator[None]:
        """The call that does not go through the file system: mapping."""

        def failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **options: self.call(name, lambda: real(*args, **options))

        mapping = hangarlog.system.futex.mmap
        try:
            hangarlog.system.futex.mmap = SimpleNamespace(**{**vars(mapping), "mmap": failing("mmap", mapping.mmap)})
            yield
        finally:
            hangarlog.system.futex.mmap = mapping


def caller(frame: FrameType | None) -> str:
    """Where in the library a call was made."""
    while frame and (name := os.path.relpath(frame.f_code.co_filename, LIBRARY)).startswith(
        ("..", "system/filesystem")
    ):
        frame = frame.f_back
    return f"{name}:{frame.f_lineno} {frame.f_code.co_name}" if frame else ""


LOOKING = frozenset(
    [
        "read",
        "pread",
        "size",
        "size_at",
        "identity",
        "identity_at",
        "names",
        "read_file",
        "entries",
        "open_read",
        "held_byte",
        "lock_holder",
        "is_folder_at",
        "folder_changed_at",
        "made_at",
        "modified_at",
        "is_ours",
        "mount",
        "mount_table",
    ]
)
"""Calls that change nothing; after any other one an error may come when it is done."""

KINDS: dict[str, Callable[[], BaseException]] = {
    "EIO": lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
    "EMFILE": lambda: OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    "EACCES": lambda: OSError(errno.EACCES, os.strerror(errno.EACCES)),
    "MemoryError": MemoryError,
    "KeyboardInterrupt": KeyboardInterrupt,
}


OTHERS = ("threading.py", "weakref.py", "_weakrefset.py", "typing.py")
"""Not interrupted: msgspec's C code hashes types, and forgets what is raised there."""


class Interrupter:
    """A trace function that interrupts at the point numbered `at` of those where a signal's handler may really run:
    after a call, at the start of a function, and at the end of a loop's turn.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        self.points, self.fired = 0, ""
        self._before: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        path = frame.f_code.co_filename
        if os.path.dirname(path) == HERE or path.endswith(OTHERS):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        self._before[frame] = "RESUME"
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "opcode":
            before = self._before.get(frame, "")
            self._before[frame] = _operation(frame.f_code, frame.f_lasti)
            if before == "RESUME" or before.startswith(("CALL", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")):
                self._point(frame)
        elif event == "exception":
            self._before[frame] = ""  # A call that raises goes straight to the handler.
        elif event == "return":
            self._before.pop(frame, None)
            # Python looks for signals when a call of its own begins, not when it returns (but from a class's it does).
            if frame.f_back in self._before and frame.f_code.co_name != "__init__" and not frame.f_code.co_flags & 0x20:
                self._before[frame.f_back] = ""
        return self._opcode

    def _point(self, frame: FrameType) -> None:
        self.points += 1
        if self.points == self.at:
            path = os.path.relpath(frame.f_code.co_filename, os.path.dirname(LIBRARY))
            caller = frame.f_back
            back = f" < {os.path.basename(caller.f_code.co_filename)}:{caller.f_lineno}" if caller else ""
            self.fired = f"{path}:{frame.f_lineno} {frame.f_code.co_name}{back}"
            self._before.clear()  # A frame that is kept keeps all that it has.
            raise KeyboardInterrupt


_operations: dict[CodeType, dict[int, str]] = {}


def _operation(code: CodeType, offset: int) -> str:
    if code not in _operations:
        import dis

        _operations[code] = {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}
    return _operations[code].get(offset, "")
