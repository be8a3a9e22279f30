"""Floors: the bare calls for the same work, without any promise."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
from collections.abc import Sequence
from typing import Any

import msgspec

from bench.harness.engine import Engine, Session, Unsupported
from bench.harness.payload import ProviderStarted

_CREATE = os.O_CREAT | os.O_APPEND | os.O_RDWR
_encode = msgspec.json.Encoder().encode


class _Line(msgspec.Struct, gc=False):
    """A whole line as hangarlog stores it, with a constant as its checksum."""

    position: int
    stream_id: str
    stream_version: int
    event_type: str
    event_id: str
    recorded_at: str
    data: ProviderStarted
    crc: str = "ddc99e24"


def _line(stream: str, version: int, event: Any) -> bytes:
    return _encode(_Line(version, stream, version, "ProviderStarted", event.event_id, "2026-11-23T03:01:02Z", event))


class _Payloads(Session):
    """One file of payloads."""

    def __init__(self, folder: str, *, durable: bool) -> None:
        self.fd = os.open(os.path.join(folder, "floor.jsonl"), _CREATE, 0o600)
        self.durable = durable

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        os.write(self.fd, b"\n".join([_encode(event) for event in events]) + b"\n")
        if self.durable:
            os.fdatasync(self.fd)
        return expected + len(events)

    def version(self, stream: str) -> int:
        return -1

    def close(self) -> None:
        os.close(self.fd)


class _Lines(_Payloads):
    """One file of whole lines, decoded line by line."""

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        os.write(self.fd, b"\n".join([_line(stream, n, event) for n, event in enumerate(events, expected + 1)]) + b"\n")
        if self.durable:
            os.fdatasync(self.fd)
        return expected + len(events)

    def read_stream(self, stream: str) -> Sequence[Any]:
        decode = msgspec.json.Decoder(_Line).decode
        return [decode(line).data for line in self._text().split(b"\n") if line]

    def read_all(self) -> int:
        return len(self.read_stream(""))

    def _text(self) -> bytes:
        return os.pread(self.fd, os.lseek(self.fd, 0, os.SEEK_END), 0)


class _OnePass(_Lines):
    """One file of whole lines, decoded in blocks of about 1 MiB."""

    def read_stream(self, stream: str) -> Sequence[Any]:
        decode, text, begin = msgspec.json.Decoder(_Line).decode_lines, self._text(), 0
        events: list[Any] = []
        while begin < len(text):
            end = text.find(b"\n", begin + (1 << 20)) + 1 or len(text)
            events += [line.data for line in decode(text[begin:end])]
            begin = end
        return events


class _Files(Session):
    """One file per stream, opened for each append."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.join(folder, "streams")
        os.makedirs(self.folder, exist_ok=True)

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        fd = os.open(os.path.join(self.folder, stream), _CREATE, 0o600)
        os.write(fd, b"\n".join([_line(stream, n, event) for n, event in enumerate(events, expected + 1)]) + b"\n")
        os.close(fd)
        return expected + len(events)

    def version(self, stream: str) -> int:
        return -1

    def read_stream(self, stream: str) -> Sequence[Any]:
        fd = os.open(os.path.join(self.folder, stream), os.O_RDONLY)
        text = os.read(fd, 1 << 20)
        os.close(fd)
        return [line.data for line in msgspec.json.Decoder(_Line).decode_lines(text)]


_WRITTEN, _SYNCED, _FUTEX_WORD = range(3)
_FUTEX_CALL = {"x86_64": 202, "aarch64": 98}
_WAIT, _WAKE = 0, 1


class _GroupCommit(Session):
    """One file, which all processes append to under a lock. One of them syncs for all; the others wait at a futex."""

    def __init__(self, folder: str) -> None:
        self.futex_call = _FUTEX_CALL.get(platform.machine())
        if platform.system() != "Linux" or self.futex_call is None:
            raise Unsupported("the number of the futex system call is unknown on this platform")
        self.fd, self.lock, self.sync, shared = (
            os.open(os.path.join(folder, name), _CREATE, 0o600) for name in ("floor.jsonl", "lock", "sync", "shared")
        )
        os.ftruncate(shared, 4096)
        self.words = memoryview(mmap.mmap(shared, 4096)).cast("Q")
        self.futex_word = ctypes.addressof(ctypes.c_uint64.from_buffer(self.words, _FUTEX_WORD * 8))
        self.syscall = ctypes.CDLL(None).syscall
        self.syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, *[ctypes.c_void_p] * 3]
        self.wait_timeout = (ctypes.c_long * 2)(0, 50_000_000)  # Seconds, nanoseconds.

    def version(self, stream: str) -> int:
        return -1

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        words, text = self.words, _encode(events[0]) + b"\n"
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        os.write(self.fd, text)
        mine = words[_WRITTEN] = words[_WRITTEN] + 1
        fcntl.flock(self.lock, fcntl.LOCK_UN)
        while words[_SYNCED] < mine:
            seen = words[_FUTEX_WORD]
            try:
                fcntl.flock(self.sync, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if words[_SYNCED] < mine:
                    self._futex(_WAIT, seen & 0xFFFF_FFFF, ctypes.addressof(self.wait_timeout))
                continue
            if (written := words[_WRITTEN]) > words[_SYNCED]:
                os.fdatasync(self.fd)
                words[_SYNCED] = written
            fcntl.flock(self.sync, fcntl.LOCK_UN)
            words[_FUTEX_WORD] += 1
            self._futex(_WAKE, 1 << 30, 0)
        return expected + 1

    def _futex(self, operation: int, value: int, timeout: int) -> None:
        self.syscall(self.futex_call, self.futex_word, operation, value, timeout, 0, 0)


class _Floor(Engine):
    title = "floor"
    settings = "bare os.write, msgspec; fdatasync if durable"
    notes = ("no versions, no checksums, no second copy, no recovery",)

    def version(self) -> str:
        return platform.python_version()

    def prepared_variant(self, variant: str) -> str:
        return "whole lines" if variant in ("line by line", "one pass") else variant

    def open(self, target: str, *, durable: bool, variant: str = "", payload_kind: str = "") -> Session:
        """Open a floor; each variant is the floor of other work, and "" writes payloads only."""
        if variant == "file per stream":
            return _Files(target)
        if variant == "group commit":
            return _GroupCommit(target)
        session = {"": _Payloads, "one pass": _OnePass}.get(variant, _Lines)
        return session(target, durable=durable)


ENGINE = _Floor()
