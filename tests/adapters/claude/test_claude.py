"""The Claude Agent SDK's session store on hangarlog: its own contracts, its helpers, hostile input, kill -9."""

from __future__ import annotations

import asyncio
import inspect
import json
from itertools import count
from pathlib import Path

import claude_agent_sdk as sdk
import pytest
from claude_agent_sdk.testing import run_session_store_conformance
from hostile import NAMES, VALUES, deep, killed_after, no_file_outside, same, together
from pages import run_page

from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.integrations.claude import SessionStore

KEY = {"project_key": "project", "session_id": "session"}


def entry(number: int, **more: object) -> dict:
    return {"type": "user", "uuid": f"u-{number}", "n": number, **more}


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    store = SessionStore(tmp_path / "store", durability="relaxed")
    yield store
    store.close()


def run(call: object) -> object:
    return asyncio.run(call)


def test_the_sdks_conformance_suite_passes_with_every_optional_call(tmp_path: Path) -> None:
    """All 14 contracts: no optional call is left to the SDK's default, so none is skipped."""
    for name in ("list_sessions", "list_session_summaries", "delete", "list_subkeys"):
        assert getattr(SessionStore, name) is not getattr(sdk.SessionStore, name)
    assert "Assert the 14 " in inspect.getsource(run_session_store_conformance)
    numbers = count()
    stores: list[SessionStore] = []

    def make() -> SessionStore:
        stores.append(SessionStore(tmp_path / str(next(numbers))))
        return stores[-1]

    run(run_session_store_conformance(make))
    assert len(stores) >= 14
    for each in stores:
        each.close()


TURN = [
    {"type": "user", "uuid": "1", "parentUuid": None, "sessionId": "s",
     "message": {"role": "user", "content": "hello"}},
    {"type": "assistant", "uuid": "2", "parentUuid": "1", "sessionId": "s",
     "message": {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}},
    {"type": "ai-title", "aiTitle": "A greeting"},
]  # fmt: skip


async def answers(store: object, root: Path) -> list[object]:
    """What the SDK's helpers say of a store: reading, listing, renaming, tagging, forking, deleting."""
    root.mkdir()
    project = sdk.project_key_for_directory(str(root))
    session = "11111111-1111-4111-8111-111111111111"
    key = {"project_key": project, "session_id": session}
    await store.append(key, [{**each, "timestamp": "2026-01-01T00:00:00.000Z"} for each in TURN])
    await store.append({**key, "subpath": "subagents/agent-7"}, [{**TURN[0], "isSidechain": True, "agentId": "7"}])
    where = {"directory": str(root)}
    said: list[object] = [
        await sdk.get_session_messages_from_store(store, session, **where),
        await sdk.list_subagents_from_store(store, session, **where),
        await sdk.get_subagent_messages_from_store(store, session, "7", **where),
    ]
    await sdk.rename_session_via_store(store, session, "renamed", **where)
    await sdk.tag_session_via_store(store, session, "kept", **where)
    forked = await sdk.fork_session_via_store(store, session, **where)
    messages = await sdk.get_session_messages_from_store(store, forked.session_id, **where)
    said.append([each.message for each in messages])
    infos = await sdk.list_sessions_from_store(store, **where)
    said.append(sorted((i.summary, i.custom_title or "", i.tag or "", i.first_prompt or "") for i in infos))
    info = await sdk.get_session_info_from_store(store, session, **where)
    said.append((info.custom_title, info.tag, info.first_prompt))
    await sdk.delete_session_via_store(store, session, **where)
    said += [await sdk.get_session_messages_from_store(store, session, **where), await store.load(key)]
    said.append(len(await sdk.list_sessions_from_store(store, **where)))
    return said


def test_the_sdks_helpers_get_the_same_answers_as_from_its_own_store(store: SessionStore, tmp_path: Path) -> None:
    """As from its InMemorySessionStore."""
    ours, theirs = run(answers(store, tmp_path / "a")), run(answers(sdk.InMemorySessionStore(), tmp_path / "b"))
    assert ours == theirs
    assert len(ours[0]) == 2


