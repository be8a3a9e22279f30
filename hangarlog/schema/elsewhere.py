"""The defaults of an application's classes as another process computes them.

A default that is made when a module is imported (the host's name, an id, a time) looks like a constant. A second
process, with another order of sets, time zone, clock, user and host, makes another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from hangarlog.errors import HangarlogError
from hangarlog.events.serializer import EventSerializer
from hangarlog.schema.check import Finding
from hangarlog.schema.defaults import Keywords, set_varying
from hangarlog.schema.describe import described_defaults
from hangarlog.schema.target import load_events
from hangarlog.system.child_process import start

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from hangarlog.schema.elsewhere import answer; answer()"
_TIMEOUT_SECONDS = 120
_SHIFT_SECONDS = 400 * 86_400 + 5_025
_ENVIRONMENT = {"TZ": "ELSE-23:30", "USER": "elsewhere", "LOGNAME": "elsewhere", "HOSTNAME": "elsewhere"}

_Defaults = dict[str, dict[str, Keywords]]
_decode_defaults = msgspec.json.Decoder(_Defaults).decode


def may_be_varying(findings: Iterable[Finding]) -> bool:
    """True if some finding of a check may be about a default that differs from one process to the next."""
    return any(finding.kind in ("changed", "lost", "compatible", "not locked") for finding in findings)


def find_varying(serializer: EventSerializer, target: str, folder: str | None) -> bool:
    """Find the defaults that differ in another process, so that they count as computed. True if there are any.

    `target` names the application's events, as for `load_events`. If the process cannot load them, none is found.
    """
    classes, here = _defaults(serializer)
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    process = start(_PROGRAM, {**_ENVIRONMENT, "PYTHONHASHSEED": seed})
    try:
        question = json.dumps([target, folder]).encode()  # Not by msgspec: the folder's name may be no text.
        answer, _ = process.communicate(question, timeout=_TIMEOUT_SECONDS)
        there = _decode_defaults(answer)
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError):
        return False
    finally:
        process.kill()
        process.communicate()
    varying = {
        classes[name]: {field for field, default in defaults.items() if there[name].get(field) != default}
        for name, defaults in here.items()
        if name in there
    }
    set_varying(varying)
    return any(varying.values())


def answer() -> None:
    """Run the second process: read the question from standard input, and answer on standard output."""
    del sys.argv[1:]
    with open(os.dup(1), "wb") as answers:
        with open(os.devnull, "wb") as nothing:  # The first process has printed what the application prints.
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        target, folder = json.load(sys.stdin.buffer)
        _move_elsewhere()
        with contextlib.suppress(HangarlogError, OSError):
            answers.write(msgspec.json.encode(_defaults(load_events(target, folder))[1]))


def _move_elsewhere() -> None:
    """Give this process another host's name and another time."""
    import platform
    import socket

    seconds, nanoseconds = time.time, time.time_ns
    changed: list[tuple[Any, str, Any]] = [
        (socket, "gethostname", lambda: "elsewhere"),
        (socket, "getfqdn", lambda name="": name or "elsewhere"),
        (platform, "node", lambda: "elsewhere"),
        (time, "time", lambda: seconds() + _SHIFT_SECONDS),
        (time, "time_ns", lambda: nanoseconds() + _SHIFT_SECONDS * 10**9),
    ]
    for module, name, function in changed:
        setattr(module, name, function)


def _defaults(serializer: EventSerializer) -> tuple[dict[str, type], _Defaults]:
    """Return the classes of an application's events by name, and the defaults of their fields."""
    classes: dict[str, type] = {}
    defaults: _Defaults = {}
    for event_class in serializer.registry.types.values():
        with contextlib.suppress(Exception):  # The application's types may raise anything. The check reports it.
            for owner, found in described_defaults(event_class, serializer.enc_hook):
                name = f"{owner.__module__}.{owner.__qualname__}"
                classes[name], defaults[name] = owner, found
    return classes, defaults
