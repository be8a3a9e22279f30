"""What may happen to the bytes of a file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

SMALL = {"state", "checkpoint.json", "catalog"}

MODES = RUNNING, CLOSED, RESTARTED, COPIED = "running", "closed", "restarted", "without caches"
"""Somebody has the store open; nobody has; nor had since a restart; state, checkpoint and catalog are not there."""

Place = tuple[str, int, int]


class Case(NamedTuple):
    """A damage: `kind` at `at` of the file `name`, with the `more` that the kind needs."""

    mode: str
    name: str
    kind: str
    at: int
    more: int = 0

    def __str__(self) -> str:
        return f"{self.mode}: {self.name}: {self.kind} {self.at} {self.more}"


def damages(text: bytes) -> Iterator[Place]:
    """Everything that may happen to a file with this text; of long runs of zeros, which nobody reads, to the start."""
    zeros = 0
    for at, byte in enumerate(text):
        zeros = 0 if byte else zeros + 1
        if zeros > 64:
            continue
        for bit in range(8):
            yield "flip bit", at, bit
        for value in (0, 10, 255):
            if byte != value:
                yield "set byte", at, value
        yield "cut to", at, 0
        for size in (512, 4096):
            if (size == 512 or at + 512 < len(text)) and text[at : at + size].strip(b"\0"):
                yield "zeros from", at, size
    lines = text.split(b"\n")[:-1]
    for one, line in enumerate(lines):
        yield "line twice", one, 0
        yield "line gone", one, 0
        for two in range(one + 1, len(lines)):
            if lines[two] != line:
                yield "lines swapped", one, two


def is_rare(text: bytes, kind: str, at: int, _: int) -> bool:
    """Whether it is one of the few damages to whole lines, which are tried whatever the size."""
    return kind.startswith("line") or (kind == "cut to" and text[:at][-1:] in (b"", b"\n"))


def damaged(text: bytes, case: Case) -> bytes:
    """What the file holds then."""
    _, _, kind, at, more = case
    if kind == "flip bit":
        return text[:at] + bytes([text[at] ^ 1 << more]) + text[at + 1 :]
    if kind == "set byte":
        return text[:at] + bytes([more]) + text[at + 1 :]
    if kind == "cut to":
        return text[:at]
    if kind == "zeros from":
        return text[:at] + bytes(min(more, len(text) - at)) + text[at + more :]
    *lines, rest = text.split(b"\n")
    if kind == "line twice":
        lines.insert(at, lines[at])
    elif kind == "line gone":
        del lines[at]
    else:
        lines[at], lines[more] = lines[more], lines[at]
    return b"".join(line + b"\n" for line in lines) + rest


def choose(files: dict[str, bytes], size: int, seed: int) -> tuple[list[Case], int]:
    """About `size` cases, evenly over files and modes, and how many there could be."""
    left = [(mode, name) for mode in MODES for name in files if mode != COPIED or name not in SMALL]
    rare: dict[str, list[Place]] = {}
    other: dict[str, list[Place]] = {}
    for name, text in files.items():
        rare[name], other[name] = [], []
        for place in damages(text):
            if not (place[0].startswith("line") and name in ("state", "catalog")):  # They have no lines.
                (rare if is_rare(text, *place) else other)[name].append(place)
    chosen: list[Case] = []
    for number, (mode, name) in enumerate(sorted(left, key=lambda each: len(other[each[1]]))):
        quota = max(0, size - len(chosen)) // (len(left) - number)  # What small files leave goes to the large ones.
        some = min(max(0, quota - len(rare[name])), len(other[name]))
        places = rare[name] + random.Random(f"{seed} {mode} {name}").sample(other[name], some)
        chosen += [Case(mode, name, *place) for place in places]
    return chosen, sum(len(rare[name]) + len(other[name]) for _, name in left)
