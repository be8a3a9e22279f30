"""What tests do to the files of a store, and see of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hangarlog import FileEventStore


def settle(*stores: FileEventStore[Any]) -> None:
    """Wait for what stores do in the background."""
    for store in stores:
        store._write_session.checkpointing.wait(None)


def folder_of(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def put(path: Path, content: bytes) -> None:
    """Give a file other contents, in the same inode, as a device has them that has lost what was not synced."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def change(path: Path, number: int, how: Callable[[bytes], bytes]) -> tuple[str, int]:
    """Change the line of event `number` in whichever file below `path` it is: (its path, its offset)."""
    for file in sorted(path.parent.glob(f"{path.stem}*.jsonl")):
        offset = 0
        lines = file.read_bytes().splitlines(keepends=True)
        for at, line in enumerate(lines):
            if b'"number":%d,' % number in line:
                lines[at] = how(line)
                file.write_bytes(b"".join(lines))
                return str(file), offset
            offset += len(line)
    raise AssertionError(f"no event {number} in {path}")


def flip(line: bytes) -> bytes:
    return line.replace(b"xxx", b"xyx", 1)


def hole(path: Path, before: bytes, after: bytes = b"") -> Path:
    """A file with a hole of a terabyte between two texts."""
    with open(path, "wb") as file:
        file.write(before)
        file.truncate(len(before) + (1 << 40))
    with open(path, "ab") as file:
        file.write(after)
    return path
