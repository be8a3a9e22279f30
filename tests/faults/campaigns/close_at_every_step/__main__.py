"""One cell: `python -m … "close durable 5:write"`."""

from __future__ import annotations

import sys

from ..cells import run_one
from .campaign import play

if __name__ == "__main__":
    sys.exit(run_one(play))
