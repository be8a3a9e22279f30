"""A lock for late imports, in a process that may fork at any moment.

If a process forks while another thread imports a module, the child finds that module locked for ever by a thread that
it does not have. So late imports run under `importing`, and a fork waits for them.
"""

from __future__ import annotations

import os
import threading

importing = threading.RLock()
"""Use it around an import inside a function: `with importing: import module`."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=importing.acquire, after_in_parent=importing.release, after_in_child=importing.release)
