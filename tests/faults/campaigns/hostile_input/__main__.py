"""One part of row 10: `python -m … PART FOLDER SIZE SEED`."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from ..jobs import ring_at_once
from .campaign import PARTS
from .part import Part, say

if __name__ == "__main__":
    ring_at_once()
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, resource.RLIM_INFINITY))  # For the machine's sake.
    one = Part(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    {part.__name__: part for part in PARTS}[sys.argv[1]](one)
    say("figures", json.dumps(one.figures))
