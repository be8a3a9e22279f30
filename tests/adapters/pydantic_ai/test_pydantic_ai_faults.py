"""What befalls the store of a conversation."""

from __future__ import annotations

import asyncio
from pathlib import Path

import faults
from pydantic_ai import Agent
from pydantic_ai.conversation import Conversation

from hangarlog.integrations.pydantic_ai import ConversationStore

AGENT = Agent("test")


class TestFaults(faults.Faults):
    stream = "pydantic-ai:s"

    def open(self, path: Path) -> ConversationStore:
        return ConversationStore(path)

    def add(self, session: ConversationStore, turn: int) -> None:
        async def run() -> None:
            conversation = await session.load("s") or Conversation(conversation_id="s")
            await session.save(await AGENT.run(str(turn), conversation=conversation))

        asyncio.run(run())

    def turns(self, session: ConversationStore) -> list[int]:
        found = asyncio.run(session.load("s"))
        parts = [part for message in (found.messages if found else []) for part in message.parts]
        return [int(part.content) for part in parts if part.part_kind == "user-prompt"]
