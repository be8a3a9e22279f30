"""How deeply JSON is nested, counted without decoding it."""

from __future__ import annotations

import random

import msgspec
import pytest

from hangarlog.record import nesting


@pytest.mark.parametrize("part", [1, 2, 7, 64 << 10])
def test_nesting_is_counted_part_by_part_as_it_is_in_one(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """Strings, and escapes in them, may lie across the parts."""
    monkeypatch.setattr(nesting, "_PART_BYTES", part)
    rng = random.Random(part)
    for _ in range(100):
        text = "".join(rng.choices('[]{}"\\x', k=rng.choice((0, 1, 50, 300))))
        levels = rng.randrange(125, 140)
        value: object = {text: [text, {}]}
        for _ in range(levels - 3):
            value = {text: value} if rng.random() < 0.5 else [text, value, text]
        assert nesting.nesting(msgspec.json.encode(value)) == levels
