"""The OpenAI Agents SDK's sessions on hangarlog: beside SQLiteSession, with a real Runner, hostile input, kill -9."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, ModelResponse, RunConfig, Runner, SQLiteSession, Usage
from agents.exceptions import UserError
from agents.memory import Session as SessionProtocol
from agents.memory import SessionSettings
from agents.models.interface import Model
from hostile import NAMES, VALUES, deep, killed_after, no_file_outside, same, together
from openai.types.responses import ResponseOutputMessage, ResponseOutputText
from pages import run_page

from hangarlog import ANY, EventSerializationError, FileEventStore, StoreOpenError, UntypedEvent
from hangarlog.integrations.openai_agents import Session


def message(number: object, role: str = "user") -> dict:
    return {"role": role, "content": f"message {number}"}


def run(call: Any) -> Any:
    return asyncio.run(call)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session("one", tmp_path / "store", durability="relaxed")
    yield session
    session.close()


async def answers(session: Any) -> list[Any]:
    """What a session says to each call, with and without limits, empty, and from many tasks."""
    said: list[Any] = [await session.pop_item(), await session.get_items(), await session.get_items(5)]
    await session.add_items([])
    await session.add_items([message(1), message(2, "assistant"), message(3)])
    said += [await session.get_items(limit) for limit in (None, 0, 1, 2, 3, 99, -1, -7)]
    said += [await session.pop_item(), await session.get_items(), await session.get_items(1)]
    await session.add_items([message(4)])
    said += [await session.pop_item(), await session.pop_item(), await session.get_items()]
    await session.clear_session()
    said += [await session.get_items(), await session.pop_item(), await session.clear_session()]
    await session.add_items([message(n) for n in range(5)])
    said += [await session.get_items(), await session.get_items(2)]
    await asyncio.gather(*(session.add_items([message(n), message(-n)]) for n in range(50)))
    items = [each["content"] for each in await session.get_items()]
    pairs = [items.index(f"message {-n}") - items.index(f"message {n}") for n in range(10, 50)]
    said += [len(items), sorted(items), pairs]
    popped = await asyncio.gather(*(session.pop_item() for _ in range(20)))
    said += [len({each["content"] for each in popped}), len(await session.get_items())]
    session.session_settings = SessionSettings(limit=3)
    return [*said, len(await session.get_items()), len(await session.get_items(4))]


def test_it_answers_as_the_sqlite_session_does(session: Session, tmp_path: Path) -> None:
    """Call by call."""
    theirs = SQLiteSession("one", tmp_path / "sqlite.db")
    assert run(answers(session)) == run(answers(theirs))
    theirs.close()
    assert isinstance(session, SessionProtocol)


@pytest.mark.parametrize("seed", range(4))
def test_any_calls_in_any_order_leave_the_same_items(seed: int, tmp_path: Path) -> None:
    """Seen by a session that stays, by one of another open store, and by one that begins cold."""
    chance, items = random.Random(seed), []
    other = FileEventStore.untyped(tmp_path / "store", durability="relaxed")
    open_ones = [Session("s", tmp_path / "store", durability="relaxed"), Session("s", other)]
    for number in range(250):
        one = chance.choice([*open_ones, Session("s", other)])
        what = chance.random()
        if what < 0.4:
            added = [message(f"{number} {n} {'x' * chance.choice([0, 0, 3000])}") for n in range(chance.randint(1, 4))]
            run(one.add_items(added))
            items += added
        elif what < 0.6:
            assert run(one.pop_item()) == (items.pop() if items else None)
        elif what < 0.62:
            run(one.clear_session())
            items.clear()
        elif what < 0.9:
            limit = chance.randint(1, 12)
            assert run(one.get_items(limit)) == items[-limit:]
        else:
            assert run(one.get_items()) == items
    open_ones[0].close()
    other.close()


class Echo(Model):
    """A model that says how many items it was given."""

    async def get_response(self, *args: Any, **given: Any) -> ModelResponse:
        text = ResponseOutputText(type="output_text", text=f"saw {len(given['input'])} items", annotations=[])
        said = ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=[text])
        return ModelResponse(output=[said], usage=Usage(), response_id=None)

    def stream_response(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


def test_a_real_runner_goes_on_with_a_conversation(tmp_path: Path) -> None:
    """Each run sees what the runs before it have said, also after the session was opened anew."""
    agent, config = Agent(name="echo", model=Echo()), RunConfig(tracing_disabled=True)
    said = []
    for turn in range(3):
        session = Session("run", tmp_path / "store")
        said.append(run(Runner.run(agent, f"turn {turn}", session=session, run_config=config)).final_output)
        session.close()
    assert said == ["saw 1 items", "saw 3 items", "saw 5 items"]
    session = Session("run", tmp_path / "store")
    said.append(Runner.run_sync(agent, "sync", session=session, run_config=config).final_output)
    assert said[-1] == "saw 7 items"
    theirs = SQLiteSession("run", tmp_path / "sqlite.db")
    for turn in (0, 1, 2):
        run(Runner.run(agent, f"turn {turn}", session=theirs, run_config=config))
    run(Runner.run(agent, "sync", session=theirs, run_config=config))
    assert run(session.get_items()) == run(theirs.get_items())
    theirs.close()
    session.close()


def test_sessions_on_one_path_share_an_open_store(tmp_path: Path) -> None:
    """So a server may make one for each request. The store closes with the last of them."""
    one, two = Session("one", tmp_path / "store"), Session("two", str(tmp_path / "store"))
    assert one.store is two.store
    one.close()
    one.close()
    run(two.add_items([message(1)]))
    with pytest.raises(StoreOpenError, match="closed"):
        run(one.get_items())
    store = two.store
    two.close()
    assert "closed" in repr(store)
    three = Session("two", tmp_path / "store")
    assert run(three.get_items()) == [message(1)]
    three.close()


def test_a_given_store_stays_open(tmp_path: Path) -> None:
    """It is its giver's to close."""
    with FileEventStore.untyped(tmp_path / "store") as store:
        Session("one", store).close()
        assert store.get_event_count() == 0


