"""The ADK's sessions on hangarlog: beside its SqliteSessionService, with a real Runner, hostile input, kill -9."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.input_validation_error import InputValidationError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.models import BaseLlm, LlmResponse
from google.adk.runners import Runner
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.session import Session
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.genai import types
from hostile import NAMES, VALUES, deep, killed_after, no_file_outside, same, together
from pages import run_page

from hangarlog import ANY, EventSerializationError, FileEventStore, UntypedEvent
from hangarlog.integrations.adk import SessionService

WHO = {"app_name": "app", "user_id": "user"}
ONE = {**WHO, "session_id": "one"}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SessionService]:
    service = SessionService(tmp_path / "store", durability="relaxed")
    yield service
    asyncio.run(service.close())


def run(call: Any) -> Any:
    return asyncio.run(call)


def said(text: str, number: float = 0, **delta: Any) -> Event:
    """An event that is some seconds after the creation of any session."""
    content = types.Content(role="user", parts=[types.Part(text=text)])
    time = 4_000_000_000.0 + number
    return Event(author="user", content=content, timestamp=time, actions=EventActions(state_delta=delta))


def told(session: Session | None) -> Any:
    if session is None:
        return None
    return [each.content.parts[0].text for each in session.events], session.state, session.app_name, session.user_id


async def outcome(call: Any) -> str:
    try:
        await call
    except Exception as error:
        return type(error).__name__
    return "fine"


async def answers(service: Any) -> list[Any]:
    """What a service says: states of three scopes, limits, stale copies, lists, deletions."""
    state = {"mine": 1, "app:ours": 2, "user:his": 3, "temp:gone": 4}
    first = await service.create_session(**WHO, state=state, session_id="one")
    got: list[Any] = [told(first), await service.get_session(**WHO, session_id="none")]
    got += [await outcome(service.create_session(**ONE)), await service.get_user_state(**WHO)]
    got.append(await outcome(service.create_session(**WHO, session_id=" one ")))
    generated = await service.create_session(**WHO)
    got += [told(generated), len(generated.id) > 10]
    delta = {"mine": 5, "temp:now": 6, "app:ours": 7, "user:his": [8]}
    event = await service.append_event(first, said("hello", 1, **delta))
    got += [event.actions.state_delta, told(first), first.last_update_time]
    got.append(told(await service.get_session(**ONE)))
    partial = said("partial", 2)
    partial.partial = True
    await service.append_event(first, partial)
    for number in range(3, 8):
        await service.append_event(first, said(f"text {number}", number, **{f"k{number}": {"deep": [number]}}))
    got.append(told(await service.get_session(**ONE)))
    for config in (
        {"num_recent_events": 2}, {"num_recent_events": 0}, {"num_recent_events": 99},
        {"after_timestamp": 4_000_000_005.0}, {"after_timestamp": 4_000_000_004.0, "num_recent_events": 1},
        {"after_timestamp": 5e9},
    ):  # fmt: skip
        got.append(told(await service.get_session(**ONE, config=GetSessionConfig(**config))))
    stale = await service.get_session(**ONE)
    fresh = await service.get_session(**ONE)
    await service.append_event(fresh, said("fresh", 10, mine="fresh"))
    got.append(await outcome(service.append_event(stale, said("stale", 11, mine="stale"))))
    got += [told(await service.get_session(**ONE)), await outcome(service.append_event(fresh, said("more", 12)))]
    early = said("early", 0.5)
    got += [await outcome(service.append_event(fresh, early)), told(await service.get_session(**ONE))]
    await service.create_session(app_name="app", user_id="other", session_id="one", state={"user:his": "other's"})
    await service.create_session(app_name="another", user_id="user", session_id="one")
    for who in (WHO, {"app_name": "app"}, {"app_name": "app", "user_id": "other"}, {"app_name": "nobody"}):
        listed = (await service.list_sessions(**who)).sessions
        got.append(sorted(([each.id == "one", *told(each)] for each in listed), key=repr))
        got.append([each.last_update_time for each in listed] == sorted(each.last_update_time for each in listed))
    await service.delete_session(**ONE)
    await service.delete_session(**ONE)
    got += [told(await service.get_session(**ONE)), await outcome(service.append_event(fresh, said("late", 20)))]
    again = await service.create_session(**ONE, state={"new": True})
    got += [told(again), await service.get_user_state(**WHO), await service.get_user_state(app_name="x", user_id="y")]
    await service.append_event(again, said("anew", 30))
    return [*got, told(await service.get_session(**ONE))]


def test_it_answers_as_the_sqlite_service_does(service: SessionService, tmp_path: Path) -> None:
    """Call by call."""
    theirs = SqliteSessionService(str(tmp_path / "sqlite.db"))
    ours, expected = run(answers(service)), run(answers(theirs))
    for mine, other in zip(ours, expected, strict=True):
        assert mine == other
    assert len(ours) > 30


def test_a_stale_copy_is_noticed_though_the_clock_stands_still(service: SessionService) -> None:
    """The SQLite service compares times; here the place in the stream counts."""
    run(service.create_session(**ONE))
    one, two = run(service.get_session(**ONE)), run(service.get_session(**ONE))
    run(service.append_event(one, said("first", 1)))
    with pytest.raises(StaleSessionError, match="get it again"):
        run(service.append_event(two, said("second", 1)))
    assert two.events == []
    by_hand = Session(id="one", app_name="app", user_id="user", last_update_time=one.last_update_time)
    run(service.append_event(by_hand, said("by hand", 2)))
    with pytest.raises(StaleSessionError):
        run(service.append_event(Session(id="one", app_name="app", user_id="user"), said("old", 3)))
    assert [e.content.parts[0].text for e in run(service.get_session(**ONE)).events] == ["first", "by hand"]


def test_an_event_is_written_once(service: SessionService) -> None:
    """A repetition is no second event; another one of the same id is refused."""
    session = run(service.create_session(**ONE))
    event = said("once", 1, count=1)
    run(service.append_event(session, event))
    again = run(service.get_session(**ONE))
    run(service.append_event(again, copy.deepcopy(event)))
    assert told(again)[0] == ["once"]
    other = said("another", 2)
    other.id = event.id
    with pytest.raises(AlreadyExistsError, match="another event"):
        run(service.append_event(again, other))
    assert told(run(service.get_session(**ONE)))[0] == ["once"]


@pytest.mark.parametrize("is_known", [False, True])
def test_a_session_whose_beginning_was_dropped_goes_on(service: SessionService, tmp_path: Path, is_known: bool) -> None:
    """As by a retention: the latest events stay, with the states that they set."""

    async def main() -> None:
        session = await service.create_session(**ONE, state={"first": 1})
        for number in range(4):
            await service.append_event(session, said(f"e{number}", number, last=number))
        service.store.truncate_stream("adk:app/user/one", 3)
        other = service if is_known else SessionService(tmp_path / "store")
        found = await other.get_session(**ONE)
        assert found
        assert told(found)[:2] == (["e2", "e3"], {"last": 3})
        with pytest.raises(AlreadyExistsError):
            await other.create_session(**ONE)
        await other.append_event(found, said("e4", 4))
        assert told(await other.get_session(**ONE))[0] == ["e2", "e3", "e4"]

    run(main())


def test_tasks_of_one_session_append_in_turn(service: SessionService) -> None:
    """As parallel agents do, which share a session object."""

    async def main() -> None:
        session = await service.create_session(**ONE)
        await asyncio.gather(*(service.append_event(session, said(f"{n}", n, **{f"k{n}": n})) for n in range(30)))
        stored = await service.get_session(**ONE)
        assert sorted(told(stored)[0], key=int) == [str(n) for n in range(30)]
        assert stored.state == {f"k{n}": n for n in range(30)}

    run(main())


class Echo(BaseLlm):
    """A model that says how many contents it was given."""

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncIterator[LlmResponse]:
        text = f"saw {len(llm_request.contents)}"
        yield LlmResponse(content=types.Content(role="model", parts=[types.Part(text=text)]))


@pytest.mark.filterwarnings("default")
def test_a_real_runner_goes_on_with_a_session(tmp_path: Path) -> None:
    """Also after the service was opened anew, with state that the agent writes."""
    agent, replies = LlmAgent(name="echo", model=Echo(model="echo"), output_key="last"), []

    async def turn(number: int) -> None:
        service = SessionService(tmp_path / "store")
        if number == 0:
            await service.create_session(**ONE)
        runner = Runner(agent=agent, app_name="app", session_service=service)
        message = types.Content(role="user", parts=[types.Part(text=f"turn {number}")])
        ran = runner.run_async(user_id="user", session_id="one", new_message=message)
        replies.extend([event.content.parts[0].text async for event in ran])
        session = await service.get_session(**ONE)
        assert session.state["last"] == replies[-1]
        assert len(session.events) == 2 * (number + 1)
        await service.close()

    for number in range(3):
        run(turn(number))
    assert replies == ["saw 1", "saw 3", "saw 5"]


def test_hostile_names_are_kept_apart(tmp_path: Path) -> None:
    """Of applications, users and sessions. The ADK strips blanks around a session's id."""
    folder = tmp_path / "alone"
    folder.mkdir()
    service = SessionService(folder / "store", durability="relaxed")
    names = [name for name in NAMES if name != "\ud83d"]

    async def main() -> None:
        ids = {name: name.strip() or "blank" for name in names}
        for name in names:
            who = {"app_name": name, "user_id": name}
            session = await service.create_session(**who, session_id=ids[name], state={"user:n": name, "app:n": name})
            await service.append_event(session, said(f"in {name}", 1))
        for name in names:
            found = await service.get_session(app_name=name, user_id=name, session_id=ids[name])
            assert told(found) == ([f"in {name}"], {"user:n": name, "app:n": name}, name, name)
            (listed,) = (await service.list_sessions(app_name=name)).sessions
            assert (listed.user_id, listed.id) == (name, ids[name])

    run(main())
    run(service.close())
    assert no_file_outside(folder, folder / "store")


