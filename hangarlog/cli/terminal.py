"""All output of the command line: results, events and errors, with control characters escaped.

Text goes through `say`, and lines of JSON through `write_line`. Nothing else in this package writes, but for the line
of `progress`.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import click
import msgspec

from hangarlog.cli.progress import Progress, line_erased
from hangarlog.cli.standard_streams import output_is_file

# Invisible characters that `str.isprintable` accepts: fillers that look like spaces, joiners, variation selectors.
_HIDDEN = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U00013441\U00013442\U00016fe4"
    "\U0001d159\U000e0100-\U000e01ef"
)
_find_hidden = re.compile(f"[{_HIDDEN}]").search


def printable(text: str) -> str:
    r"""Return a text with invisible and control characters escaped as in JSON: `\u001b`.

    Only letters, marks, numbers, signs and the plain space stay as they are. Escaped are controls, formats, surrogates,
    other spaces, line ends, private and unassigned characters, and also letters and marks that are invisible.
    """
    if text.isprintable() and not _find_hidden(text):
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() and not _find_hidden(character):
        return character
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


class Styled(NamedTuple):
    """A text with options for `click.style`."""

    text: str
    style: Mapping[str, Any]

    def __str__(self) -> str:
        return click.style(printable(self.text), **self.style)


def styled(text: object, **style: Any) -> Styled:
    """Return a styled part for `say`, with colours only where the output supports them."""
    return Styled(str(text), style)


def say(*parts: str | Styled, err: bool = False) -> None:
    """Write a line of text, joined from `parts`, to standard output, or with `err` to standard error."""
    text = "".join(str(part) if isinstance(part, Styled) else printable(part) for part in parts)
    with line_erased():
        click.echo(text, err=err)


def say_lines(text: str, *, err: bool = False) -> None:
    """Write a text of several lines."""
    for line in text.split("\n"):
        say(line, err=err)


def is_terminal() -> bool:
    """True if standard output is a terminal."""
    return sys.stdout.isatty()


def has_blocks() -> bool:
    """True if the output's encoding has the characters of bars and sparklines."""
    try:
        "▁█▏·µ…".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def write_line(line: bytes) -> None:
    """Write a line of JSON, with or without its newline, to standard output; only a terminal gets it escaped."""
    line = line.rstrip(b"\n")
    if is_terminal():
        say(line.decode("utf-8", "surrogateescape"))
    else:
        sys.stdout.buffer.write(line + b"\n")


def write_text(text: str) -> None:
    """Write lines of text that programs read: on a terminal escaped, else as UTF-8."""
    if is_terminal():
        say_lines(text.removesuffix("\n"))
    else:
        sys.stdout.buffer.write(text.encode())


def write_screen(text: str) -> None:
    """Write a text that acts on the terminal, in one call past the buffer: signal handlers may interrupt any other.

    Its parts that come from a store must be `printable`, or `colored`.
    """
    output: Any = sys.stdout.buffer
    getattr(output, "raw", output).write(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def colored(text: str, **style: Any) -> str:
    """Return a text for `write_screen`, escaped, with colours for the terminal."""
    return str(Styled(text, style)) if style else printable(text)


def write_json(value: object) -> None:
    """Write a result as a line of JSON. In a file name that is not UTF-8, `\\udcff` stands for the byte 0xFF."""
    try:
        write_line(msgspec.json.encode(value))
    except UnicodeEncodeError:
        import json  # Imported here, because the import is slow compared to a short command.

        write_line(json.dumps(value, separators=(",", ":")).encode())


def write_object(value: dict[str, Any], *, text: bool | None = None) -> None:
    """Write a result, as `name  value` lines on a terminal or if `text`, else as one line of JSON."""
    if not (is_terminal() if text is None else text):
        write_json(value)
        return
    width = max(map(len, value))
    for name, item in value.items():
        shown = "-" if item is None else f"{item:,}" if type(item) is int else str(item)
        say(styled(name.replace("_", " ").ljust(width), dim=True), "  ", shown)


def counted(number: int, name: str) -> str:
    """Return a number with the name of what is counted: `1 event`, `2,000 events`."""
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"


@contextlib.contextmanager
def progress(label: str, length: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show progress on standard error if that is a terminal, and yield the function that advances it.

    Without a `length`, it shows the number only, or the time if the function is never called.
    """
    with Progress(label, length) as shown:
        yield shown.advance


@contextlib.contextmanager
def progress_of_steps() -> Iterator[Callable[[str, int, int], None]]:
    """Show the progress of one step after the other, and yield what is told (step, done, total).

    With a total of 0, it shows the number only.
    """
    with contextlib.ExitStack() as stack:
        step, shown = "", 0
        advance: Callable[[int], None] = _ignore

        def tell(now: str, done: int, total: int) -> None:
            nonlocal step, shown, advance
            if now != step:
                stack.close()
                step, shown, advance = now, 0, stack.enter_context(progress(now, total))
            advance(done - shown)
            shown = done

        yield tell


@contextlib.contextmanager
def progress_to_file(label: str, length: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show progress if standard output is a file. A terminal, or a pager behind a pipe, shows the output itself."""
    if output_is_file():
        with progress(label, length) as advance:
            yield advance
    else:
        yield _ignore


def _ignore(count: int) -> None:
    pass
