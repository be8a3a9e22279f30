"""One cell: `python -m … "process-durable write.lock 1 0.2 killed"`."""

from __future__ import annotations

import sys

from ..cells import run_one
from .campaign import play

if __name__ == "__main__":
    sys.exit(run_one(play))
