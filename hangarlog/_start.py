"""Where the command line and the processes it starts look for modules: not in the current folder.

It may be a store that somebody else has made, with a `struct.py` in it. So this comes before every other import, and
imports only what Python has loaded when it starts.
"""

import os
import sys

_HOMES = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.dirname(os.path.abspath(os.__file__)))
"""Where hangarlog is, and where Python is: what is there is run already."""


def elsewhere(entries: list[str]) -> list[str]:
    """Import paths without the current folder, unless hangarlog or Python is in it."""
    try:
        here = os.getcwd()
    except OSError:  # It was deleted: nothing can be found in it.
        return entries
    return entries if here in _HOMES else [entry for entry in entries if os.path.abspath(entry) != here]


def forget_current_folder() -> None:
    """Have this process, which must be a program of our own, import nothing from the current folder any more."""
    sys.path[:] = elsewhere(sys.path)


# `python -m` calls the program so while it looks the module up, with the current folder first on the path.
if getattr(sys, "argv", [])[:1] == ["-m"]:
    _option = sys.orig_argv[-len(sys.argv)]  # The module's name, or the option and the name in one word.
    if _option == "hangarlog" or (_option.startswith("-") and _option.endswith("mhangarlog")):
        forget_current_folder()
