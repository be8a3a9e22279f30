"""One cell: `python -m … "durable 7 state deleted beside ABC0"`."""

from __future__ import annotations

import sys

from ..cells import run_one
from .campaign import play
from .store import make_bases

if __name__ == "__main__":
    sys.exit(run_one(play, make_bases))
