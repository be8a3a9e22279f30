"""The pytest plugin: the fixture `hangarlog_schema` holds an application's events against its schema lock.

def test_all_history_can_be_read(hangarlog_schema):
    hangarlog_schema.check()

pytest imports this module in every run of every project that has hangarlog installed. So it is installed as a module by
itself, outside of the package, and imports nothing of that until the fixture is asked for.
"""

from __future__ import annotations

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hangarlog.testing.schema import SchemaGuard


@pytest.fixture(scope="session")
def hangarlog_schema(pytestconfig: pytest.Config) -> SchemaGuard:
    """The project's events and lock, as `[tool.hangarlog]` of its pyproject.toml names them."""
    from hangarlog.testing.schema import SchemaGuard

    return SchemaGuard(str(pytestconfig.rootpath))
