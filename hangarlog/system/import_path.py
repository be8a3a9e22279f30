"""Where the command line and the processes it starts look for modules: not in the current folder.

It may be a store that somebody else has made, with a `struct.py` in it. So this comes before every other import, and
imports only what Python has loaded when it starts.
"""

import os
import sys

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_HOMES = (os.path.dirname(_PACKAGE), os.path.dirname(os.path.abspath(os.__file__)))
"""The folders of hangarlog and of Python, whose code runs already."""


def elsewhere(entries: list[str]) -> list[str]:
    """Import paths without the current folder, unless hangarlog or Python is in it."""
    try:
        here = os.getcwd()
    except OSError:  # It was deleted, so nothing can be imported from it.
        return entries
    return entries if here in _HOMES else [entry for entry in entries if os.path.abspath(entry) != here]


def forget_current_folder() -> None:
    """Stop this process importing from the current folder. Only for programs of our own."""
    sys.path[:] = elsewhere(sys.path)


# While `python -m` looks the module up, argv[0] is "-m" and the current folder is first on the path.
if getattr(sys, "argv", [])[:1] == ["-m"]:
    _option = sys.orig_argv[-len(sys.argv)]  # The module's name, or the option and the name in one word.
    if _option == "hangarlog" or (_option.startswith("-") and _option.endswith("mhangarlog")):
        forget_current_folder()
