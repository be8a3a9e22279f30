"""Floors: the bare calls, with nothing promised, in as few lines as do the same work."""

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
    """A whole line as hangarlog stores it, the checksum a constant."""

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
    """One file; only the payload is written."""

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
    """One file of whole lines; read a line at a time."""

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
    """Whole lines, decoded in one call a piece of about a megabyte."""

    def read_stream(self, stream: str) -> Sequence[Any]:
        decode, text, begin = msgspec.json.Decoder(_Line).decode_lines, self._text(), 0
        events: list[Any] = []
        while begin < len(text):
            end = text.find(b"\n", begin + (1 << 20)) + 1 or len(text)
            events += [line.data for line in decode(text[begin:end])]
            begin = end
        return events


class _Files(Session):
    """A file a stream, opened for each append."""

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


_WRITTEN, _SYNCED, _BELL = range(3)
_FUTEX = {"x86_64": 202, "aarch64": 98}


class _GroupCommit(Session):
    """All processes append to one file under a lock, and one of them syncs for all; the others sleep at a futex."""

    def __init__(self, folder: str) -> None:
        self.number = _FUTEX.get(platform.machine())
        if platform.system() != "Linux" or self.number is None:
            raise Unsupported("the number of the futex call is not known here")
        self.fd, self.lock, self.sync, shared = (
            os.open(os.path.join(folder, name), _CREATE, 0o600) for name in ("floor.jsonl", "lock", "sync", "shared")
        )
        os.ftruncate(shared, 4096)
        self.words = memoryview(mmap.mmap(shared, 4096)).cast("Q")
        self.bell = ctypes.addressof(ctypes.c_uint64.from_buffer(self.words, _BELL * 8))
        self.futex = ctypes.CDLL(None).syscall
        self.futex.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, *[ctypes.c_void_p] * 3]
        self.patience = (ctypes.c_long * 2)(0, 50_000_000)

    def version(self, stream: str) -> int:
        return -1

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        words, text = self.words, _encode(events[0]) + b"\n"
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        os.write(self.fd, text)
        mine = words[_WRITTEN] = words[_WRITTEN] + 1
        fcntl.flock(self.lock, fcntl.LOCK_UN)
        while words[_SYNCED] < mine:
            heard = words[_BELL]
            try:
                fcntl.flock(self.sync, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if words[_SYNCED] < mine:
                    self.futex(self.number, self.bell, 0, heard & 0xFFFF_FFFF, ctypes.addressof(self.patience), 0, 0)
                continue
            if (written := words[_WRITTEN]) > words[_SYNCED]:
                os.fdatasync(self.fd)
                words[_SYNCED] = written
            fcntl.flock(self.sync, fcntl.LOCK_UN)
            words[_BELL] += 1
            self.futex(self.number, self.bell, 1, 1 << 30, 0, 0, 0)
        return expected + 1


class _Floor(Engine):
    title = "floor"
    settings = "bare os.write, msgspec; fdatasync where durable"
    notes = ("no versions, no checksum, one copy, nothing is recovered",)

    def version(self) -> str:
        return platform.python_version()

    def stored_as(self, variant: str) -> str:
        return "whole lines" if variant in ("line by line", "one pass") else variant

    def open(self, target: str, *, durable: bool, variant: str = "", kind: str = "") -> Session:
        """Variants, each a floor of something else; "" writes payloads only."""
        if variant == "a file a stream":
            return _Files(target)
        if variant == "group commit":
            return _GroupCommit(target)
        made = {"": _Payloads, "one pass": _OnePass}.get(variant, _Lines)
        return made(target, durable=durable)


ENGINE = _Floor()
