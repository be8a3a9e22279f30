"""What JSON may not be within a line, although decoders take it."""

from __future__ import annotations

import random

import msgspec
import pytest

from hangarlog.record import strict
from hangarlog.record.strict import is_time, repeated_key


def test_a_key_that_comes_twice_is_found_however_it_is_written() -> None:
    twice = [b'{"a":1,"a":1}', b'[{"":1,"":2}]', b'{"x":{"a":1,"b":2,"\\u0061":3}}', b'{"a" : 1,\t"a" : 2}']
    twice += [b'{"n":123456789012345678901234567890,"a":1,"a":2}', b'{"\xc3\xa9":1,"\\u00e9":2}']
    once = [b"{}", b"[]", b'{"a":{"a":{"a":1}}}', b'[{"a":1},{"a":1}]', b'{"a":"\\"a\\":"}', b'{"A":1,"a":2}']
    once += [b'{"a":1e400000}'[:9] + b"}", b'{ "a" : 1.0 , "b" : [ ] }', b'{"\xc3\xa9":1,"e\xcc\x81":2}']
    for text in twice:
        assert repeated_key(text) is not None, text
    for text in once:
        assert repeated_key(text) is None, text


def test_a_large_text_is_judged_in_parts_as_it_is_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is JSON that a decoder reads, too: numbers beyond all floats are none."""
    rng = random.Random(7)
    letters = "abcdef"
    leaves = ["1", "-1.5e3", "true", "null", "[]", "{}", '"x"', "9" * 310, "1e400", "[[0.5],[]]"]

    def value(depth: int) -> str:
        kind = rng.random() if depth else 0.0
        if kind < 0.3:
            return rng.choice(leaves)
        parts = [value(depth - 1) for _ in range(rng.randrange(4))]
        if kind < 0.6:
            return f"[{','.join(parts)}]"
        return "{" + ",".join(f'"{rng.choice(letters)}":{part}' for part in parts) + "}"

    def judged(text: bytes, large: int) -> str | None:
        monkeypatch.setattr(strict, "_LARGE_BYTES", large)
        try:
            return "a key" if repeated_key(text) is not None else None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return "no JSON"

    seen = set()
    for _ in range(5000):
        text = value(6)
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(["", "", "", ",", "]", "}", "1e", " ", "[]", ":"]) + text[at:]
        in_one = judged(text.encode(), 1 << 20)
        assert judged(text.encode(), 3) == in_one, text
        seen.add(in_one)
    assert seen == {None, "a key", "no JSON"}


def test_only_the_one_form_of_a_time_is_one() -> None:
    for good in ("2026-11-23T03:01:02.123456Z", "0001-01-01T00:00:00.000000Z", "2024-02-29T23:59:59.999999Z"):
        assert is_time(good)
    good = "2026-11-23T03:01:02.123456Z"
    for at in range(len(good)):
        for other in "xZ:+-. \x1b\u0660":
            changed = good[:at] + other + good[at + 1 :]
            assert changed == good or not is_time(changed), changed
    for bad in ("", good + "Z", good[:-1], "2023-02-29T00:00:00.000000Z", "2026-11-23T25:01:02.123456Z"):
        assert not is_time(bad)
