"""The pytest plugin: fixtures for an application's events.

def test_all_history_can_be_read(hangarlog_schema):  # against its schema lock
    hangarlog_schema.check()

def test_a_deposit_is_kept(hangarlog_store):  # in memory
    hangarlog_store.append("account:ann", [Deposited(30)], -1)

def test_a_withdrawal(hangarlog_scenario, hangarlog_store):
    accounts = Repository(hangarlog_store, "account", apply=apply)
    hangarlog_scenario.given("account:ann", Deposited(30)).when(accounts.execute, "ann", withdraw).then(Withdrawn(10))

pytest imports this module in every run of every project that has hangarlog installed. So it is a module outside the
package, and imports the package only when a test uses the fixture.
"""

from __future__ import annotations

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from hangarlog.memory import MemoryEventStore
    from hangarlog.testing.scenario import Scenario
    from hangarlog.testing.schema import SchemaGuard


@pytest.fixture(scope="session")
def hangarlog_schema(pytestconfig: pytest.Config) -> SchemaGuard:
    """Return a guard over the events and the schema lock that `[tool.hangarlog]` in pyproject.toml names."""
    from hangarlog.testing.schema import SchemaGuard

    return SchemaGuard(str(pytestconfig.rootpath))


@pytest.fixture
def hangarlog_store(pytestconfig: pytest.Config) -> Iterator[MemoryEventStore[Any]]:
    """Yield an empty store in memory with the events that `[tool.hangarlog]` names, else those that are registered."""
    from hangarlog.testing.scenario import memory_store

    with memory_store(str(pytestconfig.rootpath)) as store:
        yield store


@pytest.fixture
def hangarlog_scenario(hangarlog_store: MemoryEventStore[Any]) -> Iterator[Scenario]:
    """Yield a scenario (given, when, then) in the test's `hangarlog_store`, and close it."""
    from hangarlog.testing.scenario import Scenario

    scenario = Scenario(hangarlog_store)
    yield scenario
    scenario.close()