def test_any_state_comes_back(service: SessionService) -> None:
    """What the ADK's own conversion to JSON leaves of it; and a text that holds half a surrogate pair."""
    values = {f"k{n}": value for n, value in enumerate([*VALUES, deep()])}
    session = run(service.create_session(**ONE, state=dict(values)))
    assert same(session.state, values)
    told_too = {f"user:{key}": value for key, value in values.items() if value not in ("half a pair \ud83d", deep())}
    run(service.append_event(session, said("x", 1, **told_too)))
    for event in (said("half a pair \ud83d", 2), said("deep", 2, deep=deep())):
        with pytest.raises(InputValidationError, match="nothing was written"):
            run(service.append_event(session, event))
    stored = run(service.get_session(**ONE))
    assert same({key: stored.state[key] for key in values}, values)


def test_what_cannot_be_stored_or_read_is_the_adks_own_error(service: SessionService) -> None:
    """A name that is too long; an event of a newer version of the ADK, or of hangarlog."""
    with pytest.raises(InputValidationError, match="limit is 1024"):
        run(service.create_session(**WHO, session_id="x" * 2000))
    with pytest.raises(SessionNotFoundError):
        run(service.append_event(Session(id="none", app_name="app", user_id="user"), said("x")))
    run(service.create_session(**ONE))
    newer = {"time": 1.0, "id": "e", "event": {"author": {"of": "tomorrow"}}}
    service.store.append("adk:app/user/one", [UntypedEvent("Event", newer)], ANY)
    with pytest.raises(InputValidationError, match="update"):
        run(service.get_session(**ONE))
    service.store.append("adk:app/user/one", [UntypedEvent("OfTomorrow", {})], ANY)
    with pytest.raises(EventSerializationError, match="OfTomorrow"):
        run(service.get_session(**ONE))


