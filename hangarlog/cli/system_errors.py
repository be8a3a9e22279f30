"""Messages about calls that the operating system refused: what failed, why, where, and what to do next."""

from __future__ import annotations

import errno
import os

_ROOM = "free some space there, then run it again"
_RIGHTS = "run it as a user who may do that, or name another place"
_PATH = "check the path, then run it again"
_FILES = "allow more open files (`ulimit -n`), then run it again"
_ADVICE = {
    errno.ENOSPC: _ROOM,
    getattr(errno, "EDQUOT", errno.ENOSPC): _ROOM,
    errno.EFBIG: "allow larger files (`ulimit -f`), then run it again",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "name a place that can be written to",
    errno.ENOENT: _PATH,
    errno.ENOTDIR: _PATH,
    errno.EISDIR: _PATH,
    errno.ELOOP: _PATH,
    errno.ENAMETOOLONG: _PATH,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
}


def system_message(error: OSError) -> str:
    """Return the message about a refused call. A text that is not the system's own has its advice already."""
    if isinstance(error, FileNotFoundError) and not error.filename and not _has_current_folder():
        return "the current folder was deleted; change to one that exists"
    if error.errno is None:
        return str(error)
    text = error.strerror or str(error)
    shown = text if error.filename is None else f"{text}: {error.filename or 'a file without a name'}"
    if text != os.strerror(error.errno):
        return shown
    what = next(iter(getattr(error, "__notes__", ())), "the operating system refused a call")
    return f"{what}: {shown}; {_ADVICE.get(error.errno, 'remove the cause, then run it again')}"


def _has_current_folder() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False
