"""Made-up transcripts as Claude Code and Codex write them, and the damage that their users report."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

SESSION = "0b4f1c9e-58a1-4d0e-9a53-6f2d1c7e8a10"
ROLLOUT = "rollout-2026-11-02T10-00-07-019a4b7e-3c1d-7f52-8a40-5d2e9b6c1f03"


def claude_lines(count: int = 40, seed: int = 1, session: str = SESSION) -> list[bytes]:
    """The lines of a session: prompts, answers, tools and their results, snapshots and a summary."""
    made, parent, lines = random.Random(seed), None, list[bytes]()
    for number in range(count):
        uuid = str(UUID(int=made.getrandbits(128), version=4))
        head = {
            "parentUuid": parent,
            "isSidechain": False,
            "userType": "external",
            "cwd": "/home/ada/engine",
            "sessionId": session,
            "version": "2.1.31",
            "gitBranch": "main",
        }
        end = {"uuid": uuid, "timestamp": f"2026-11-02T10:{number // 60:02}:{number % 60:02}.{number:03}Z"}
        body: dict[str, object]
        if number % 10 == 9:
            message_id = str(UUID(int=made.getrandbits(128), version=4))
            body = {"type": "file-history-snapshot", "messageId": message_id, "isSnapshotUpdate": False}
            body["snapshot"] = {"messageId": message_id, "trackedFileBackups": {}, "timestamp": end["timestamp"]}
            head, end = {}, {}
        elif number % 4 == 0:
            body = {"type": "user", "message": {"role": "user", "content": f"what does step {number} do? „naïve“ 🜚"}}
        elif number % 4 == 1:
            use = {"type": "tool_use", "id": f"toolu_{number}", "name": "Read", "input": {"file_path": "/a b/c.py"}}
            blocks = [{"type": "text", "text": 'see {"a": 1} and\n\tmore'}, use]
            usage = {"input_tokens": number, "cache_read_input_tokens": 12_000, "output_tokens": 1}
            message = {"id": f"msg_{number}", "role": "assistant", "content": blocks, "usage": usage}
            body = {"type": "assistant", "message": message, "requestId": f"req_{number}"}
        elif number % 4 == 2:
            result = {
                "type": "tool_result",
                "tool_use_id": f"toolu_{number - 1}",
                "content": "x = 1\n" * made.randrange(90),
            }
            body = {"type": "user", "message": {"role": "user", "content": [result]}}
            body["toolUseResult"] = {"type": "text", "file": {"filePath": "/a b/c.py", "numLines": 1}}
        else:
            body = {"type": "system", "subtype": "turn_duration", "durationMs": made.randrange(9999), "isMeta": False}
        parent = uuid if end else parent
        lines.append(_line(head | body | end))
    lines.insert(0, _line({"type": "summary", "summary": "Reading a file", "leafUuid": parent}))
    return lines


def codex_lines(count: int = 40, seed: int = 1) -> list[bytes]:
    """The lines of a rollout: its head, contexts of turns, items of answers, messages for the screen."""
    made, lines = random.Random(seed), list[bytes]()

    def add(kind: str, payload: dict[str, object]) -> None:
        at = f"2026-11-02T10:{len(lines) // 60:02}:{len(lines) % 60:02}.{made.randrange(1000):03}Z"
        lines.append(_line({"timestamp": at, "type": kind, "payload": payload}))

    add("session_meta", {"id": ROLLOUT[-36:], "cwd": "/home/ada/engine", "originator": "codex_cli_rs", "git": {}})
    while len(lines) < count:
        number = len(lines)
        if number % 5 == 1:
            add("turn_context", {"cwd": "/home/ada/engine", "approval_policy": "on-request", "model": "gpt-5.2-codex"})
        elif number % 5 == 2:
            content = [{"type": "input_text", "text": f"run step {number}\n" * made.randrange(1, 60)}]
            add("response_item", {"type": "message", "role": "user", "content": content})
        elif number % 5 == 3:
            call = {
                "type": "function_call",
                "name": "shell",
                "arguments": '{"command":["ls"]}',
                "call_id": f"c{number}",
            }
            add("response_item", call)
        elif number % 5 == 4:
            add("response_item", {"type": "function_call_output", "call_id": f"c{number - 1}", "output": "README.md\n"})
        else:
            add("event_msg", {"type": "token_count", "info": {"total_token_usage": {"input_tokens": 7}}})
    return lines


def plain_lines(count: int = 40, seed: int = 1) -> list[bytes]:
    """The lines of a program's own log."""
    made = random.Random(seed)
    return [
        _line(
            {
                "ts": f"2026-11-02T10:00:{number:02}+02:00",
                "event": "stepped",
                "n": number,
                "s": "y" * made.randrange(99),
            }
        )
        for number in range(count)
    ]


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


MAKERS: dict[str, Callable[..., list[bytes]]] = {"claude": claude_lines, "codex": codex_lines, "jsonl": plain_lines}


def places(folder: Path, kind: str) -> Path:
    """The path that a transcript of each kind has in its program's folder."""
    inner = {
        "claude": f"projects/-home-ada-engine/{SESSION}",
        "codex": f"sessions/2026/11/02/{ROLLOUT}",
        "jsonl": "app",
    }
    path = folder / f"{inner[kind]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def damaged(lines: list[bytes], made: random.Random) -> tuple[bytes, list[bytes]]:
    """A text of these lines as crashes and writers at once leave it, and the lines that are whole in it."""
    text, whole, rest = list[bytes](), list[bytes](), b""
    for number, line in enumerate(lines):
        cut = made.randrange(2, len(line) - 1)
        kind = 8 if number in (0, len(lines) - 1) else made.choice([2, 5, 6]) if rest else made.randrange(9)
        if kind == 0:  # A kill within the write: the next record is glued onto the torn one.
            text.append(line[:cut])
        elif kind == 1:  # Another writer came between the two parts of the write.
            text.append(line[:cut])
            rest = line[cut:] + b"\n"
            continue
        elif kind == 2:  # The newline was lost.
            text.append(line)
            whole.append(line)
        elif kind == 3:  # A block of zeros, as after a crash of the machine.
            text += [b"\0" * made.randrange(1, 5000), line, b"\n"]
            whole.append(line)
        elif kind == 4:  # Its beginning is gone.
            text += [b"\n", line[cut:], b"\n"]
        else:
            text += [line, b"\r\n" if kind == 5 else b"\n"]
            whole.append(line)
        if rest:
            text.append(rest)
            rest = b""
    tail = made.choice([b"", b"\0" * 4096, lines[1][: len(lines[1]) // 2]])
    return b"".join([*text, tail]), whole
