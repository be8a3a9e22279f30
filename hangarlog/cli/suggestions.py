"""What an unknown command may have meant."""

from __future__ import annotations

from collections.abc import Iterable

_KNOWN_ELSEWHERE = {
    "add": "append",
    "cat": "read",
    "check": "verify",
    "consumers": "subscribers",
    "cp": "backup",
    "create": "append",
    "dump": "export",
    "events": "read",
    "fix": "repair",
    "follow": "tail -f",
    "fsck": "verify",
    "get": "read",
    "head": "read --limit 10",
    "info": "stats",
    "init": "append",
    "list": "streams",
    "load": "import",
    "migrate": "copy",
    "mirror": "copy --follow",
    "replicate": "copy --follow",
    "log": "read",
    "ls": "streams",
    "publish": "append",
    "put": "append",
    "query": "read",
    "show": "read",
    "status": "stats",
    "subscribe": "tail -f",
    "validate": "verify",
    "watch": "tail -f",
    "write": "append",
}
"""Word of another tool -> the command here. A command of the same name comes first."""

_HOW_TO = {"restore": "To restore a backup, move the store away and copy the backup to its place: `cp -r`."}
"""Word of another tool -> what to do here without a command of ours."""


def suggestion(word: str, commands: Iterable[str], known: dict[str, str] = _KNOWN_ELSEWHERE) -> str:
    """Return a sentence about the commands that a word may stand for."""
    lower = word.lower()
    if lower in _HOW_TO:
        return _HOW_TO[lower]
    names = list(commands)
    meant = [known[lower]] if known.get(lower, "").partition(" ")[0] in names else []
    if not meant:
        from difflib import get_close_matches  # Imported here, because the import is slow compared to a short command.

        meant = get_close_matches(lower, names)
    if not meant:
        return f"The commands are {', '.join(names)}."
    return f"Did you mean {' or '.join(repr(name) for name in meant)}?"
