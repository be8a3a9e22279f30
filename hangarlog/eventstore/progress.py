"""Progress reports of long calls such as a verification or an import."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int], None]
"""Called from time to time with the number of events processed since the previous call."""
