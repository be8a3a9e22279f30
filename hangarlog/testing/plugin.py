"""The pytest plugin under its former name, for `-p hangarlog.testing.plugin`."""

from pytest_hangarlog import hangarlog_scenario, hangarlog_schema, hangarlog_store

__all__ = ["hangarlog_scenario", "hangarlog_schema", "hangarlog_store"]
