"""pydantic-ai's conversations on hangarlog: beside its store in memory, with real agents, hostile input, kill -9."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hostile import NAMES, killed_after, no_file_outside, together
from pages import run_page
from pydantic_ai import (
    Agent,
    BinaryContent,
    DeferredToolRequests,
    ModelRequest,
    ModelResponse,
    TextPart,
    UserPromptPart,
)
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    InMemoryConversationStore,
)
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelMessagesTypeAdapter
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RunUsage

from hangarlog import ANY, EventSerializationError, FileEventStore, UntypedEvent
from hangarlog.integrations.pydantic_ai import ConversationStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ConversationStore]:
    store = ConversationStore(tmp_path / "store", durability="relaxed")
    yield store
    store.close()


def echo(messages: list[Any], info: AgentInfo) -> ModelResponse:
    return ModelResponse(parts=[TextPart(f"saw {len(messages)}")])


agent = Agent(FunctionModel(echo))


def texts(messages: Any) -> list[str]:
    return [str(part.content) for message in messages for part in message.parts]


async def outcome(call: Any) -> Any:
    """The result of a call, or the kind of its error."""
    try:
        return await call
    except (UserError, LookupError) as error:
        return type(error).__name__


async def turn(store: Any, conversation_id: str, prompt: str, **options: Any) -> Conversation:
    conversation = await store.load(conversation_id, **options) or Conversation(conversation_id=conversation_id)
    result = await agent.run(prompt, conversation=conversation)
    await store.save(result, **options)
    return result.conversation


async def told(store: Any, conversation_id: str, **options: Any) -> Any:
    loaded = await store.load(conversation_id, **options)
    if loaded is None:
        return None
    entries = await store.load_entries(conversation_id, **options)
    linked = [first.id == second.parent_id for first, second in pairwise(entries)]
    return texts(loaded.messages), loaded.usage.requests, linked, loaded.new_message_index


async def answers(store: Any) -> list[Any]:
    """What a store says: turns, limits, conflicts, scopes, branches, forks, lists, deletions."""
    said: list[Any] = [await store.load("a"), await store.load_entries("a"), await outcome(store.read_entry("none"))]
    for number in range(3):
        await turn(store, "a", f"turn {number}", scope="me")
    said += [await told(store, "a"), await told(store, "a", limit=2), await told(store, "a", limit=0)]
    said += [
        await told(store, "a", limit=99),
        await outcome(store.load("a", limit=-1)),
        await told(store, "a", scope="x"),
    ]
    stale, fresh = await store.load("a"), await store.load("a", limit=1)
    await store.save(await agent.run("from a window", conversation=fresh))
    said += [await outcome(store.save(await agent.run("stale", conversation=stale))), await told(store, "a")]
    said.append(await outcome(store.save(Conversation(conversation_id="a", messages=stale.messages))))
    said.append(await outcome(store.save(await store.load("a"), scope="other")))
    entries = await store.load_entries("a")
    revision = (await store.load("a")).revision
    branched = await store.branch("a", at=2, expected_revision=revision)
    said += [texts(branched.messages), await outcome(store.branch("a", at=1, expected_revision=revision))]
    await store.save(await agent.run("on the branch", conversation=branched))
    record = await store.read_record("a")
    said += [await told(store, "a"), len(record.branches), record.branches[0] == entries[-1].id]
    back = await store.branch("a", from_entry=entries[-1].id, expected_revision=record.revision)
    said += [texts(back.messages), len((await store.read_record("a")).branches)]
    rewritten = dataclasses.replace(back, messages=[*back.messages[:3], *back.messages[4:]], new_message_index=None)
    await store.save(rewritten)
    said += [await told(store, "a"), len((await store.read_record("a")).branches)]
    for options in ({}, {"at": 2}, {"at": 0}, {"from_entry": entries[4].id}):
        fork = await store.fork("a", **options)
        said += [texts(fork.messages), fork.usage.requests]
        forked = await store.read_record(fork.conversation_id)
        said += [forked.scope, forked.forked_from, forked.forked_at == forked.head_id]
    said.append(await outcome(store.fork("a", new_conversation_id=fork.conversation_id)))
    said += [await outcome(store.fork("none")), await outcome(store.fork("a", at=99))]
    said.append(await outcome(store.fork("a", from_entry="none")))
    await store.save(await agent.run("goes on", conversation=fork))
    await turn(store, "b", "another")
    listed = await store.list_conversations(limit=2)
    said += [[record.conversation_id == fork.conversation_id for record in listed], listed[0].conversation_id]
    said += [len(await store.list_conversations()), len(await store.list_conversations(scope="me"))]
    await store.delete("a", scope="not mine")
    said.append(await told(store, "a") is None)
    await store.delete("a")
    await store.delete("a")
    said += [await told(store, "a"), await told(store, fork.conversation_id), await outcome(store.save(back))]
    said += [texts([(await store.read_entry(entries[0].id)).message]), len(await store.read_history(entries[4].id))]
    said.append(await outcome(store.read_history("none")))
    said.append(await outcome(store.write_record(
        ConversationRecord(conversation_id="c", head_id="none"), expected_revision=None)))  # fmt: skip
    said.append(await outcome(store.delete_record("b", expected_revision="old")))
    await turn(store, "a", "anew")
    return [*said, await told(store, "a")]


def test_it_answers_as_the_store_in_memory_does(store: ConversationStore) -> None:
    """Call by call."""
    ours, theirs = asyncio.run(answers(store)), asyncio.run(answers(InMemoryConversationStore()))
    assert ours == theirs
    assert len(ours) > 50


def test_another_process_sees_the_same(store: ConversationStore, tmp_path: Path) -> None:
    """A store that knows nothing yet, also for what has only an entry's id."""

    async def main() -> None:
        await turn(store, "a", "one")
        fork = await store.fork("a")
        await turn(store, fork.conversation_id, "two")
        (first, *_) = await store.load_entries("a")
        with FileEventStore.untyped(tmp_path / "store") as opened:
            other = ConversationStore(opened)
            assert (await other.read_entry(first.id)).id == first.id
            assert await told(other, fork.conversation_id) == await told(store, fork.conversation_id)
            await other.delete("a")
            await turn(other, "a", "anew")
        assert texts((await store.load("a")).messages) == ["anew", "saw 1"]
        assert (await store.read_entry(first.id)).id == first.id  # The fork still has it.

    asyncio.run(main())


