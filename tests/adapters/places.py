"""Where the suites keep their stores: in folders, or on the server of the plugin `on_jetstream`."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

VARIABLE = "HANGARLOG_STORES"
"""In the environment, also of child processes: the address of a store whose name is {}."""


def place(folder: str | Path) -> str:
    """Where a store is that would be in a folder."""
    address = os.environ.get(VARIABLE, "")
    return address.format(sha256(os.fsencode(Path(folder).absolute())).hexdigest()[:32]) or str(folder)
