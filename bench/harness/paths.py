"""The root of this source tree."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