def test_many_tasks_that_save_get_conflicts_and_lose_nothing(store: ConversationStore) -> None:
    """Each repeats its turn until it counts, as pydantic-ai says."""

    async def insist(number: int) -> None:
        while True:
            try:
                await turn(store, "a", f"turn {number}")
            except ConversationConflict:
                continue
            return

    async def main() -> None:
        await turn(store, "a", "first")
        await asyncio.gather(*(insist(number) for number in range(10)))
        loaded = await store.load("a")
        assert sorted(texts(loaded.messages)[2::2]) == sorted(f"turn {number}" for number in range(10))
        assert texts(loaded.messages)[1::2] == [f"saw {n}" for n in range(1, 22, 2)]

    asyncio.run(main())


def as_json_gives_back(messages: list[Any]) -> list[Any]:
    """What pydantic-ai's own JSON makes of messages: an image is of a class of its own."""
    return ModelMessagesTypeAdapter.validate_json(ModelMessagesTypeAdapter.dump_json(messages))


def test_what_messages_hold_comes_back(store: ConversationStore) -> None:
    """Files, tool calls that wait for approval, odd text, NaN in the arguments of a tool."""
    tools = Agent(TestModel(), output_type=[str, DeferredToolRequests])

    @tools.tool_plain(requires_approval=True)
    def pay(amount: float) -> str:
        return "paid"

    async def main() -> None:
        result = await tools.run(["pay", BinaryContent(bytes(range(256)), media_type="image/png"), "\u2028\0\x1b"])
        await store.save(result)
        loaded = await store.load(result.conversation.conversation_id)
        assert loaded.messages == as_json_gives_back(result.all_messages())
        assert loaded.deferred_tool_requests == result.output
        odd = Conversation(conversation_id="odd", messages=[
            ModelRequest(parts=[UserPromptPart("x" * 300_000)], metadata={"n": float("nan"), "big": 2**70}),
        ], usage=RunUsage(details={"deep": 1}))  # fmt: skip
        await store.save(odd)
        again = await store.load("odd")
        assert repr(again.messages) == repr(as_json_gives_back(odd.messages))

    asyncio.run(main())


def test_hostile_names_are_kept_apart(tmp_path: Path) -> None:
    """And nothing is written outside of the store."""
    folder = tmp_path / "alone"
    folder.mkdir()
    store = ConversationStore(folder / "store", durability="relaxed")
    names = [name for name in NAMES if name != "\ud83d"]

    async def main() -> None:
        for name in names:
            await turn(store, name, f"in {name}")
        for name in names:
            assert texts((await store.load(name)).messages) == [f"in {name}", "saw 1"]
        assert {record.conversation_id for record in await store.list_conversations()} == {*names}

    asyncio.run(main())
    store.close()
    assert no_file_outside(folder, folder / "store")


