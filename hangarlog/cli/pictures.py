"""The pictures of `hangarlog stats`: below its figures, and with `--html` on a page."""

from __future__ import annotations

import sys
import warnings

import click

from hangarlog.cli.app import named, note_done
from hangarlog.cli.display import columns
from hangarlog.cli.picture_lines import MOST_EVENTS, MOST_PLACES, picture
from hangarlog.cli.terminal import has_blocks, progress, say, styled, write_object, write_text
from hangarlog.system.interrupts import Interrupts
from hangarlog.watching.page import MOST_ROWS, page
from hangarlog.watching.page_file import store_around, write_page
from hangarlog.watching.survey import survey
from hangarlog.watching.vitals import read_vitals

_WIDTH = 80
"""The width of a picture in a pipe."""


def draw(store: str) -> None:
    """Draw when events came and of which types they are."""
    vitals = read_vitals(store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `hangarlog verify` has them.
        found = survey(vitals.path, vitals.first, vitals.committed or 0, MOST_EVENTS, MOST_PLACES)
    for line in picture(found, columns() or _WIDTH, unicode=has_blocks()):
        say(*[styled(text, **style) if style else text for text, style in line])


def write_page_of(store: str, file: str, force: bool) -> int:
    """Write the page of a store to a file, `-` for standard output. Return 1 if not everything could be read."""
    around = None if file == "-" else store_around(file)
    if around is not None:
        raise click.UsageError(f"{file} would be in the store {around}; name a file elsewhere")
    with Interrupts() as interrupts, named(f"no page {file} was written"):
        interrupts.release()
        with progress("reading"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vitals = read_vitals(store, files=True, largest=MOST_ROWS)
            found = survey(vitals.path, vitals.first, vitals.committed or 0)
        text = page(vitals, found)
        if file == "-":
            write_text(text)
        else:
            write_page(file, text, force=force)
    problems = [*vitals.problems, *([found.problem] if found.problem else [])]
    for problem in problems:
        say(f"hangarlog: warning: {problem}", err=True)
    if file != "-":
        note_done(f"the page {file} was written")
        write_object({"page": file, "events": vitals.committed, "events_read": found.looked_at})
    sys.stdout.flush()
    return 1 if problems else 0
