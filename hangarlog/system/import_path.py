"""Removes the current folder from the import path of the command line and of the processes it starts.

The current folder may be another user's store with a `struct.py` in it. So this module is imported before every other
one, and imports only modules that Python loads at its start.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_HOMES = (os.path.dirname(_PACKAGE), os.path.dirname(os.path.abspath(os.__file__)))
"""The folders of hangarlog and of Python, whose code is trusted."""


def elsewhere(entries: list[str]) -> list[str]:
    """Return import paths without the current folder, unless hangarlog or Python itself is in it."""
    try:
        here = os.getcwd()
    except OSError:  # It was deleted, so nothing can be imported from it.
        return entries
    return entries if here in _HOMES else [entry for entry in entries if os.path.abspath(entry) != here]


def forget_current_folder() -> None:
    """Stop this process from importing from the current folder. Call it only in hangarlog's own programs."""
    sys.path[:] = elsewhere(sys.path)


def end_quietly(kind: type[BaseException], error: BaseException, trace: "TracebackType | None") -> None:
    """Print the error that ends this process. Ctrl-C is no error of hangarlog: one line, and the exit code 130."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    try:
        print("hangarlog: interrupted", file=sys.stderr, flush=True)
    finally:
        os._exit(130)  # Nothing has been begun.


# The command's imports take longer than most commands, and Ctrl-C may come meanwhile. Its main function replaces this.
if os.path.basename((getattr(sys, "argv", None) or [""])[0]) in ("hangarlog", "hangarlog.exe"):
    sys.excepthook = end_quietly

# While `python -m` looks the module up, argv[0] is "-m" and the current folder is first on the path.
if getattr(sys, "argv", [])[:1] == ["-m"]:
    _option = sys.orig_argv[-len(sys.argv)]  # `hangarlog`, or `-mhangarlog` in one word.
    if _option == "hangarlog" or (_option.startswith("-") and _option.endswith("mhangarlog")):
        sys.excepthook = end_quietly
        forget_current_folder()
