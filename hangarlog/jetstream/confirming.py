"""Confirms what a leader has answered. One that is cut off goes on answering for a while, with old data.

Whoever becomes leader needs the votes of most servers, and each of them knows its term from then on. So if most of them
say, after an answer, that they have the term of the leader that gave it, there was no newer leader at that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

_SECONDS = 2.0
_HEARD_NANOSECONDS = 2e9
"""A leader hears of its followers every second. They elect another one when they have heard of none for four."""


def is_followed(cluster: dict[str, Any]) -> bool:
    """True if a leader, by its own description, has heard of most servers of its group lately."""
    followers = cluster.get("replicas") or []
    near = sum(0 < each.get("active", 0) < _HEARD_NANOSECONDS for each in followers)
    return bool(2 * (near + 1) > len(followers) + 1)


class Majority:
    """Asks the monitoring addresses of servers for the state of a JetStream stream's raft group."""

    def __init__(self, monitors: Sequence[str], account: str) -> None:
        self._monitors, self._account = monitors, account

    async def confirms(self, cluster: dict[str, Any]) -> bool:
        """True if the server that has given this description of itself as the leader was the leader then."""
        group, size = cluster.get("raft_group"), 1 + len(cluster.get("replicas") or ())
        asking = [asyncio.create_task(self._ask(url, str(group))) for url in self._monitors]
        nodes: dict[str, dict[str, Any]] = {}  # By the name of a member: several addresses may lead to one server.
        try:
            for done in asyncio.as_completed(asking):
                node = await done
                if node:
                    nodes[node["id"]] = node
                if _is_confirmed(list(nodes.values()), cluster, size):
                    return True
        finally:
            for task in asking:
                task.cancel()
        return False

    async def _ask(self, url: str, group: str) -> dict[str, Any] | None:
        """Return what one server knows of the group, None if it says nothing."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, TimeoutError):
            path = f"/raftz?acc={quote(self._account)}&group={quote(group)}"
            found = json.loads(await asyncio.wait_for(_get(url.rstrip("/") + path), _SECONDS))
            node: dict[str, Any] = found[self._account][group]
            return node if isinstance(node["id"], str) else None
        return None


def _is_confirmed(nodes: list[dict[str, Any]], cluster: dict[str, Any], size: int) -> bool:
    since = cluster.get("leader_since")
    for leader in nodes:
        if leader.get("state") == "LEADER" and since and leader.get("leader_since") == since:
            own = leader.get("term"), leader["id"]
            return 2 * sum((node.get("term"), node.get("leader")) == own for node in nodes) > size
    return False


async def _get(url: str) -> bytes:
    """Return the body of a page. `urllib` would need a thread for each server that does not answer."""
    parts = urlsplit(url)
    secure = ssl.create_default_context() if parts.scheme == "https" else None
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or (443 if secure else 80), ssl=secure)
    try:
        writer.write(f"GET {parts.path}?{parts.query} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        return (await reader.read()).partition(b"\r\n\r\n")[2]
    finally:
        writer.close()
