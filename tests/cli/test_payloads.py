"""What `append --data` takes: one object or several, however they are laid out; each mistake has its place."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from conftest import Command

from hangarlog.cli.payloads import object_in, objects_in


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("{}", [{}]),
        ('{\n  "x": 1,\n  "y": {\n    "z": [1, 2]\n  }\n}\n', [{"x": 1, "y": {"z": [1, 2]}}]),
        ('{"x":1}\n{"x":2}\n', [{"x": 1}, {"x": 2}]),
        ('{"x":1}{"x":2}', [{"x": 1}, {"x": 2}]),
        ('\r\n\r\n{"x":1}\r\n\t{"x":2}\r\n', [{"x": 1}, {"x": 2}]),
        ('{\n "x": "}{"\n}\n{\n "x": "\\"}\\\\"\n}', [{"x": "}{"}, {"x": '"}\\'}]),
        (
            '{"x":"\u2028\U0001f600"} {"y":12345678901234567890123}',
            [{"x": "\u2028\U0001f600"}, {"y": 12345678901234567890123}],
        ),
    ],
)
def test_objects_may_be_laid_out_in_any_way(text: str, objects: list[object]) -> None:
    """As `jq .`, `jq -c .` and people write them."""
    assert objects_in(text.encode(), "--data") == objects


@pytest.mark.parametrize(
    ("text", "place", "cause"),
    [
        (b"", "", "it is empty"),
        (b" \n\n", "", "it is empty"),
        (b"5", "line 1, column 1", "not a JSON object"),
        (b'"x"', "line 1, column 1", "not a JSON object"),
        (b'[{"x":1}]', "line 1, column 1", "this is an array; give its objects one after another"),
        (b'{"x":1}\n[]', "line 2, column 1", "this is an array"),
        (b'{"x":1},\n{"x":2}', "line 1, column 8", "without commas"),
        (b'{"x":1}\n{"x":2}}', "line 2, column 8", "'}' stands where an object must begin"),
        (b'{"x":1}\n{"x":2} tail', "line 2, column 9", "'tail'"),
        (b'{"x":1}\n{"x":NaN}', "line 2, column 6", "NaN is not JSON"),
        (b'{"x":-Infinity}', "line 1, column 6", "-Infinity is not JSON"),
        (b'{"x":None}', "line 1, column 6", "None is not JSON"),
        (b'{"x":1e999}', "line 1, column 6", "too large"),
        (b"{'x':1}", "line 1, column 2", "double quotes"),
        (b'{\n  "x": 1,\n}', "line 3, column 1", ""),
        (b'{\n  "x": 1', "line 2, column 9", "the object that begins at line 1, column 1 is not closed"),
        (b'{"x":1}\n{"x": "', "line 2, column 8", "the object that begins at line 2, column 1 is not closed"),
        (b'{"x":\n [1, 2}', "line 2, column 7", ""),
        (b'{"x":1}\n{"a":{"y":1,\n"y":2}}', "line 3, column 1", "the key 'y' comes twice"),
        (b'{"x":1,"\\u0078":2}', "line 1, column 8", "the key 'x' comes twice"),
        ('{"ä":1}\n{"ä":"'.encode() + b'\xff"}', "line 2, column 7", "byte 0xff is not UTF-8"),
        (b"\xef\xbb\xbf{}", "line 1, column 1", "byte order mark"),
        ("{}".encode("utf-16"), "line 1, column 1", "UTF-16"),
        (b'{"x":' + b"[" * 200 + b"]" * 200 + b"}", "line 1, column 133", "nested deeper than 128 levels"),
        (b"[" * 100_000, "line 1, column 1", "array"),
        (b'{"x":' * 100_000, "line 1, column 641", "nested deeper than 128 levels"),
    ],
)
def test_each_mistake_has_its_message_and_its_place(text: bytes, place: str, cause: str) -> None:
    """Line and column, in characters, from 1."""
    with pytest.raises(click.BadParameter) as caught:
        objects_in(text, "--data")
    assert place in caught.value.message
    assert cause in caught.value.message
    assert "byte " not in caught.value.message.replace("byte 0xff", "").replace("byte order", "")


def test_bytes_that_are_not_utf8_are_found_behind_the_first_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hangarlog.cli.payloads._PIECE_BYTES", 4)
    for text in ('{"x":"ää€€😀"}', '{"x":"a"}'):
        assert objects_in(text.encode(), "--data") == [json.loads(text)]
    with pytest.raises(click.BadParameter, match="line 1, column 9"):
        objects_in('{"x":"ä€'.encode() + b'\xe2\x82"}', "--data")


def test_metadata_is_one_object() -> None:
    assert object_in(b'{"a":\n1}', "--metadata") == {"a": 1}
    with pytest.raises(click.BadParameter, match="it holds 2 objects"):
        object_in(b"{}{}", "--metadata")


def test_append_takes_pretty_printed_json_from_standard_input_and_from_a_file(
    hangarlog: Command, tmp_path: Path
) -> None:
    """Several objects are one batch, and nothing is written if one is wrong."""
    objects = [{"x": [1, {"y": None}]}, {"x": "}{"}]
    pretty = "\n".join(json.dumps(each, indent=4) for each in objects).encode()
    (tmp_path / "payloads.json").write_bytes(pretty)
    wrong = hangarlog("append", "s", "a:1", "--type", "T", "--data", "-", stdin=pretty + b"\n{")
    assert (wrong.returncode, wrong.stdout) == (2, b"")
    assert b"Invalid value for --data: not a JSON object: line 12, column 2" in wrong.stderr
    assert hangarlog("append", "s", "a:1", "--type", "T", "--data", "-", stdin=pretty).stdout == b"1\n"
    assert hangarlog("append", "s", "a:1", "--type", "T", "--data", "@payloads.json").stdout == b"3\n"
    stored = [json.loads(line) for line in hangarlog("read", "s").stdout.splitlines()]
    assert [line["data"] for line in stored] == [{"_version": 1, **each} for each in objects * 2]
    assert [line["batch_end"] for line in stored] == [2, 2, 4, 4]
    missing = hangarlog("append", "s", "a:1", "--type", "T", "--data", "@none.json")
    assert missing.returncode == 1
    assert b"none.json" in missing.stderr
