"""JSON that a user gives: one object, or several after one another. Each mistake has its line and column."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import click
import msgspec

from hangarlog.record.nesting import MAX_NESTING, nesting
from hangarlog.record.strict import refuse_repeated_keys, shown_key

_tokens = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]:"]', re.DOTALL).finditer
"""Strings, brackets and colons; a quotation mark by itself begins a string that does not end."""
_numbers = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|-?[0-9]++(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?', re.DOTALL).finditer
"""Strings and numbers."""
_blanks = re.compile(rb"[ \t\r\n]*").match
_byte_of = re.compile(r" ?\(byte (\d+)\)").search
_not_json = re.compile(rb"[-+]?(?:NaN|nan|Infinity|inf)|undefined|None|True|False").match
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_MARKS = {
    codecs.BOM_UTF8: "it begins with a byte order mark, which JSON does not allow; save it without one",
    codecs.BOM_UTF16_LE: "it is UTF-16; convert it to UTF-8",
    codecs.BOM_UTF16_BE: "it is UTF-16; convert it to UTF-8",
}
_PIECE_BYTES = 1 << 20


def objects_in(raw: bytes, option: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a text: one, over as many lines as it takes, or several after one another.

    Raises:
        click.BadParameter: the text holds something else, or no object; `option` says where it comes from.
    """
    text = _Text(raw, option)
    text.refuse_other_encodings()
    if nesting(raw) <= MAX_NESTING:
        try:
            found = _decode(raw)
            refuse_repeated_keys(raw)
            return [found]
        except (msgspec.MsgspecError, ValueError):
            pass  # It is not one object, or a wrong one.
    return [text.object_at(start, end) for start, end in text.values()]


def object_in(raw: bytes, option: str) -> dict[str, Any]:
    """Return the JSON object that a text is. Raises `click.BadParameter`."""
    objects = objects_in(raw, option)
    if len(objects) != 1:
        raise click.BadParameter(f"it holds {len(objects)} objects; give one", param_hint=option)
    return objects[0]


class _Text:
    """A text that a user has given, in which places are named."""

    def __init__(self, raw: bytes, option: str) -> None:
        self._raw, self._option = raw, option

    def refuse_other_encodings(self) -> None:
        """Raise `click.BadParameter` unless the text is UTF-8 without a mark before it."""
        for mark, cause in _MARKS.items():
            if self._raw.startswith(mark):
                self._refuse(0, cause)
        decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(0, len(self._raw), _PIECE_BYTES):
            piece = self._raw[start : start + _PIECE_BYTES]
            try:
                decoder.decode(piece, start + len(piece) == len(self._raw))
            except UnicodeDecodeError as error:
                at = start + error.start - (len(error.object) - len(piece))
                self._refuse(at, f"byte 0x{self._raw[at]:02x} is not UTF-8 here; convert the text to UTF-8")

    def values(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each object, which may be malformed."""
        depth = start = end = 0
        for token in _tokens(self._raw):
            mark = token[0]
            if not depth:
                self._refuse_between(end, token.start(), mark)
            if mark in b"{[":
                start = start if depth else token.start()
                depth += 1
                if depth > MAX_NESTING:
                    self._refuse(token.start(), f"it is nested deeper than {MAX_NESTING} levels here")
            elif mark in b"}]":
                depth -= 1
                end = token.end()
                if not depth:
                    yield start, end
        if depth:
            yield start, len(self._raw)
        elif self._after_blanks(end) < len(self._raw) or not end:
            self._refuse_between(end, len(self._raw), b"")

    def _after_blanks(self, at: int) -> int:
        found = _blanks(self._raw, at)
        return found.end() if found else at

    def _refuse_between(self, end: int, start: int, mark: bytes) -> None:
        """Raise `click.BadParameter` unless only blanks stand from `end` to `start`, where an object begins."""
        at = self._after_blanks(end)
        if at == len(self._raw) and not end:
            raise click.BadParameter("it is empty; give a JSON object, such as {}", param_hint=self._option)
        if at == start and mark == b"{":
            return
        if at == start and mark == b"[":
            self._refuse(at, "this is an array; give its objects one after another, as `jq -c '.[]'` prints them")
        if not end:
            self._refuse_token(at)
        found = f"{self._shown(at)} stands where an object must begin"
        self._refuse(at, f"{found}; give objects one after another, without commas")

    def object_at(self, start: int, end: int) -> dict[str, Any]:
        """Return the object from `start` to `end`. Raises `click.BadParameter`."""
        part = self._raw[start:end]
        try:
            found = _decode(part)
        except msgspec.MsgspecError as error:
            self._refuse_malformed(start, end, str(error))
        except (ValueError, RecursionError) as error:
            self._refuse(start, str(error))
        again = _second_key(part)
        if again is not None:
            at, key = again
            cause = f"the key {shown_key(key)} comes twice in one object; programs differ in which one they use"
            self._refuse(start + at, cause)
        return found

    def _refuse_malformed(self, start: int, end: int, cause: str) -> NoReturn:
        byte = _byte_of(cause)
        if byte is None:
            if "truncated" in cause:
                begun = f"the object that begins at {self._place(start)} is not closed"
                self._refuse(end, f"the text ends here, and {begun}")
            if "out of range" in cause:
                numbers = (found for found in _numbers(self._raw, start, end) if found[0][:1] != b'"')
                start = next((found.start() for found in numbers if math.isinf(float(found[0]))), start)
                cause = "the number is too large for a 64-bit float"
            self._refuse(start, cause)
        at = start + int(byte[1])
        for before in (at, at - 1):
            if _not_json(self._raw, before):
                at = before
        self._refuse_token(at, cause.replace("JSON is malformed: ", "").replace(byte[0], ""))

    def _refuse_token(self, at: int, cause: str = "this is not a JSON object") -> NoReturn:
        word = _not_json(self._raw, at)
        if word:
            cause = f"{word[0].decode()} is not JSON; use null, true, false, a number or a string"
        elif self._raw[at : at + 1] == b"'":
            cause = 'JSON has strings in double quotes: "…"'
        self._refuse(at, cause)

    def _shown(self, at: int) -> str:
        return repr(self._raw[at : at + 20].split(b"\n")[0].decode(errors="ignore"))

    def _refuse(self, at: int, cause: str) -> NoReturn:
        message = f"not a JSON object: {self._place(at)}: {cause}"
        raise click.BadParameter(message, param_hint=self._option)

    def _place(self, at: int) -> str:
        before = self._raw[:at]
        line = before[before.rfind(b"\n") + 1 :]
        return f"line {before.count(10) + 1}, column {len(line.decode(errors='replace')) + 1}"


def _second_key(text: bytes) -> tuple[int, str] | None:
    """Return (where it stands, the key) of the first key that its object has already, None if there is none."""
    try:
        refuse_repeated_keys(text)
        return None
    except ValueError:
        pass
    objects: list[set[str]] = []
    at, last = 0, b""
    for token in _tokens(text):
        mark = token[0]
        if mark in b"{[":
            objects.append(set())
        elif mark in b"}]":
            objects.pop()
        elif mark == b":":
            key = msgspec.json.decode(last, type=str)
            if key in objects[-1]:
                return at, key
            objects[-1].add(key)
        at, last = token.start(), mark
    return None
