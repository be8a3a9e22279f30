"""The pytest plugin: its fixture `hangarlog_schema` checks an application's events against its schema lock.

def test_all_history_can_be_read(hangarlog_schema):
    hangarlog_schema.check()

pytest imports this module in every run of every project that has hangarlog installed. So it is a module outside the
package, and imports the package only when a test uses the fixture.
"""

from __future__ import annotations

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hangarlog.testing.schema import SchemaGuard


@pytest.fixture(scope="session")
def hangarlog_schema(pytestconfig: pytest.Config) -> SchemaGuard:
    """Return a guard over the events and the schema lock that `[tool.hangarlog]` in pyproject.toml names."""
    from hangarlog.testing.schema import SchemaGuard

    return SchemaGuard(str(pytestconfig.rootpath))
