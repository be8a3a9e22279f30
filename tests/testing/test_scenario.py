"""Given, when, then: what holds passes, and what does not says what is different."""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import ROOT

from hangarlog import ConcurrencyError, EventStore, FileEventStore, MemoryEventStore, UntypedEvent
from hangarlog.aggregates import Repository
from hangarlog.projections import Projection, SqliteProjection
from hangarlog.testing import Scenario, registered

pytest_plugins = ["pytester"]

PLUGIN = ("-q", "-p", "no:cacheprovider", "-p", "no:hangarlog", "-p", "pytest_hangarlog")
"""The plugin as it is here, installed or not."""


class Deposited(msgspec.Struct):
    amount: int


class Withdrawn(msgspec.Struct):
    amount: int
    event_id: str | None = None


Balances = dict[str, int]


def apply(balance: int, event: Any) -> int:
    return balance + (event.amount if isinstance(event, Deposited) else -event.amount)


def withdraw(balance: int, version: int) -> list[Withdrawn]:
    if balance < 10:
        raise ValueError(f"{balance} is not enough")
    return [Withdrawn(10, event_id=f"w-{version}")]


def add(balances: Balances, record: Any) -> None:
    balances[record.stream_id] = apply(balances.get(record.stream_id, 0), record.event)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore[Any]]:
    opened = MemoryEventStore() if request.param == "memory" else FileEventStore(tmp_path / "s")
    with registered(Deposited=Deposited, Withdrawn=Withdrawn), opened as store:
        yield store


@pytest.fixture
def accounts(store: EventStore[Any]) -> Repository[int, Any]:
    return Repository(store, "account", apply=apply, initial=int)


def test_what_holds_passes(store: EventStore[Any], accounts: Repository[int, Any]) -> None:
    """Events, streams, results, states, errors; one scenario after the other in a store."""
    scenario = Scenario(store)
    (
        scenario.given("account:ann", Deposited(30), Deposited(5))
        .when(accounts.execute, "ann", withdraw)
        .then(Withdrawn(10, event_id="w-1"))
        .then(("account:ann", Withdrawn(10)), ignoring=["event_id"])
        .then(UntypedEvent("Withdrawn", {"amount": 10, "event_id": "w-1"}))
        .then_state(accounts, "ann", 25)
        .given("account:bob", Deposited(1))
        .when(accounts.execute, "bob", withdraw)
        .then_raises(ValueError, match="1 is not enough")
        .then_nothing()
        .when(store.append, "account:bob", [Deposited(2)], -1)
        .then_raises((KeyError, ConcurrencyError))
        .when(lambda: 7)
        .then()
    )
    assert scenario.result == 7


def failure(call: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        call()
    return str(caught.value)


def test_what_does_not_hold_says_what_is_different(store: EventStore[Any], accounts: Repository[int, Any]) -> None:
    done = Scenario(store).given("account:ann", Deposited(30)).when(accounts.execute, "ann", withdraw)
    assert failure(lambda: done.then(Withdrawn(11, event_id="w-0"))).splitlines()[:3] == [
        "other events were appended (- expected, + found):",
        '- Withdrawn {"_version":1,"amount":11,"event_id":"w-0"}',
        "?                                   ^",
    ]
    assert failure(done.then_nothing).splitlines()[1:3] == [
        "- (nothing)",
        '+ Withdrawn {"_version":1,"amount":10,"event_id":"w-0"}',
    ]
    assert "- account:bob: Withdrawn" in failure(lambda: done.then(("account:bob", Withdrawn(10, event_id="w-0"))))
    assert "+ Withdrawn" in failure(lambda: done.then(Deposited(1)))
    both = failure(lambda: done.then(Withdrawn(10, event_id="w-0"), Deposited(1)))
    assert '  Withdrawn {"_version":1,"amount":10,"event_id":"w-0"}' in both
    assert '- Deposited {"_version":1,"amount":1}' in both
    assert failure(lambda: done.then_state(accounts, "ann", 19)) == (
        "aggregate 'ann' has another state:\n- expected 19\n+ found    20"
    )
    assert failure(lambda: done.then_raises(ValueError)) == "nothing was raised; the call returned " + repr(done.result)


def test_an_error_that_nobody_expects_is_raised(store: EventStore[Any], accounts: Repository[int, Any]) -> None:
    """By whatever comes next, and once."""
    scenario = Scenario(store)
    for use in (
        lambda: scenario.then_nothing(),
        lambda: scenario.then_state(accounts, "ann", 0),
        lambda: scenario.given("account:ann", Deposited(1)),
        lambda: scenario.when(int),
        lambda: scenario.then_raises(KeyError),
    ):
        scenario.when(accounts.execute, "ann", withdraw)
        with pytest.raises(ValueError, match="not enough"):
            use()
        scenario.then_nothing()
    with pytest.raises(AssertionError, match="which 'too much' does not match"):
        scenario.when(accounts.execute, "ann", withdraw).then_raises(ValueError, match="too much")
    with pytest.raises(KeyboardInterrupt):
        scenario.when(raise_interrupt)


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def test_a_state_that_a_snapshot_would_change_is_found(store: EventStore[Any]) -> None:
    """Only of a repository that makes snapshots."""

    def keep(state: Any, event: Any) -> Any:
        state.seen = (*state.seen, event.amount)

    class Seen:
        def __init__(self) -> None:
            self.seen: tuple[int, ...] = ()

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Seen) and other.seen == self.seen

        __hash__ = None  # type: ignore[assignment]

    wanted = Seen()
    wanted.seen = (1,)
    given = Scenario(store).given("account:ann", Deposited(1))
    never = Repository(store, "account", apply=keep, initial=Seen, state_type=Any, snapshot_every=None)
    given.then_state(never, "ann", wanted)
    often = Repository(store, "account", apply=keep, initial=Seen, state_type=Any)
    with pytest.raises(Exception, match="cannot be kept as JSON"):
        given.then_state(often, "ann", wanted)


