"""Run the command line: `python -m hangarlog`."""

from hangarlog.cli import run

run()
