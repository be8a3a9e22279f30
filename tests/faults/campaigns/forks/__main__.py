"""One cell: `python -m … CELL MODE FOLDER`; or a process that comes third."""

from __future__ import annotations

import faulthandler
import signal
import sys

from ..jobs import ring_at_once
from .cell import Cell, come_third

if __name__ == "__main__":
    ring_at_once()
    faulthandler.register(signal.SIGUSR1)  # Its children inherit it.
    if sys.argv[1] == "_third":
        come_third(*sys.argv[2:])
    else:
        one = Cell(sys.argv[3], sys.argv[2])
        getattr(one, sys.argv[1])()
        one._end()