def test_a_session_that_another_process_deletes_is_gone_and_erased(service: SessionService, tmp_path: Path) -> None:
    """And is not begun anew by an append."""
    session = run(service.create_session(**ONE))
    run(service.append_event(session, said("secret words", 1)))
    with FileEventStore.untyped(tmp_path / "store") as opened:
        run(SessionService(opened).delete_session(**ONE))
    with pytest.raises(SessionNotFoundError):
        run(service.append_event(session, said("late", 2)))
    assert run(service.get_session(**ONE)) is None
    streams = b"".join(path.read_bytes() for path in (tmp_path / "store/streams").rglob("*.jsonl"))
    assert b"secret words" not in streams


WRITER = """
import asyncio, sys
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from hangarlog.integrations.adk import SessionService
async def main():
    service, one = SessionService(sys.argv[1]), {"app_name": "app", "user_id": "user", "session_id": "one"}
    session = await service.get_session(**one) or await service.create_session(**one)
    for turn in range(len(session.events), 10**6):
        delta = {"turns": turn + 1, "user:turns": turn + 1}
        await service.append_event(session, Event(author=f"turn {turn}", actions=EventActions(state_delta=delta)))
        print(f"{turn}.", flush=True)
asyncio.run(main())
"""


def test_a_killed_writer_loses_no_acknowledged_event_and_no_state(tmp_path: Path) -> None:
    """The state of the user is as far as the session's, though it is another stream."""
    for lines in (1, 6, 3):
        acknowledged = int(killed_after(WRITER, lines, tmp_path / "store")[-1].strip("."))
    service = SessionService(tmp_path / "store")
    session = run(service.get_session(**ONE))
    count = len(session.events)
    assert [each.author for each in session.events] == [f"turn {turn}" for turn in range(count)]
    assert session.state == {"turns": count, "user:turns": count}
    assert acknowledged + 1 <= count <= acknowledged + 2
    run(service.close())


BOTH = """
import asyncio, sys
from google.adk.errors import StaleSessionError
from google.adk.events.event import Event
from hangarlog.integrations.adk import SessionService
async def main(path, number):
    service, one = SessionService(path, durability="relaxed"), {"app_name": "a", "user_id": "u", "session_id": "s"}
    turn = 0
    while turn < 40:
        session = await service.get_session(**one)
        try:
            await service.append_event(session, Event(author=f"{number} {turn}"))
        except StaleSessionError:
            continue
        turn += 1
asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def test_two_processes_on_one_session_lose_and_double_nothing(tmp_path: Path) -> None:
    """The slower one is told that its session is stale, and repeats its turn."""
    one = {"app_name": "a", "user_id": "u", "session_id": "s"}
    service = SessionService(tmp_path / "store", durability="relaxed")
    run(service.create_session(**one))
    together(BOTH, 2, tmp_path / "store")
    found = sorted(each.author for each in run(service.get_session(**one)).events)
    assert found == sorted(f"{who} {turn}" for who in "01" for turn in range(40))
    run(service.close())


def test_the_pages_programs_run(tmp_path: Path) -> None:
    """The lines that somebody copies."""
    run_page("google-adk.md", tmp_path)