def test_a_forked_child_uses_a_session_of_its_parent(session: Session) -> None:
    """As servers do that load the application before they fork."""
    run(session.add_items([message(1)]))
    child = os.fork()
    if not child:
        try:
            run(session.add_items([message(2)]))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert run(session.get_items()) == [message(1), message(2)]


def test_hostile_names_are_kept_apart(tmp_path: Path) -> None:
    """And nothing is written outside of the store."""
    folder = tmp_path / "alone"
    folder.mkdir()
    sessions = [Session(name, folder / "store", durability="relaxed") for name in NAMES]
    for number, each in enumerate(sessions):
        run(each.add_items([message(number)]))
    for number, name in enumerate(NAMES):
        assert run(Session(name, sessions[0].store).get_items()) == [message(number)]
    for each in sessions:
        each.close()
    assert no_file_outside(folder, folder / "store")


def test_a_name_that_is_too_long_is_the_sdks_own_error(tmp_path: Path) -> None:
    """Before anything is created."""
    with pytest.raises(UserError, match="limit is 1024"):
        Session("x" * 2000, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_any_json_comes_back(session: Session, tmp_path: Path) -> None:
    """As SQLiteSession gives it back: it uses Python's JSON, which has more than JSON."""
    items = [{"role": "user", "content": value} for value in [*VALUES, deep(), (1, 2), {1: "a"}]]
    theirs = SQLiteSession("one", tmp_path / "sqlite.db")
    for each in (session, theirs):
        run(each.add_items(items))
    assert same(run(session.get_items()), run(theirs.get_items()))
    for each in (session, theirs):
        with pytest.raises(TypeError, match="not JSON serializable"):
            run(each.add_items([message(1), {"content": b"bytes"}]))
    assert len(run(session.get_items())) == len(items)
    theirs.close()


def test_an_item_may_be_changed_by_its_reader(session: Session) -> None:
    """What it changes is its own."""
    run(session.add_items([message(1)]))
    run(session.get_items())[0]["content"] = "changed"
    assert run(session.get_items()) == [message(1)]


def test_an_event_of_a_newer_version_is_an_error_that_names_it(session: Session) -> None:
    """It may be a removal."""
    run(session.add_items([message(1)]))
    session.store.append("openai-agents:one", [UntypedEvent("OfTomorrow", {})], ANY)
    for limit in (None, 1):
        with pytest.raises(EventSerializationError, match=r"OfTomorrow.*update"):
            run(session.get_items(limit))


WRITER = """
import asyncio, sys
from hangarlog.integrations.openai_agents import Session
async def main():
    session = Session("s", sys.argv[1])
    first = len(await session.get_items()) // 2
    for turn in range(first, 10**6):
        await session.add_items([{"content": f"{turn} user"}, {"content": f"{turn} assistant"}])
        print(f"{turn}.", flush=True)
asyncio.run(main())
"""


def test_a_killed_writer_loses_no_acknowledged_turn(tmp_path: Path) -> None:
    """And leaves no half of one."""
    acknowledged = -1
    for lines in (1, 6, 3):
        said = killed_after(WRITER, lines, tmp_path / "store")
        acknowledged = int(said[-1].strip("."))
    session = Session("s", tmp_path / "store")
    items = [each["content"] for each in run(session.get_items())]
    assert items == [f"{turn} {who}" for turn in range(len(items) // 2) for who in ("user", "assistant")]
    assert acknowledged <= len(items) // 2 - 1 <= acknowledged + 1
    session.close()


BOTH = """
import asyncio, sys
from hangarlog.integrations.openai_agents import Session
async def main(path, number):
    session = Session("s", path, durability="relaxed")
    for n in range(120):
        await session.add_items([{"content": f"{number} {n}"}])
        if n % 3 == 2:
            print((await session.pop_item())["content"])
asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def test_two_processes_on_one_session_lose_and_double_nothing(tmp_path: Path) -> None:
    """Each item is popped by one of them, or still there."""
    popped = together(BOTH, 2, tmp_path / "store")
    session = Session("s", tmp_path / "store")
    left = [each["content"] for each in run(session.get_items())]
    assert sorted(popped + left) == sorted(f"{who} {n}" for who in (0, 1) for n in range(120))
    assert len(popped) == 80
    session.close()


def test_removals_do_not_make_reads_longer(session: Session) -> None:
    """A thousand additions and removals in turn: the last items are a few records away."""
    run(session.add_items([message(n) for n in range(5)]))

    async def retried() -> None:
        for n in range(300):
            await session.add_items([message(f"retried {n}")])
            await session.pop_item()

    run(retried())
    read = []
    envelopes = session.store.envelopes
    session.store.envelopes = lambda *args, **options: (  # type: ignore[method-assign]
        read.extend(block) or block for block in envelopes(*args, **options)
    )
    assert run(Session("one", session.store).get_items(5)) == [message(n) for n in range(5)]
    assert len(read) < 30
    del session.store.envelopes


def test_the_pages_programs_run(tmp_path: Path) -> None:
    """The lines that somebody copies."""
    run_page("openai-agents.md", tmp_path)
