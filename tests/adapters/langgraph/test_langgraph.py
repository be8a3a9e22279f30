"""LangGraph's checkpoints on hangarlog: its conformance suite, real graphs beside its SQLite saver, hostile input."""

from __future__ import annotations

import asyncio
import importlib
import operator
import pkgutil
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import langgraph.checkpoint.conformance.spec as spec
import pytest
from hostile import NAMES, killed_after, no_file_outside, together
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from pages import run_page

from hangarlog import ANY, EventSerializationError, FileEventStore, UntypedEvent
from hangarlog.integrations.langgraph import Saver

CASES = [
    case
    for module in pkgutil.iter_modules(spec.__path__, f"{spec.__name__}.")
    for name, cases in vars(importlib.import_module(module.name)).items()
    if name.startswith("ALL_")
    for case in cases
]


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[Saver]:
    saver = Saver(tmp_path / "store", durability="relaxed")
    yield saver
    saver.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_conformance(case: Any, saver: Saver) -> None:
    """Each case of langgraph-checkpoint-conformance."""
    asyncio.run(case(saver))


def test_the_validator_finds_every_capability(tmp_path: Path) -> None:
    """Required and optional ones, and all 81 cases pass in one store."""

    @checkpointer_test(name="hangarlog")
    async def ours() -> Any:
        saver = Saver(tmp_path / "store", durability="relaxed")
        yield saver
        saver.close()

    report = asyncio.run(validate(ours))
    assert report.passed_all()
    assert sum(result.tests_passed for result in report.results.values()) == len(CASES) == 81


class State(TypedDict):
    log: Annotated[list[str], operator.add]
    left: int


def graph(saver: Any) -> Any:
    """A graph with a loop, parallel tasks, an interrupt and a subgraph."""
    inner = StateGraph(State)
    inner.add_node("deep", lambda state: {"log": [f"deep {state['left']}"]})
    inner.add_edge(START, "deep")

    def ask(state: State) -> dict:
        return {"log": [f"answer {interrupt('how many?')}"], "left": state["left"] - 1}

    outer = StateGraph(State)
    outer.add_node("spread", lambda state: {"log": ["spread"]})
    outer.add_node("part", lambda state: {"log": [f"part {state['n']}"]})
    outer.add_node("ask", ask)
    outer.add_node("inner", inner.compile())
    outer.add_edge(START, "spread")
    outer.add_conditional_edges("spread", lambda state: [Send("part", {"n": n}) for n in range(3)])
    outer.add_edge("part", "ask")
    outer.add_edge("ask", "inner")
    outer.add_conditional_edges("inner", lambda state: "spread" if state["left"] else END)
    return outer.compile(checkpointer=saver)


def told(compiled: Any, config: dict) -> list[Any]:
    """The history of a thread, with ids as their places in it."""
    history = [*compiled.get_state_history(config)]
    places = {s.config["configurable"]["checkpoint_id"]: n for n, s in enumerate(reversed(history))}
    parent = [s.parent_config and places[s.parent_config["configurable"]["checkpoint_id"]] for s in history]
    tasks = [[(t.name, [i.value for i in t.interrupts], t.result) for t in s.tasks] for s in history]
    metadata = [{k: v for k, v in s.metadata.items() if k != "parents"} for s in history]
    return [[s.values for s in history], [s.next for s in history], metadata, parent, tasks]


def used(saver: Any) -> list[Any]:
    """What a user sees of a graph: runs, interrupts, resumption, time travel, edits, a second thread."""
    compiled, config = graph(saver), {"configurable": {"thread_id": "1"}}
    said: list[Any] = [compiled.invoke({"log": ["start"], "left": 2}, config)["log"], told(compiled, config)]
    said += [compiled.invoke(Command(resume="one"), config)["log"], compiled.get_state(config).next]
    said += [compiled.invoke(Command(resume="two"), config), told(compiled, config)]
    back = [*compiled.get_state_history(config)][4].config
    compiled.update_state(back, {"log": ["edited"], "left": 5})
    said += [told(compiled, config), compiled.get_state(config).values]
    compiled.invoke({"log": ["other"], "left": 1}, {"configurable": {"thread_id": "2"}})
    said += [len([*saver.list(None)]), len([*saver.list(config, limit=3)]), [*saver.list(config, limit=0)]]
    said += [len([*saver.list(config, filter={"source": "update"})]), len([*saver.list(config, before=back)])]
    saver.delete_thread("1")
    return [*said, told(compiled, config), len([*saver.list(None)])]


