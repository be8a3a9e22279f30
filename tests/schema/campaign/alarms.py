"""The false alarms that are justified: changes that the check calls breaking though no event of the old class shows it.

docs/schema-changes.md lists them. Any other false alarm fails the campaign.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Justified(NamedTuple):
    """A kind of false alarm: `text` is a pattern that its message matches."""

    what: str
    text: str
    why: str


JUSTIFIED = (
    Justified(
        "bytes become text",
        r"was bytes, is text|bytes is no longer taken",
        "every event decodes, but to the Base64 text that stands for the bytes",
    ),
    Justified(
        "a number becomes a Decimal",
        r"was (integer|number|one of [^:]*), is decimal|(integer|number|one of [\d, ]+) is no longer taken"
        r"|its default was [\d.e-]+, is \"[\d.E+-]+\""
        r"|lost: .*, whose default was [\d.e-]+ in v\d+ and is \"[\d.E+-]+\" now",
        "every event decodes, but a Decimal is text in the lock: the next change, from it to str, would pass and break",
    ),
    Justified(
        "a pattern or a length is added that another pattern implies",
        r"must match .* now|(minLength|maxLength) was \w+, is \d+",
        "what a pattern matches is not compared with what another one does, nor with lengths",
    ),
    Justified(
        "a Literal or an enum loses the default that a class leaves out of events",
        r"unreadable: .*Invalid enum value",
        "the shape does not say that this one value is never written",
    ),
    Justified(
        "a list of at most one item becomes a set",
        r"was a list, is a set",
        "nobody limits a list to one item, and a set refuses items that cannot be in one",
    ),
)


def section(figures: str) -> str:
    """The section of docs/schema-changes.md about the campaign."""
    rows = [f"| {each.what} | {each.why} |" for each in JUSTIFIED]
    return "\n".join(
        [
            "`python -m tests.schema.campaign` makes random classes (msgspec, dataclass, attrs; nested, tagged,",
            "optional, renamed, defaulted), changes them step by step, stores events of each step, and reads them as",
            "the next class. If the check passes a change, every event must decode and mean what it meant. If it does",
            "not, some event must show why; events are made to show it.",
            "",
            figures,
            "",
            "These false alarms are justified; any other one fails the campaign:",
            "",
            "| change | why it is an alarm |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )


def justification(text: str) -> str:
    """Why an alarm with this message may be false; empty if it may not."""
    return next((each.why for each in JUSTIFIED if re.match(each.text, text)), "")
