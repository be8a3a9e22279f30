"""Running the command line, and what errors become."""

from __future__ import annotations

import sys
import threading
import traceback
import warnings
from io import TextIOWrapper
from typing import Any, NoReturn

import click

from hangarlog import EventsNotFoundError, HangarlogError, StreamIdError
from hangarlog.cli.app import hangarlog
from hangarlog.cli.terminal import say, say_lines


def main() -> NoReturn:
    """Run the command line and exit: every error is one line, a reader that has seen enough is none."""
    warnings.showwarning = _warn
    sys.excepthook = _unexpected
    sys.unraisablehook = threading.excepthook = _unexpected_elsewhere
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # A terminal may have few letters.
    try:
        code = hangarlog.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        _leave("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        say_lines(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx:
            say_lines(error.ctx.get_usage(), err=True)
        _leave(error.format_message(), 2)
    except (StreamIdError, EventsNotFoundError) as error:
        _leave(str(error), 2)
    except HangarlogError as error:
        _leave(str(error), 1)
    except MemoryError as error:
        _leave(_out_of_memory(error), 1)
    except OSError as error:
        _leave(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 1)


def _warn(message: Warning | str, *place: Any, **more: Any) -> None:
    say(f"hangarlog: warning: {message}", err=True)


def _out_of_memory(error: BaseException) -> str:
    what = next(iter(getattr(error, "__notes__", ())), "this command")
    return f"not enough memory for {what}; an event may take many times its text: allow this process more memory"


def _unexpected(kind: type[BaseException], error: BaseException | None, trace: Any) -> None:
    """Print a traceback, escaped: its message may hold text of events."""
    if isinstance(error, MemoryError):
        say(f"hangarlog: {_out_of_memory(error)}", err=True)
        return
    say_lines("".join(traceback.format_exception(kind, error, trace)).removesuffix("\n"), err=True)


def _unexpected_elsewhere(what: Any) -> None:
    """The same, of a thread or a finalizer."""
    _unexpected(what.exc_type, what.exc_value, what.exc_traceback)


def _leave(message: str, code: int) -> NoReturn:
    say(f"hangarlog: {message}", err=True)
    sys.exit(code)