def test_projections_are_built_twice(store: EventStore[Any], tmp_path: Path) -> None:
    """A function that depends on something else gives another state the second time."""
    scenario = Scenario(store).given("account:ann", Deposited(30)).given("account:bob", Deposited(1), Withdrawn(1))
    balances = Projection("balances", add, category="account")
    scenario.then_projection(balances, {"account:ann": 30, "account:bob": 0})
    scenario.given("account:bob", Deposited(4)).then_projection(balances, {"account:ann": 30, "account:bob": 4})
    assert "projection 'balances' has another state" in failure(lambda: scenario.then_projection(balances, {}))
    calls = itertools.count()

    def count(state: dict[str, int], record: Any) -> dict[str, int]:
        return {"calls": next(calls)}

    impure = Projection("impure", count)
    assert "built a second time" in failure(lambda: scenario.then_projection(impure, {"calls": 3}))

    def insert(connection: sqlite3.Connection, record: Any) -> None:
        connection.execute("INSERT INTO seen VALUES (?)", (record.stream_id,))

    path = tmp_path / "seen.db"
    create = "CREATE TABLE seen (stream TEXT)"
    scenario.project(SqliteProjection("seen", path, insert, create=lambda connection: connection.execute(create)))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM seen").fetchone() == (4,)
    connection.close()


EVENTS = """
import msgspec
from hangarlog import EventSerializer, UpcasterChain, event

@event(version=2)
class Deposited(msgspec.Struct):
    amount: int
    currency: str

chain = UpcasterChain()

@chain.upcaster("Deposited", from_version=1)
def with_currency(data):
    return {**data, "currency": "EUR"}

serializer = EventSerializer(chain)
"""


def test_the_fixtures_are_a_projects_own_store(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one for each test, with the events that pyproject.toml names, closed at the end."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT}/hangarlog/testing/pytest")
    pytester.makepyprojecttoml('[tool.hangarlog]\nevents = "bank_events:serializer"\n')
    pytester.makepyfile(bank_events=EVENTS)
    pytester.makepyfile(
        """
        import pytest
        from bank_events import Deposited
        from hangarlog import ANY, EncodedEvent, StoreOpenError

        kept = []

        @pytest.mark.parametrize("turn", [1, 2])
        def test_store(hangarlog_store, turn):
            hangarlog_store.append("a:1", [EncodedEvent("Deposited", b'{"amount":3}')], -1)
            assert hangarlog_store.read_stream("a:1") == [Deposited(3, "EUR")]
            kept.append(hangarlog_store)

        def test_closed():
            with pytest.raises(StoreOpenError):
                kept[0].read_stream("a:1")

        def test_scenario(hangarlog_scenario, hangarlog_store):
            event = Deposited(1, "EUR")
            hangarlog_scenario.when(hangarlog_store.append_at_end, "a:1", [event]).then(event)

        def test_fails(hangarlog_scenario, hangarlog_store):
            hangarlog_scenario.given("a:1", Deposited(1, "EUR")).when(list).then(Deposited(1, "USD"))
        """
    )
    result = pytester.runpytest_subprocess(*PLUGIN)
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(
        ["E*other events were appended (- expected, + found):", 'E*- Deposited *"USD"}', "*(nothing)"]
    )
    assert "scenario.py" not in str(result.stdout)  # The failure is shown where the test is.


def test_an_error_that_nothing_asks_for_fails_the_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if `when` is the last call."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT}/hangarlog/testing/pytest")
    pytester.makepyfile("def test_it(hangarlog_scenario): hangarlog_scenario.when({}.__getitem__, 'nobody asked')")
    result = pytester.runpytest_subprocess(*PLUGIN)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E*KeyError: 'nobody asked'"])


def test_the_pages_tests_pass(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT}/hangarlog/testing/pytest")
    page = (ROOT / "docs/testing.md").read_text()
    programs = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(programs) == 3
    pytester.makepyfile("\n\n".join(programs))
    pytester.runpytest_subprocess(*PLUGIN, "-W", "error").assert_outcomes(passed=6)
