"""The pytest plugin under the name it had first, for `-p hangarlog.testing.plugin`."""

from pytest_hangarlog import hangarlog_schema

__all__ = ["hangarlog_schema"]
