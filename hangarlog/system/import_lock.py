"""Imports that wait until something needs them, in a process that may fork at any moment.

A child that is forked while another thread imports a module would find that module locked for ever, by a thread that
it does not have. So an import inside a function is made under `importing`, and a fork waits for it.
"""

from __future__ import annotations

import os
import threading

importing = threading.RLock()
"""`with importing: from module import name`: where a module that most programs never need is imported."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=importing.acquire, after_in_parent=importing.release, after_in_child=importing.release)
