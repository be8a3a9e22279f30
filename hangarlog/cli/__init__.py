"""The command line, an extra of the package: `pip install 'hangarlog[cli]'`."""

from __future__ import annotations

import sys

from hangarlog.cli.standard_streams import fill_closed_streams
from hangarlog.system.import_path import forget_current_folder


def run() -> None:
    """Run `hangarlog` with the arguments of this process, and exit with its exit code."""
    forget_current_folder()
    fill_closed_streams()
    try:
        import click  # noqa: F401
    except ImportError:
        sys.exit("hangarlog: the command line needs an extra: pip install 'hangarlog[cli]'")
    from hangarlog.cli.main import main

    main()
