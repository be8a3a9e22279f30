"""Removes the current folder from the import path of the command line and of the processes it starts.

The current folder may be another user's store with a `struct.py` in it. So this module is imported before every other
one, and imports only modules that Python loads at its start.
"""

import os
import sys

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


# While `python -m` looks the module up, argv[0] is "-m" and the current folder is first on the path.
if getattr(sys, "argv", [])[:1] == ["-m"]:
    _option = sys.orig_argv[-len(sys.argv)]  # `hangarlog`, or `-mhangarlog` in one word.
    if _option == "hangarlog" or (_option.startswith("-") and _option.endswith("mhangarlog")):
        forget_current_folder()