def test_what_cannot_be_stored_or_read_is_pydantic_ais_own_error(store: ConversationStore) -> None:
    """A name that is too long; a record and a message of a newer version."""
    with pytest.raises(UserError, match="limit is 1024"):
        asyncio.run(store.load("x" * 2000))
    asyncio.run(turn(store, "a", "one"))
    newer = {"record": {"conversation_id": "a", "head_id": None, "format_version": 2}}
    store.store.append("pydantic-ai:a", [UntypedEvent("Saved", newer)], ANY)
    with pytest.raises(UserError, match="update"):
        asyncio.run(store.load("a"))
    message = {"id": "m", "message": {"kind": "of-tomorrow", "parts": []}}
    store.store.append("pydantic-ai:b", [UntypedEvent("Message", message)], ANY)
    with pytest.raises(UserError, match="update"):
        asyncio.run(store.read_entry("m"))
    store.store.append("pydantic-ai:c", [UntypedEvent("OfTomorrow", {})], ANY)
    with pytest.raises(EventSerializationError, match="OfTomorrow"):
        asyncio.run(store.load("c"))


def test_a_deleted_conversation_is_erased_from_the_streams(store: ConversationStore, tmp_path: Path) -> None:
    """But not what a fork shares with it."""

    async def main() -> None:
        await turn(store, "a", "shared words")
        fork = await store.fork("a")
        await turn(store, "a", "secret words")
        await store.delete("a")
        assert texts((await store.load(fork.conversation_id)).messages) == ["shared words", "saw 1"]

    asyncio.run(main())
    streams = b"".join(path.read_bytes() for path in (tmp_path / "store/streams").rglob("*.jsonl"))
    assert b"shared words" in streams
    assert b"secret words" not in streams


WRITER = """
import asyncio, sys
from pydantic_ai import Agent, ModelResponse, TextPart
from pydantic_ai.messages import ModelMessagesTypeAdapter
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.conversation import Conversation
from hangarlog.integrations.pydantic_ai import ConversationStore
agent = Agent(FunctionModel(lambda messages, info: ModelResponse(parts=[TextPart(f"saw {len(messages)}")])))
async def main():
    store = ConversationStore(sys.argv[1])
    conversation = await store.load("a") or Conversation(conversation_id="a")
    for turn in range(len(conversation.messages) // 2, 10**6):
        result = await agent.run(f"turn {turn}", conversation=conversation)
        await store.save(result)
        conversation = result.conversation
        print(f"{turn}.", flush=True)
asyncio.run(main())
"""


def test_a_killed_run_is_resumed_after_its_last_turn(tmp_path: Path) -> None:
    """No saved turn is lost, and none is there by half."""
    for lines in (1, 5, 3):
        acknowledged = int(killed_after(WRITER, lines, tmp_path / "store")[-1].strip("."))
    store = ConversationStore(tmp_path / "store")
    messages = texts(asyncio.run(store.load("a")).messages)
    assert messages == [text for n in range(len(messages) // 2) for text in (f"turn {n}", f"saw {2 * n + 1}")]
    assert acknowledged <= len(messages) // 2 - 1 <= acknowledged + 1
    store.close()


BOTH = """
import asyncio, sys
from pydantic_ai import ModelRequest, UserPromptPart
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict
from hangarlog.integrations.pydantic_ai import ConversationStore
async def main(path, number):
    store, turn = ConversationStore(path, durability="relaxed"), 0
    while turn < 40:
        conversation = await store.load("a") or Conversation(conversation_id="a")
        conversation.messages.append(ModelRequest(parts=[UserPromptPart(f"{number} {turn}")]))
        try:
            await store.save(conversation)
        except ConversationConflict:
            continue
        turn += 1
asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def test_two_processes_on_one_conversation_lose_and_double_nothing(tmp_path: Path) -> None:
    """The slower one gets a conflict each time, and repeats its turn."""
    together(BOTH, 2, tmp_path / "store")
    store = ConversationStore(tmp_path / "store")
    found = texts(asyncio.run(store.load("a")).messages)
    for who in "01":
        assert [text for text in found if text.startswith(who)] == [f"{who} {turn}" for turn in range(40)]
    assert len(found) == 80
    store.close()


def test_entries_of_ones_own_making_are_kept_with_those_before_them(store: ConversationStore) -> None:
    """A record may point into another conversation: what it needs of that is copied."""

    async def main() -> None:
        await turn(store, "a", "one")
        *_, last = await store.load_entries("a")
        own = ConversationEntry(parent_id=last.id, message=ModelRequest(parts=[UserPromptPart("own")]))
        record = ConversationRecord(conversation_id="b", head_id=own.id)
        await store.write_record(record, new_entries=[own], expected_revision=None)
        await store.delete("a")
        assert texts((await store.load("b")).messages) == ["one", "saw 1", "own"]

    asyncio.run(main())


def test_the_pages_programs_run(tmp_path: Path) -> None:
    """The lines that somebody copies."""
    run_page("pydantic-ai.md", tmp_path)
