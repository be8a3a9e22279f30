"""The pytest plugin under its former name, for `-p hangarlog.testing.plugin`."""

from pytest_hangarlog import hangarlog_schema

__all__ = ["hangarlog_schema"]