def test_a_graph_does_the_same_as_with_the_sqlite_saver(saver: Saver, tmp_path: Path) -> None:
    """Answer by answer."""
    with SqliteSaver.from_conn_string(str(tmp_path / "sqlite.db")) as theirs:
        expected = used(theirs)
    assert used(saver) == expected
    assert len(expected[1][0]) > 2


def test_an_event_loop_sees_the_same(saver: Saver) -> None:
    """The asynchronous calls, from many tasks."""
    compiled = graph(saver)

    async def run() -> list[Any]:
        configs = [{"configurable": {"thread_id": str(n)}} for n in range(8)]
        await asyncio.gather(*(compiled.ainvoke({"log": [], "left": 1}, config) for config in configs))
        done = await asyncio.gather(*(compiled.ainvoke(Command(resume=n), config) for n, config in enumerate(configs)))
        listed = [each async for each in saver.alist(configs[0])]
        return [each["log"][-2:] for each in done] + [len(listed)]

    *logs, listed = asyncio.run(run())
    assert logs == [[f"answer {n}", "deep 0"] for n in range(8)]
    assert listed == len([*saver.list({"configurable": {"thread_id": "0", "checkpoint_ns": None}})])


class Changes(TypedDict):
    items: Annotated[list, DeltaChannel(lambda state, writes: (state or []) + [i for w in writes for i in w], list)]


def test_pruning_keeps_what_a_channel_of_changes_needs(saver: Saver, tmp_path: Path) -> None:
    """A DeltaChannel has no value in most checkpoints; its value must be the same after a pruning."""
    builder = StateGraph(Changes)
    builder.add_node("add", lambda state: {"items": [len(state["items"])]})
    builder.add_edge(START, "add")
    compiled, config = builder.compile(checkpointer=saver), {"configurable": {"thread_id": "1"}}
    for _ in range(6):
        compiled.invoke({"items": ["in"]}, config)
    before = compiled.get_state(config).values
    assert len(before["items"]) == 12
    saver.prune(["1"])
    assert compiled.get_state(config).values == before
    assert compiled.invoke({"items": ["in"]}, config)["items"] == [*before["items"], "in", 13]