def test_an_entry_is_written_once_whoever_repeats_it(store: SessionStore, tmp_path: Path) -> None:
    """A retried batch, one that overlaps, and one with a repetition in itself; entries without an id always count."""
    run(store.append(KEY, [entry(1), {"type": "tag", "tag": "a"}]))
    run(store.append(KEY, [entry(1), {"type": "tag", "tag": "a"}]))
    run(store.append(KEY, [entry(1), entry(2), entry(2)]))
    other = SessionStore(FileEventStore.untyped(tmp_path / "store"))
    run(other.append(KEY, [entry(2), entry(3)]))
    run(store.append(KEY, [entry(3), entry(4)]))
    assert [each.get("n", "tag") for each in run(store.load(KEY))] == [1, "tag", "tag", 2, 3, 4]
    other.store.close()


def test_a_deleted_session_can_be_imported_again(store: SessionStore, tmp_path: Path) -> None:
    """Also if another process deleted it: what was known of it does not count."""
    run(store.append(KEY, [entry(1), entry(2)]))
    with FileEventStore.untyped(tmp_path / "store") as other:
        run(SessionStore(other).delete(KEY))
    assert run(store.load(KEY)) is None
    run(store.append(KEY, [entry(1), entry(2)]))
    assert run(store.load(KEY)) == [entry(1), entry(2)]
    (summary,) = run(store.list_session_summaries("project"))
    assert summary["session_id"] == "session"


def test_a_session_that_was_imported_is_summed_up_from_its_beginning(store: SessionStore) -> None:
    """`hangarlog import` writes the entries only."""
    said = [{"type": "user", "uuid": f"u{n}", "message": {"role": "user", "content": f"said {n}"}} for n in range(6)]
    theirs = sdk.InMemorySessionStore()
    for imported, added in ((0, 1), (2, 3), (4, 5)):
        store.store.append("claude:project/session", [UntypedEvent("Entry", {"entry": said[imported]})], ANY)
        run(store.append(KEY, [said[added]]))
        run(theirs.append(KEY, [said[imported], said[added]]))
        summaries = [run(each.list_session_summaries("project"))[0]["data"] for each in (store, theirs)]
        assert summaries[0] == summaries[1]


def test_hostile_names_are_kept_apart_and_stay_in_the_store(tmp_path: Path) -> None:
    """As project, session and subpath; they come back from the lists as they were."""
    folder = tmp_path / "alone"
    folder.mkdir()
    store = SessionStore(folder / "store", durability="relaxed")
    keys = [{"project_key": name, "session_id": name} for name in NAMES]
    for number, key in enumerate(keys):
        run(store.append(key, [entry(number)]))
        run(store.append({**key, "subpath": key["session_id"]}, [entry(-number)]))
    for number, key in enumerate(keys):
        assert run(store.load(key)) == [entry(number)]
        assert [each["session_id"] for each in run(store.list_sessions(key["project_key"]))] == [key["session_id"]]
        assert run(store.list_subkeys(key)) == [key["session_id"]]
    run(store.delete(keys[1]))
    assert [run(store.load(key)) is None for key in keys] == [number == 1 for number in range(len(keys))]
    store.close()
    assert no_file_outside(folder, folder / "store")


def test_a_name_that_is_too_long_is_refused(store: SessionStore) -> None:
    """The error says so, and nothing is written."""
    with pytest.raises(ValueError, match="bytes long, the limit is 1024"):
        run(store.append({**KEY, "session_id": "x" * 2000}, [entry(1)]))
    assert store.store.get_event_count() == 0


def test_any_json_comes_back(store: SessionStore) -> None:
    """NaN, half a surrogate pair, deep nesting, large numbers: whatever json.loads may have made of a transcript."""
    entries = [entry(number, value=value) for number, value in enumerate([*VALUES, deep()])]
    run(store.append(KEY, entries))
    assert same(run(store.load(KEY)), entries)
    run(store.append(KEY, [{"type": "user", "uuid": "s", "message": {"content": "half \ud83d"}}]))
    assert run(store.list_session_summaries("project"))[0]["data"]["first_prompt"] == "half \ud83d"


