"""Copies a store into another one, of any engine, and keeps the copy up to date until a switch-over."""

from hangarlog.copying.copying import Copied, Copy, copy
from hangarlog.copying.errors import CopyError

__all__ = ["Copied", "Copy", "CopyError", "copy"]
