"""`python -m hangarlog` is the command line."""

from hangarlog.cli import run

run()