def test_entries_of_a_newer_cli_come_back(store: SessionStore) -> None:
    """Unknown types, ids that are no text, keys that hangarlog uses itself."""
    entries = [
        {"type": "of-tomorrow", "uuid": 7, "_version": "x", "crc": "", "entry_json": "{}"},
        {"type": None, "uuid": ["a"]},
    ]
    run(store.append(KEY, entries))
    assert run(store.load(KEY)) == entries


def test_what_has_no_json_form_is_refused(store: SessionStore) -> None:
    """With the error of json.dumps, and without a part of the batch."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        run(store.append(KEY, [entry(1), entry(2, value=b"bytes")]))
    assert run(store.load(KEY)) is None


WRITER = """
import asyncio, sys
from hangarlog.integrations.claude import SessionStore
async def main(path, first):
    store = SessionStore(path)
    for turn in range(first, 10**6):
        entries = [{"type": "user", "uuid": f"u-{turn}-{i}", "turn": turn, "i": i} for i in range(3)]
        await store.append({"project_key": "p", "session_id": "s"}, entries)
        print(f"{turn}.", flush=True)
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_a_killed_writer_loses_no_acknowledged_turn_and_leaves_no_half(tmp_path: Path) -> None:
    """Each time the next process goes on, and repeats the turn that was cut short."""
    path, acknowledged = tmp_path / "store", -1
    for lines in (1, 3, 8, 2):
        said = killed_after(WRITER, lines, path, acknowledged + 1)
        acknowledged = int(said[-1].strip("."))
    store = SessionStore(path)
    turns = [(each["turn"], each["i"]) for each in run(store.load({"project_key": "p", "session_id": "s"}))]
    assert turns == [(turn, i) for turn in range(len(turns) // 3) for i in range(3)]
    assert acknowledged <= turns[-1][0] <= acknowledged + 1
    store.close()


BOTH = """
import asyncio, sys
from hangarlog.integrations.claude import SessionStore
async def main(path, number):
    store = SessionStore(path, durability="relaxed")
    for n in range(100):
        entries = [{"type": "user", "uuid": f"both-{n}"}, {"type": "user", "uuid": f"{number}-{n}"}]
        await store.append({"project_key": "p", "session_id": "s"}, entries)
asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def test_two_processes_on_one_session_lose_and_double_nothing(tmp_path: Path) -> None:
    """Entries that both write are there once, and the last summary is of all."""
    together(BOTH, 2, tmp_path / "store")
    store = SessionStore(tmp_path / "store")
    found = [each["uuid"] for each in run(store.load({"project_key": "p", "session_id": "s"}))]
    assert sorted(found) == sorted(f"{who}-{n}" for n in range(100) for who in ("both", 0, 1))
    for who in ("0", "1"):
        own = [uuid for uuid in found if uuid.startswith(f"{who}-")]
        assert own == [f"{who}-{n}" for n in range(100)]
    store.close()


def test_a_cancelled_append_has_written_all_or_nothing(store: SessionStore) -> None:
    """So a caller that is timed out never leaves half a batch."""

    async def cancelled(turn: int) -> None:
        task = asyncio.ensure_future(store.append(KEY, [entry(2 * turn), entry(2 * turn + 1)]))
        for _ in range(turn % 3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for turn in range(30):
        run(cancelled(turn))
    numbers = [each["n"] for each in run(store.load(KEY)) or []]
    assert numbers == [n for even in numbers[::2] for n in (even, even + 1)]


def test_one_line_of_the_journal_is_one_entry(store: SessionStore, tmp_path: Path) -> None:
    """So tail and jq show a transcript while it grows."""
    run(store.append(KEY, [entry(1, text="\u2028")]))
    (line,) = (tmp_path / "store/journal.jsonl").read_bytes().splitlines(keepends=True)
    assert json.loads(line)["data"]["entry"] == entry(1, text="\u2028")


def test_the_pages_programs_run(tmp_path: Path) -> None:
    """The lines that somebody copies."""
    run_page("claude-agent-sdk.md", tmp_path)
