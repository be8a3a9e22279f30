"""Answers to a shell that asks how the words of a command line go on.

An answer is read by a shell and inserted into what a person will run, while the names in a store may come from anybody.
So only words that are plain text after quoting are offered: others are left out. Nothing is written or locked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import ClassVar, NamedTuple

import click
from click.shell_completion import CompletionItem, ShellComplete, add_completion_class
from click.types import StringParamType

from hangarlog.cli.completion_scripts import SCRIPTS
from hangarlog.cli.completion_values import FILES, VALUES, Word
from hangarlog.cli.terminal import printable

_MAX_WORDS = 1000
"""More words than this are shortened to the parts that they begin with."""

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-+.,/:%")
_UNSAFE_IN = {"'": frozenset("'"), '"': frozenset('"$`\\!')}
"""Open quote -> the characters that do not stand for themselves behind it."""


class Typed(NamedTuple):
    """A word as it was typed.

    Attributes:
        raw: What was typed.
        value: What the shell makes of it.
        quote: The quote that is still open, "" if none is.
        breaks: Pairs of the lengths of `raw` and `value` up to each plain character that may end a word of bash.
    """

    raw: str
    value: str
    quote: str = ""
    breaks: tuple[tuple[int, int], ...] = ()


def split(line: str, breaks: str = "", blanks: str = " \t\n") -> list[Typed]:
    """Split a line as a shell does, expanding nothing. The last word is the one that is being typed, perhaps empty."""
    words: list[Typed] = []
    start, value, quote, ends = 0, "", "", list[tuple[int, int]]()
    position = 0
    while position < len(line):
        character = line[position]
        position += 1
        if quote:
            if character == quote:
                quote = ""
            elif character == "\\" and quote == '"' and line[position : position + 1] in tuple('"\\$`'):
                value += line[position]
                position += 1
            else:
                value += character
        elif character in "'\"":
            quote = character
        elif character == "\\":
            value += line[position : position + 1]
            position += 1
        elif character in blanks:
            if position - 1 > start:
                words.append(Typed(line[start : position - 1], value, "", tuple(ends)))
            start, value, ends = position, "", []
        else:
            value += character
            if character in breaks:
                ends.append((position - start, len(value)))
    return [*words, Typed(line[start:], value, quote, tuple(ends))]


def escaped(text: str) -> str:
    """Return a text that bash and zsh read as itself where no quote is open."""
    return "".join(c if c in _PLAIN or ord(c) > 127 else f"\\{c}" for c in text)


def inserted(word: str, typed: Typed) -> str | None:
    """Return what bash or zsh must put in the place of the word that was typed; None if it would not be inert."""
    rest = word[len(typed.value) :]
    if not typed.quote:
        raw, done = next(((raw, done) for raw, done in reversed(typed.breaks)), (0, 0))
        return typed.raw[raw:] + escaped(rest) if done <= len(word) else None
    if typed.raw[0] != typed.quote or typed.raw.count(typed.quote) > 1 or _UNSAFE_IN[typed.quote] & set(rest):
        return None
    return typed.raw[1:] + rest


def shortened(words: list[Word], typed: str) -> list[Word]:
    """Return parts of the words, one character longer than what they have in common, if there are too many."""
    if len(words) <= _MAX_WORDS:
        return words
    first, last = min(words).text, max(words).text
    common = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    texts = {word.text[: max(common, len(typed)) + 1] for word in words}
    return [Word(text, is_part=True) for text in sorted(texts)]


class _Values(StringParamType):
    """The type of a parameter whose values come from the store, or from a folder."""

    def __init__(self, find: Callable[[click.Context, str], Iterable[Word]]) -> None:
        self._find = find

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # type: ignore[type-arg, unused-ignore]
        """Return the words."""
        found = [word for word in self._find(ctx, incomplete) if word.text.startswith(incomplete)]
        if not incomplete and "--" not in sys.argv:
            found = [word for word in found if word.text[:1] != "-"]  # It would be taken for an option.
        return [
            CompletionItem(word.text, type="part" if word.is_part else "plain")
            for word in shortened(sorted(set(found)), incomplete)
        ]


class _Complete(ShellComplete):
    """The answer to one request, whose arguments are the program's."""

    name: ClassVar[str]
    typed = Typed("", "")

    def source(self) -> str:
        """Return the script."""
        return SCRIPTS[self.name]

    def words(self, arguments: list[str]) -> list[Typed]:
        """Return the words up to the cursor, the program's name first."""
        return [split(word, blanks="")[0] for word in arguments]

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return (the values of the words before the one that is being typed, the value of that)."""
        *before, self.typed = self.words(sys.argv[1:])
        return [word.value for word in before[1:]], self.typed.value

    def complete(self) -> str:
        """Return the lines of the answer, none if anything fails: a shell has no place for errors."""
        try:
            words, value = self.get_completion_args()
            command = _command(self.cli, words)
            _give_values(command)
            option, equals, _ = value.partition("=") if value.startswith("--") else ("", "", "")
            if words and _takes_value(command, words[-1]):
                *words, last = words
                value = f"{last}={value}"  # Else click would not see the arguments before an option without a value.
            lines = {self._line(item, option + equals) for item in self.get_completions(words, value)}
            return "\n".join(sorted(filter(None, lines)))
        except Exception:  # Whatever it is, the person is typing.
            return ""

    def _line(self, item: CompletionItem, before: str) -> str | None:  # type: ignore[type-arg, unused-ignore]
        if item.type == "file":
            return "f"
        word = item.value if item.value.startswith("--") else before + item.value
        is_encodable = word.isascii() or sys.stdout.encoding.lower() in ("utf-8", "utf8")
        if printable(word) != word or not word.startswith(self.typed.value) or not is_encodable:
            return None
        text = self.shown(word)
        kind = "p" if item.type == "part" else "w"
        return None if text is None else f"{kind}{text}{self.help_of(item)}"

    def shown(self, word: str) -> str | None:
        """Return what the shell must insert for a word."""
        return inserted(word, self.typed)

    def help_of(self, item: CompletionItem) -> str:  # type: ignore[type-arg, unused-ignore]
        """Return the help text after a tab, "" if there is none."""
        return f"\t{printable(item.help.splitlines()[0])}" if item.help else ""


class _Bash(_Complete):
    name = "bash"

    def words(self, arguments: list[str]) -> list[Typed]:
        """Return the words of the line, because bash's own words end at colons."""
        return split(arguments[0], breaks=arguments[1])

    def help_of(self, item: CompletionItem) -> str:  # type: ignore[type-arg, unused-ignore]
        """Return nothing: bash cannot show it."""
        return ""


class _Zsh(_Complete):
    name = "zsh"


class _Fish(_Complete):
    name = "fish"

    def words(self, arguments: list[str]) -> list[Typed]:
        """Return the words. fish has taken off the quotes of all but the last."""
        return [*(Typed(word, word) for word in arguments[:-1]), split(arguments[-1], blanks="")[0]]

    def shown(self, word: str) -> str | None:
        """Return the word itself, which fish quotes."""
        return word


for _kind in (_Bash, _Zsh, _Fish):
    add_completion_class(_kind)


def _command(command: click.Command, words: list[str]) -> click.Command:
    """Return the command that is being typed."""
    for word in words:
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), word) or command
    return command


def _takes_value(command: click.Command, word: str) -> bool:
    """True if a word is an option that is followed by a value."""
    options = [each for each in command.params if isinstance(each, click.Option) and not each.is_flag]
    return any(word in option.opts for option in options)


def _give_values(command: click.Command) -> None:
    """Let the parameters of a command find their values."""
    for parameter in command.params:
        if type(parameter.type) is StringParamType:
            if parameter.name in VALUES:
                parameter.type = _Values(VALUES[parameter.name])
            elif parameter.name in FILES:
                parameter.type = click.Path()
