"""The main function: runs a command and turns errors into messages and exit codes."""

from __future__ import annotations

import os
import re
import sys
import threading
import traceback
import warnings
from importlib import import_module
from typing import Any, NoReturn

import click

from hangarlog import EventsNotFoundError, HangarlogError, StreamIdError
from hangarlog.cli.app import exit_code, hangarlog
from hangarlog.cli.exit_codes import ExitCode
from hangarlog.cli.standard_streams import InputError, OutputError, end_output, take_over_streams
from hangarlog.cli.terminal import say, say_lines

COMPLETION_VARIABLE = "_HANGARLOG_COMPLETE"
"""The environment variable by which a shell asks for completions."""


_credentials = re.compile(r"(?<=://)[^\s'\"]*@").sub


def main() -> NoReturn:
    """Run the command line and exit; each error is one line on standard error."""
    warnings.showwarning = _show_warning
    sys.excepthook = _show_traceback
    sys.unraisablehook = threading.excepthook = _show_thread_traceback
    take_over_streams()
    try:
        code = _run()
    finally:
        end_output()
    sys.exit(code)


def _run() -> int:
    """Run the command line, print the error that ends it, and return the exit code."""
    if COMPLETION_VARIABLE in os.environ:
        import_module("hangarlog.cli.completing")  # It registers how each shell is answered.
    try:
        code = hangarlog.main(standalone_mode=False, complete_var=COMPLETION_VARIABLE)
        return code if isinstance(code, int) else ExitCode.SUCCESS
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return _failed("interrupted", ExitCode.INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        say_lines(error.format_message(), err=True)
        return ExitCode.USAGE
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx:
            say_lines(error.ctx.get_usage(), err=True)
        return _failed(_usage_message(error), ExitCode.USAGE)
    except OutputError as error:
        return error.result if error.reader_is_gone else _failed(str(error), exit_code(error, ExitCode.FAILED))
    except (StreamIdError, EventsNotFoundError) as error:
        return _failed(str(error), exit_code(error, ExitCode.USAGE))
    except (HangarlogError, InputError) as error:
        return _failed(str(error), exit_code(error, ExitCode.FAILED))
    except MemoryError as error:
        return _failed(_memory_message(error), exit_code(error, ExitCode.FAILED))
    except OSError as error:
        from hangarlog.cli.system_errors import system_message

        return _failed(system_message(error), exit_code(error, ExitCode.FAILED))


def _usage_message(error: click.ClickException) -> str:
    """Return click's message on one line. An option of `hangarlog` itself that follows the command gets its place."""
    message = error.format_message().replace("\n\t", " ")  # Click lists choices on lines of their own.
    if isinstance(error, click.NoSuchOption) and error.ctx is not None and error.ctx.parent is not None:
        for each in hangarlog.params:
            if error.option_name in each.opts:
                option = f"{error.option_name} {each.metavar or ''}".rstrip()
                command = error.ctx.command_path.removeprefix(error.ctx.find_root().command_path)
                return f"{error.option_name} belongs before the command: hangarlog {option}{command}"
    return message


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
    if isinstance(error, KeyboardInterrupt):  # Before click handles it, or after.
        say("hangarlog: interrupted", err=True)
        return
    say_lines("".join(traceback.format_exception(kind, error, trace)).removesuffix("\n"), err=True)


def _show_thread_traceback(what: Any) -> None:
    """Print the traceback of a thread or a finalizer."""
    _show_traceback(what.exc_type, what.exc_value, what.exc_traceback)


def _failed(message: str, code: int) -> int:
    """Print a message, without the credentials of an address that it may quote, and return the exit code."""
    say(f"hangarlog: {_credentials('', message)}", err=True)
    return code
