"""Purity checks: run an upcaster twice on copies of a payload and watch its calls.

A check detects different results for the same payload, a changed argument, and calls of C functions that read the time,
random numbers or the environment, or do input or output. It does not detect a module's variable that differs between
starts of the program, the order of a set of strings, the local time zone, or what an extension module does inside one
of its calls.
"""

from __future__ import annotations

import copy
import functools
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
    "_thread.start_new_thread",  # Calls in another thread are not watched.
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
    """An upcaster is not pure.

    The message says which one and why. `version` is the version that it takes.
    """

    version = 0


def pure_path(
    serializer: EventSerializer, event_type: str, version: int, payload: dict[str, Any], known: Collection[int] = ()
) -> Any:
    """Return what the upcasters make of a payload: one of the current version, or a splitter's list.

    Steps from the versions in `known` run without a purity check.

    Raises:
        ImpureUpcasterError: a step is not pure.
        UpcastingError: a step is missing.
        Exception: anything that a step raises.
    """
    made: Any = payload
    for at, step in _steps(serializer, event_type, version):
        try:
            made = step(made) if at in known else pure_result(step, made)
        except ImpureUpcasterError as error:
            name = getattr(step, "__qualname__", repr(step))
            impure = ImpureUpcasterError(f"the upcaster from v{at} ({name}) is not pure: {error}")
            impure.version = at
            raise impure from None
    return made


def _steps(serializer: EventSerializer, event_type: str, version: int) -> tuple[tuple[int, Callable[..., Any]], ...]:
    """Return the upcasters from a version on, and the splitter. Raises `UpcastingError` if one is missing."""
    registry, chain = serializer.registry, serializer.chain
    split = chain.split_of(event_type)
    if split is not None and version <= split[0]:
        return (*chain.path(event_type, version, split[0], None), split)
    return chain.path(event_type, version, registry.target_version(event_type), registry.canonical_name(event_type))


def upcasting(serializer: EventSerializer, event_type: str, version: int) -> Step:
    """Return a function that returns what `pure_path` returns, without a purity check. It may change the payload.

    Raises `UpcastingError` if a step is missing.
    """
    steps = [step for _, step in _steps(serializer, event_type, version)]

    def run(payload: dict[str, Any]) -> Any:
        made: Any = payload
        made.pop("_version", None)
        for step in steps:
            made = _as_list(step(made))
        return made

    return run


def partial_path(
    serializer: EventSerializer, event_type: str, version: int, target: int, payload: dict[str, Any]
) -> Any:
    """Return what the upcasters make of a payload up to version `target`. Raises what `pure_path` and steps raise."""
    made: Any = copy.deepcopy(payload)
    for _, step in serializer.chain.path(event_type, version, target, serializer.registry.canonical_name(event_type)):
        made = step(made)
    return made


def pure_result(step: Step, payload: dict[str, Any]) -> Any:
    """Return what a step makes of a payload.

    Raises:
        ImpureUpcasterError: the step is not pure.
        Exception: anything that the step raises.
    """
    first, second = copy.deepcopy(payload), copy.deepcopy(payload)
    result, calls = _run_watched(lambda: step(first))
    result = copy.deepcopy(result)  # The step may keep a reference and change it in the second run.
    if first != payload or list(first) != list(payload):
        raise ImpureUpcasterError("it changes its argument: return a new payload, such as {**data, ...}")
    again, more = _run_watched(lambda: step(second))
    _check_runs([*calls, *more], result, again, "the payload")
    return result


def pure_value(factory: Callable[[], Any]) -> Any:
    """Return what a factory of defaults makes.

    Raises:
        ImpureUpcasterError: the factory is not pure.
        Exception: anything that the factory raises.
    """
    calls: list[str] = []
    inner: Any = factory
    while isinstance(inner, functools.partial):  # It calls its function unseen.
        inner = inner.func
    if (name := _impure_name(inner)) is not None:
        calls.append(name)
    result, first = _run_watched(factory, as_list=False)
    again, second = _run_watched(factory, as_list=False)
    _check_runs([*calls, *first, *second], result, again, "constants")
    return result


def _check_runs(calls: Sequence[str], result: Any, again: Any, on: str) -> None:
    """Raise `ImpureUpcasterError` if a function made impure calls, or another result in its second run."""
    if calls:
        names = ", ".join(dict.fromkeys(calls))
        raise ImpureUpcasterError(f"it calls {names}, so its result depends on more than {on}")
    if result != again:
        raise ImpureUpcasterError("it returns two different results for the same payload")


def _as_list(result: Any) -> Any:
    """Run a splitter that is a generator to its end."""
    return result if isinstance(result, dict) or not hasattr(result, "__iter__") else list(result)


def _run_watched(call: Callable[[], Any], *, as_list: bool = True) -> tuple[Any, Sequence[str]]:
    """Return (result, names of the impure functions that were called)."""
    calls: dict[str, None] = {}
    here = sys._getframe()

    def watch(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and _module_of(frame) != "copy":  # `deepcopy` calls `id`.
            name = _impure_name(function)
            if name is not None and not _is_importing(frame, here):
                calls[name] = None
        elif event == "call" and frame.f_code.co_qualname.startswith("_Environ.") and _module_of(frame) == "os":
            calls["os.environ"] = None

    before, collecting = sys.getprofile(), gc.isenabled()
    gc.disable()  # A collection runs callbacks that the step does not call.
    sys.setprofile(watch)
    try:
        result = _as_list(call()) if as_list else call()
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
    """True if a call is part of an import that the step makes.

    Imports run once, and their calls are allowed. Frames from `until` on do not count, because the check itself may run
    during an import, as in a test module.
    """
    while frame is not None and frame is not until:
        if _module_of(frame).startswith("importlib."):
            return True
        frame = frame.f_back
    return False


def _impure_name(function: Any) -> str | None:
    """Return the name of an impure C function, None if the function is pure."""
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
