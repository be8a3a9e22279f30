"""What befalls the store of a thread."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import faults
from langgraph.graph import START, StateGraph

from hangarlog.integrations.langgraph import Saver

CONFIG = {"configurable": {"thread_id": "s"}}


class State(TypedDict):
    turns: Annotated[list[int], operator.add]


def graph(saver: Saver) -> Any:
    builder = StateGraph(State)
    builder.add_node("nothing", lambda state: {"turns": []})
    builder.add_edge(START, "nothing")
    return builder.compile(checkpointer=saver)


class TestFaults(faults.Faults):
    stream = "langgraph:s"

    def open(self, path: Path) -> Saver:
        return Saver(path)

    def add(self, session: Saver, turn: int) -> None:
        graph(session).invoke({"turns": [turn]}, CONFIG, durability="sync")

    def turns(self, session: Saver) -> list[int]:
        return graph(session).get_state(CONFIG).values.get("turns", [])

    def delete(self, session: Saver, folder: Path) -> None:
        session.delete_thread("s")
