"""Running the command line, and what errors become."""

from __future__ import annotations

import sys
import warnings
from typing import Any, NoReturn

import click

from hangarlog import EventsNotFoundError, HangarlogError, StreamIdError
from hangarlog.cli.app import hangarlog
from hangarlog.cli.terminal import printable


def main() -> NoReturn:
    """Run the command line and exit: every error is one line, a reader that has seen enough is none."""
    warnings.showwarning = _warn
    try:
        code = hangarlog.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        _leave("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx:
            click.echo(error.ctx.get_usage(), err=True)
        _leave(error.format_message(), 2)
    except (StreamIdError, EventsNotFoundError) as error:
        _leave(str(error), 2)
    except HangarlogError as error:
        _leave(str(error), 1)
    except OSError as error:
        _leave(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 1)


def _warn(message: Warning | str, *place: Any, **more: Any) -> None:
    click.echo(f"hangarlog: warning: {printable(str(message))}", err=True)


def _leave(message: str, code: int) -> NoReturn:
    click.echo(f"hangarlog: {printable(message)}", err=True)
    sys.exit(code)
