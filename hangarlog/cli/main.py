"""The main function: runs a command and turns errors into messages and exit codes."""

from __future__ import annotations

import sys
import threading
import traceback
import warnings
from io import TextIOWrapper
from typing import Any, NoReturn

import click

from hangarlog import EventsNotFoundError, HangarlogError, StreamIdError
from hangarlog.cli.app import exit_code, hangarlog
from hangarlog.cli.terminal import say, say_lines


def main() -> NoReturn:
    """Run the command line and exit; each error is one line on standard error."""
    warnings.showwarning = _show_warning
    sys.excepthook = _show_traceback
    sys.unraisablehook = threading.excepthook = _show_thread_traceback
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # A terminal's encoding may lack characters.
    try:
        code = hangarlog.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        _exit_with("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        say_lines(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx:
            say_lines(error.ctx.get_usage(), err=True)
        _exit_with(error.format_message(), 2)
    except (StreamIdError, EventsNotFoundError) as error:
        _exit_with(str(error), exit_code(error, 2))
    except HangarlogError as error:
        _exit_with(str(error), exit_code(error, 1))
    except MemoryError as error:
        _exit_with(_memory_message(error), exit_code(error, 1))
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
        _exit_with(message, exit_code(error, 1))


def _show_warning(message: Warning | str, *place: Any, **more: Any) -> None:
    say(f"hangarlog: warning: {message}", err=True)


def _memory_message(error: BaseException) -> str:
    what = next(iter(getattr(error, "__notes__", ())), "this command")
    advice = "allow this process more memory: an event may take many times the size of its text"
    return f"not enough memory for {what}; {advice}"


def _show_traceback(kind: type[BaseException], error: BaseException | None, trace: Any) -> None:
    """Print a traceback, escaped, because its message may contain text from events."""
    if isinstance(error, MemoryError):
        say(f"hangarlog: {_memory_message(error)}", err=True)
        return
    say_lines("".join(traceback.format_exception(kind, error, trace)).removesuffix("\n"), err=True)


def _show_thread_traceback(what: Any) -> None:
    """Print the traceback of a thread or a finalizer."""
    _show_traceback(what.exc_type, what.exc_value, what.exc_traceback)


def _exit_with(message: str, code: int) -> NoReturn:
    say(f"hangarlog: {message}", err=True)
    sys.exit(code)
