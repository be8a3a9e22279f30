"""Whether an upcaster is pure: run twice on copies, watched for calls that a pure function does not make.

What is seen: different results for the same payload, a changed argument, and every call of a C function that asks for
the time, for chance, for the environment, or does input or output. What is not: what a function has read before
(a module's variable that changes from one start of the program to the next), the order of a set of texts, the local
time zone, and whatever an extension module does inside one call of it.
"""

from __future__ import annotations

import copy
import gc
import sys
from collections.abc import Callable, Collection, Sequence
from types import FrameType, ModuleType
from typing import Any

from hangarlog.events.serializer import EventSerializer

_IMPURE_MODULES = {
    "_asyncio",
    "_ctypes",
    "_io",
    "_multiprocessing",
    "_posixsubprocess",
    "_random",
    "_socket",
    "_sqlite3",
    "_ssl",
    "_uuid",
    "_winapi",
    "mmap",
    "nt",
    "posix",
    "select",
    "time",
}
_PURE_CALLS = {"posix.fspath", "nt.fspath", "_io.text_encoding", "time.strptime"}
_PURE_CLASSES = {"StringIO", "BytesIO"}
_IMPURE_CALLS = {
    "_thread.start_joinable_thread",
    "_thread.start_new_thread",  # What it does there is not seen.
    "builtins.breakpoint",
    "builtins.hash",
    "builtins.id",
    "builtins.input",
    "builtins.open",
    "builtins.print",
    "io.open",
    "datetime.now",
    "datetime.today",
    "datetime.utcnow",
    "date.today",
}

Step = Callable[[dict[str, Any]], Any]


class ImpureUpcasterError(Exception):
    """An upcaster is not pure; the message says which, and how. `version` is the one it takes."""

    version = 0


def pure_path(
    serializer: EventSerializer, event_type: str, version: int, payload: dict[str, Any], known: Collection[int] = ()
) -> Any:
    """What the upcasters make of a payload: a payload of the current version, or a splitter's list.

    The steps from the versions in `known` are not looked at again.

    Raises:
        ImpureUpcasterError: one of them is not pure.
        UpcastingError: one is missing.
        Exception: whatever a step itself raises.
    """
    registry, chain = serializer.registry, serializer.chain
    split = chain.split_of(event_type)
    if split is not None and version <= split[0]:
        steps = (*chain.path(event_type, version, split[0], None), split)
    else:
        target = registry.target_version(event_type)
        steps = chain.path(event_type, version, target, registry.canonical_name(event_type))
    made: Any = payload
    for at, step in steps:
        try:
            made = step(made) if at in known else pure_result(step, made)
        except ImpureUpcasterError as error:
            name = getattr(step, "__qualname__", repr(step))
            impure = ImpureUpcasterError(f"the upcaster from v{at} ({name}) is not pure: {error}")
            impure.version = at
            raise impure from None
    return made


def pure_result(step: Step, payload: dict[str, Any]) -> Any:
    """What a step makes of a payload.

    Raises:
        ImpureUpcasterError: it is not pure.
        Exception: whatever the step itself raises.
    """
    first, second = copy.deepcopy(payload), copy.deepcopy(payload)
    result, calls = _watched(step, first)
    result = copy.deepcopy(result)  # It may be of what the step keeps, and changes again.
    if first != payload or list(first) != list(payload):
        raise ImpureUpcasterError("it changes the payload it is given: make a new one, such as {**data, ...}")
    again, more = _watched(step, second)
    if calls or more:
        names = ", ".join({**dict.fromkeys(calls), **dict.fromkeys(more)})
        raise ImpureUpcasterError(f"it calls {names}: what it gives then depends on more than the payload")
    if result != again:
        raise ImpureUpcasterError("it gives something else the second time, for the same payload")
    return result


def _listed(result: Any) -> Any:
    """A splitter may be a generator, which runs when it is asked."""
    return result if isinstance(result, dict) or not hasattr(result, "__iter__") else list(result)


def _watched(step: Step, payload: dict[str, Any]) -> tuple[Any, Sequence[str]]:
    calls: dict[str, None] = {}
    here = sys._getframe()

    def watch(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and _module_of(frame) != "copy":  # It compares identities.
            name = _name(function)
            if name is not None and not _is_importing(frame, here):
                calls[name] = None
        elif event == "call" and frame.f_code.co_qualname.startswith("_Environ.") and _module_of(frame) == "os":
            calls["os.environ"] = None

    before, collecting = sys.getprofile(), gc.isenabled()
    gc.disable()  # It calls back whoever wants to know how long it takes, and is no doing of the step's.
    sys.setprofile(watch)
    try:
        result = _listed(step(payload))
    except SystemExit as error:
        raise ImpureUpcasterError("it ends the program") from error
    finally:
        sys.setprofile(before)
        if collecting:
            gc.enable()
    calls.pop("sys.setprofile", None)
    return result, list(calls)


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_importing(frame: FrameType | None, until: FrameType) -> bool:
    """Whether a step makes a call to import something: that is done once, and is no doing of the upcaster's.

    The check itself may run while something is imported, as a test's module.
    """
    while frame is not None and frame is not until:
        if _module_of(frame).startswith("importlib."):
            return True
        frame = frame.f_back
    return False


def _name(function: Any) -> str | None:
    """What an impure C function is called, None for another."""
    owner = getattr(function, "__self__", None)
    module = getattr(function, "__module__", None)
    if module is None and isinstance(owner, ModuleType):
        module = owner.__name__
    name = str(getattr(function, "__name__", ""))
    if module is None and owner is not None:
        kind = owner if isinstance(owner, type) else type(owner)
        for base in kind.__mro__:
            if base.__name__ in _PURE_CLASSES:
                return None
            if base.__module__ in _IMPURE_MODULES or f"{base.__name__}.{name}" in _IMPURE_CALLS:
                return f"{kind.__name__}.{name}"
        return None
    full = f"{module}.{name}"
    impure = full in _IMPURE_CALLS or (module in _IMPURE_MODULES and full not in _PURE_CALLS)
    return full if impure else None