def put(saver: Saver, thread_id: str, checkpoint_id: str, value: str, parent: str | None = None) -> dict:
    config = {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": parent}}
    checkpoint = {"v": 4, "id": checkpoint_id, "ts": "", "channel_values": {"c": value}, "channel_versions": {},
                  "versions_seen": {}, "updated_channels": None}  # fmt: skip
    return saver.put(config, checkpoint, {"source": "loop", "step": 1, "run_id": f"run-{checkpoint_id}"}, {})


def kept_in_streams(store: Path, secret: str) -> bool:
    """True if a stream's file has a text: values are in base64."""
    forms = [b64encode(b"\0" * shift + secret.encode())[4:-4] for shift in range(3)]
    texts = [path.read_bytes() for path in (store / "streams").rglob("*.jsonl")]
    return any(form in text for form in forms for text in texts)


@pytest.mark.parametrize("how", ["thread", "runs", "prune", "prune all"])
def test_what_is_deleted_is_erased_from_the_streams(how: str, saver: Saver, tmp_path: Path) -> None:
    """Also a checkpoint in the midst of others, with its writes; what stays reads as before."""
    secret = "a secret that nobody may read again"
    config = put(saver, "1", "1", secret)
    saver.put_writes(config, [("c", secret)], "task")
    last = put(saver, "1", "2", "kept", parent="1")
    saver.put_writes(last, [("c", "pending")], "task")
    put(saver, "2", "9", "other")
    assert kept_in_streams(tmp_path / "store", secret)
    {
        "thread": lambda: saver.delete_thread("1"),
        "runs": lambda: saver.delete_for_runs(["run-1"]),
        "prune": lambda: saver.prune(["1"]),
        "prune all": lambda: saver.prune(["1"], strategy="delete"),
    }[how]()
    assert not kept_in_streams(tmp_path / "store", secret)
    found = saver.get_tuple({"configurable": {"thread_id": "1"}})
    if how in ("thread", "prune all"):
        assert found is None
    else:
        assert (found.checkpoint["id"], found.pending_writes) == ("2", [("task", "c", "pending")])
        assert saver.get_tuple(config) is None
    other = saver.get_tuple({"configurable": {"thread_id": "2"}})
    assert other.checkpoint["channel_values"] == {"c": "other"}
    put(saver, "1", "3", "again", parent="2")
    assert saver.get_tuple({"configurable": {"thread_id": "1"}}).checkpoint["id"] == "3"


def test_a_pruning_that_dies_before_the_cut_shows_only_what_was_kept(saver: Saver, monkeypatch: Any) -> None:
    """And a process that comes later sees the same."""
    for number in "123":
        put(saver, "1", number, number)
    monkeypatch.setattr(saver.store, "truncate_stream", lambda *_: None)
    saver.prune(["1"])
    for each in (saver, Saver(saver.store)):
        assert [found.checkpoint["id"] for found in each.list({"configurable": {"thread_id": "1"}})] == ["3"]


def test_writes_that_come_before_their_checkpoint_survive_a_pruning(saver: Saver) -> None:
    """LangGraph stores both at once."""
    put(saver, "1", "1", "a")
    put(saver, "1", "2", "b", parent="1")
    saver.put_writes({"configurable": {"thread_id": "1", "checkpoint_ns": "", "checkpoint_id": "3"}}, [("c", 1)], "t")
    saver.prune(["1"])
    put(saver, "1", "3", "c", parent="2")
    assert saver.get_tuple({"configurable": {"thread_id": "1"}}).pending_writes == [("t", "c", 1)]


def test_another_process_that_prunes_or_deletes_is_noticed(saver: Saver, tmp_path: Path) -> None:
    """What was known of the thread does not count then."""
    for number in "123":
        put(saver, "1", number, number)
    assert saver.get_tuple({"configurable": {"thread_id": "1"}}).checkpoint["id"] == "3"
    with FileEventStore.untyped(tmp_path / "store") as store:
        other = Saver(store)
        other.prune(["1"])
        assert [found.checkpoint["id"] for found in saver.list({"configurable": {"thread_id": "1"}})] == ["3"]
        other.delete_thread("1")
        assert saver.get_tuple({"configurable": {"thread_id": "1"}}) is None
        put(other, "1", "0", "anew")
    assert saver.get_tuple({"configurable": {"thread_id": "1"}}).checkpoint["id"] == "0"


def test_hostile_names_are_kept_apart(tmp_path: Path) -> None:
    """Of threads; namespaces and ids are only data."""
    folder = tmp_path / "alone"
    folder.mkdir()
    saver = Saver(folder / "store", durability="relaxed")
    names = [name for name in NAMES if name != "\ud83d"]
    for name in names:
        put(saver, name, f"id {name}", name)
    for name in names:
        (found,) = saver.list({"configurable": {"thread_id": name}})
        assert found.checkpoint["channel_values"] == {"c": name}
        assert found.config["configurable"]["thread_id"] == name
    assert len([*saver.list(None)]) == len(names)
    saver.close()
    assert no_file_outside(folder, folder / "store")


def test_an_event_of_a_newer_version_is_an_error_that_names_it(saver: Saver) -> None:
    """It may change what the others mean, so it is not passed over."""
    put(saver, "1", "1", "a")
    saver.store.append("langgraph:1", [UntypedEvent("OfTomorrow", {})], ANY)
    with pytest.raises(EventSerializationError, match=r"OfTomorrow.*version 1 of stream 'langgraph:1'.*update"):
        saver.get_tuple({"configurable": {"thread_id": "1"}})


def test_values_can_be_encrypted(tmp_path: Path) -> None:
    """With LangGraph's own serializer; the metadata stays readable, as in its SQLite saver."""

    class Reversed:
        def encrypt(self, text: bytes) -> tuple[str, bytes]:
            return "reversed", text[::-1]

        def decrypt(self, name: str, text: bytes) -> bytes:
            return text[::-1]

    saver = Saver(tmp_path / "store", durability="relaxed", serde=EncryptedSerializer(Reversed()))
    put(saver, "1", "1", "a long secret in a checkpoint")
    assert not kept_in_streams(tmp_path / "store", "a long secret in a checkpoint")
    assert (
        saver.get_tuple({"configurable": {"thread_id": "1"}}).checkpoint["channel_values"]["c"].endswith("checkpoint")
    )
    assert b'"step":1' in (tmp_path / "store/journal.jsonl").read_bytes()
    saver.close()


WRITER = """
import sys
from typing import Annotated, TypedDict
import operator
from langgraph.graph import StateGraph, START
from hangarlog.integrations.langgraph import Saver
class State(TypedDict):
    log: Annotated[list, operator.add]
builder = StateGraph(State)
def step(state):
    print(f"{len(state['log'])}.", flush=True)
    return {"log": [len(state["log"])]}
builder.add_node("step", step)
builder.add_edge(START, "step")
builder.add_conditional_edges("step", lambda state: "step")
graph = builder.compile(checkpointer=Saver(sys.argv[1]))
config = {"configurable": {"thread_id": "1"}, "recursion_limit": 10**6}
graph.invoke(None if graph.get_state(config).next else {"log": []}, config, durability="sync")
"""


def test_a_killed_run_is_resumed_where_it_was(tmp_path: Path) -> None:
    """No step is lost or counted twice, though each process dies in the midst of a turn."""
    began = -1
    for lines in (2, 5, 9):
        said = killed_after(WRITER, lines, tmp_path / "store")
        first, last = int(said[0].strip(".")), int(said[-1].strip("."))
        assert began - 1 <= first <= began + 1  # A step whose checkpoint was not yet there is run again.
        began = last
    saver = Saver(tmp_path / "store")
    log = saver.get_tuple({"configurable": {"thread_id": "1"}}).checkpoint["channel_values"]["log"]
    assert log == [*range(len(log))]
    assert len(log) >= began - 1
    saver.close()


BOTH = """
import sys
from hangarlog.integrations.langgraph import Saver
saver = Saver(sys.argv[1], durability="relaxed")
for n in range(100):
    checkpoint = {"v": 4, "id": f"{n:04}-{sys.argv[2]}", "ts": "", "channel_values": {"n": n}, "channel_versions": {},
                  "versions_seen": {}, "updated_channels": None}
    config = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}
    config = saver.put(config, checkpoint, {"step": n}, {})
    saver.put_writes(config, [("c", n)], "task")
    if n % 40 == 39 and sys.argv[2] == "0":
        saver.prune(["2"])
    assert saver.get_tuple(config).pending_writes == [("task", "c", n)]
"""


def test_two_processes_on_one_thread_lose_nothing(tmp_path: Path) -> None:
    """Both see all checkpoints, each with its own writes."""
    together(BOTH, 2, tmp_path / "store")
    saver = Saver(tmp_path / "store")
    found = [*saver.list({"configurable": {"thread_id": "1"}})]
    assert [each.checkpoint["id"] for each in found] == [f"{n:04}-{who}" for n in range(99, -1, -1) for who in "10"]
    assert all(each.pending_writes == [("task", "c", each.checkpoint["channel_values"]["n"])] for each in found)
    saver.close()


def test_the_pages_programs_run(tmp_path: Path) -> None:
    """The lines that somebody copies."""
    run_page("langgraph.md", tmp_path)
