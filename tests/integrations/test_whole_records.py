"""Of a text of JSON lines, whatever was done to it, each whole record is found and each other byte is named."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, strategies
from made_transcripts import MAKERS, damaged

from hangarlog.integrations import whole_records as module
from hangarlog.integrations.transcripts import _recognizer
from hangarlog.integrations.whole_records import Found, Lost, whole_records


def split(text: bytes, kind: str = "claude") -> tuple[list[bytes], list[Lost]]:
    """The records and the losses of a text; each byte that is no blank is in exactly one of them."""
    is_record, see = _recognizer(kind)  # type: ignore[arg-type]
    records, losses, done = list[bytes](), list[Lost](), 0
    for found in whole_records(lambda size, offset: text[offset : offset + size], len(text), is_record):
        assert text[done : found.offset].strip(b" \t\r\n\xef\xbb\xbf") == b""
        assert text[: found.offset].count(b"\n") + 1 == found.number
        if isinstance(found, Found):
            assert text[found.offset : found.offset + len(found.text)] == found.text
            records.append(found.text)
            see(found.text)
            done = found.offset + len(found.text)
        else:
            losses.append(found)
            done = found.offset + found.size
    assert text[done:].strip(b" \t\r\n\xef\xbb\xbf") == b""
    return records, losses


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("seed", range(60))
def test_whatever_was_torn_the_whole_records_are_found(kind: str, seed: int) -> None:
    """In their order; a value within a torn record is none."""
    made = random.Random(seed)
    text, whole = damaged(MAKERS[kind](60, seed), made)
    records, losses = split(text, kind)
    assert records == whole
    assert losses


PIECES = [bytes([byte]) for byte in b'{}[]":,\\\n\0 \xff'] + [b"\\u", b"d8", b"\r\n", b"\xc3\xa9"]
WORDS = [b'{"type":"a","sessionId":"s"}', b'{"a":1}', b'{"a":', b"NaN", b"1e999", b"true", b'"type"', b"\xef\xbb\xbf"]


@given(strategies.lists(strategies.sampled_from(PIECES + WORDS), max_size=60).map(b"".join))
def test_any_bytes_are_records_or_losses(text: bytes) -> None:
    """Never both, and none of them neither; a record by itself is a record again."""
    for kind in MAKERS:
        records, _ = split(text, kind)
        for record in records:
            assert split(record, kind) == ([record], [])


@pytest.mark.parametrize("kind", MAKERS)
def test_a_text_that_is_whole_loses_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in any pieces; the last record may lack its newline, and a byte order mark is no damage."""
    lines = MAKERS[kind](30)
    for size in (1, 7, 1 << 20):
        monkeypatch.setattr(module, "_READ_BYTES", size)
        for text in (b"\n".join(lines), b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n\r\n  \r\n"):
            assert split(text, kind) == (lines, [])


def test_each_loss_says_where_and_why() -> None:
    first, second = b'{"type":"a","sessionId":"s"}', b'{"type":"b","sessionId":"s","n":[NaN,1e999,-Infinity]}'
    text = first + b"\n" + first[:9] + b"\n\xff\xfe\nnull x\n" + second + b"\0\0\n" + first[:20]
    records, losses = split(text)
    assert records == [first, second]
    torn, nuls, unfinished = losses  # Three lines beside each other are one loss.
    assert torn == Lost(2, 29, 9 + 1 + 2 + 1 + 6, "it is torn, or another record was written into it")
    assert (nuls.number, nuls.size) == (5, 2)
    assert "bytes of zero" in nuls.cause
    assert (unfinished.number, unfinished.size) == (6, 20)
    assert "the file ends within it" in unfinished.cause


def test_a_value_of_a_torn_record_is_no_record() -> None:
    """Not even one that ends the line: only what has a record's fields is one."""
    inner = b'{"type":"text","text":"hi"}'
    assert split(b'{"type":"assistant","sessionId":"s","message":{"content":[' + inner + b"\n")[0] == []
    assert split(b'{"a":' + inner + b"\n", "jsonl")[0] == []
    assert split(b'{"a":1}\n{"a":{"a":2}\n', "jsonl")[0] == [b'{"a":1}', b'{"a":2}']  # It looks just like a record.
    assert split(b'xyz"}' + inner + b"\n", "codex")[0] == []


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":' * 300_000,
        b'{"a":[' * 300_000 + b"1" + b"]}" * 299_999,
        b'{"a":1,' * 300_000,
        b'{"a":"' * 300_000,
        b'{"type":"a","sessionId":"' + b"x" * 3_000_000,
        b'{"a":{"b":1},' * 200_000,
        b'{"a":{"a":{"a":{"a":"' + b"{\\" * 1_000_000,
        b'{"a":' * 900 + b'"' + b"x" * 2_000_000,
        b'{"n":' + b"9" * 3_000_000 + b"]",
        b"[" * 2_000_000,
        b'{"\\u' * 500_000,
    ],
    ids=lambda line: line[:12].decode(),
)
def test_a_hostile_line_takes_bounded_time(line: bytes) -> None:
    """And hides nothing after it."""
    good = b'{"type":"a","sessionId":"s"}'
    records, losses = split(line + b"\n" + good + b"\n")
    assert records == [good]
    assert losses[0].size == len(line)


def test_what_is_nested_too_deep_to_be_checked_says_so() -> None:
    text = b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n"
    (lost,) = split(text)[1]
    assert "nested too deep" in lost.cause
    assert json.dumps([lost.offset, lost.size]) == f"[0, {len(text) - 1}]"


def test_a_line_that_is_too_long_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(module, "_READ_BYTES", 64)
    good = b'{"type":"a","sessionId":"s"}\n'
    records, (lost,) = split(good + b"x" * 100_000 + b"\n" + good)
    assert len(records) == 2
    assert (lost.number, lost.offset, lost.size) == (2, len(good), 100_000)
    assert "longer than the limit" in lost.cause
    (lost,) = split(b"{" * 100_000)[1]
    assert lost.size == 100_000
