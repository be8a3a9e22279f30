"""`hangarlog schema` on defaults of other processes, on a lock that is behind, and on what stored events lose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

from hangarlog import FileEventStore, UntypedEvent

HEAD = """
import datetime, getpass, os, socket, time, uuid
import msgspec
from hangarlog import EventSerializer, UpcasterChain, event

chain = UpcasterChain()
serializer = EventSerializer(chain)
"""
STARTED = """
@event
class Started(msgspec.Struct):
    provider_id: str
    mode: str = "subprocess"
"""
ELSEWHERE = """
class Inner(msgspec.Struct, omit_defaults=True, frozen=True):
    at: float = time.time()

@event
class Started(msgspec.Struct, omit_defaults=True):
    session: str = uuid.uuid4().hex
    day: str = time.strftime("%Y-%m-%d")
    host: str = socket.gethostname()
    user: str = os.environ.get("USER", "nobody")
    process: int = os.getpid()
    names: list[str] = msgspec.field(default_factory=lambda: list({"a", "b", "c", "d", "e"}))
    inner: Inner = Inner()
    plain: int = 3
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose events are in its module `events`."""
    (tmp_path / "pyproject.toml").write_text('[tool.hangarlog]\nevents = "events"\n')
    write(tmp_path, STARTED)
    return tmp_path


def write(project: Path, source: str) -> None:
    (project / "events.py").write_text(HEAD + source)


def fill(project: Path, *payloads: dict[str, Any], version: int = 1) -> None:
    with FileEventStore(project / "s", durability="relaxed") as store:
        events = [UntypedEvent("Started", payload, version) for payload in payloads]
        store.append("a:1", events, store.get_stream_version("a:1"))


def lines(done: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_defaults_that_are_others_in_each_process_are_no_change(hangarlog: Command, project: Path) -> None:
    """The lock has no value of them, is not written again, and passes its own check, whatever the order of sets."""
    write(project, ELSEWHERE)
    assert hangarlog("schema", "lock", PYTHONHASHSEED="1").returncode == 0
    text = (project / "event-schema.json").read_bytes()
    fields = json.loads(text)["events"]["Started"]["schemas"]["1"]["properties"]
    assert {name for name, field in fields.items() if field.get("x-default") == "computed"} == {*fields} - {
        "plain",
        "inner",  # It leaves out its defaults.
    }
    assert fields["plain"]["default"] == 3
    before = (project / "event-schema.json").stat()
    assert hangarlog("schema", "lock", PYTHONHASHSEED="2", USER="somebody").returncode == 0
    after = (project / "event-schema.json").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    for seed in ("0", "1", "3"):
        done = hangarlog("schema", "check", "--locked", PYTHONHASHSEED=seed, USER=f"user{seed}")
        assert (done.returncode, done.stdout) == (0, b"")


def test_a_lock_that_is_behind_fails_a_build_that_asks_for_it(hangarlog: Command, project: Path) -> None:
    """A type or a field that was never locked could be stored, renamed, and be gone."""
    assert hangarlog("schema", "lock").returncode == 0
    assert hangarlog("schema", "check", "--locked").returncode == 0
    for more, said in (
        ("    tags: list[str] = []\n", "the lock has another shape of version 1"),
        ("@event\nclass Stopped(msgspec.Struct):\n    reason: str\n", "it is not in the lock"),
    ):
        write(project, STARTED + more)
        assert hangarlog("schema", "check").returncode == 0
        done = hangarlog("schema", "check", "--locked")
        (finding,) = [finding for finding in lines(done) if finding["fails"]]
        assert (done.returncode, finding["kind"]) == (1, "not locked")
        assert said in finding["message"]
        assert hangarlog("schema", "lock").returncode == 0
        assert hangarlog("schema", "check", "--locked").returncode == 0
        write(project, STARTED)
        (project / "event-schema.json").unlink()
        assert hangarlog("schema", "check", "--locked").returncode == 3
        assert hangarlog("schema", "lock").returncode == 0


def test_stored_names_that_no_class_reads_fail_the_check(hangarlog: Command, project: Path) -> None:
    """Also if no lock ever knew them."""
    fill(project, {"provider_id": "a", "mode": "x"}, {"provider_id": "b", "mode": "x", "kind": "y"})
    hangarlog("schema", "lock")
    done = hangarlog("schema", "check", "s")
    (stored,) = lines(done)
    (loss,) = stored["losses"]
    assert done.returncode == 1
    assert (loss["kind"], loss["path"], loss["count"], loss["position"]) == ("unread", "kind", 1, 2)
    text = hangarlog("schema", "check", "s", "--format", "text").stdout.decode()
    assert "1 of 2 events have 'kind', which no field reads; first at position 2: \"y\"" in text
    done = hangarlog("schema", "lock", "--store", "s")
    assert (done.returncode, lines(done)[0]["kind"]) == (1, "lost")


def test_a_default_that_no_stored_event_needs_may_change(hangarlog: Command, project: Path) -> None:
    """The lock cannot know that; the store does."""
    omitting = STARTED.replace("(msgspec.Struct)", "(msgspec.Struct, omit_defaults=True)")
    write(project, omitting)
    assert hangarlog("schema", "lock").returncode == 0
    fill(project, {"provider_id": "a", "mode": "x"}, {"provider_id": "b", "mode": "y"})
    write(project, omitting.replace("subprocess", "docker"))
    assert hangarlog("schema", "check").returncode == 1
    done = hangarlog("schema", "check", "s")
    assert done.returncode == 0
    finding, stored = lines(done)
    assert stored["losses"] == []
    assert "0 of 2 stored events lack it" in finding["details"][0]
    fill(project, {"provider_id": "c"})
    done = hangarlog("schema", "check", "s")
    finding, stored = lines(done)
    assert (done.returncode, finding["kind"]) == (1, "changed")
    assert stored["losses"][0]["message"] == (
        "1 of 3 events lack 'mode' and are read with its default, \"docker\"; first at position 3"
    )


def test_a_late_lock_learns_from_the_store_which_defaults_events_need(hangarlog: Command, project: Path) -> None:
    """Without it, a field with a default would count as one that was always written."""
    fill(project, {"provider_id": "a", "mode": "x"}, {"provider_id": "b"})
    done = hangarlog("schema", "lock", "--store", "s")
    assert done.returncode == 0
    assert "1 of 2 events lack 'mode'" in lines(done)[0]["message"]
    write(project, STARTED.replace("subprocess", "docker"))
    assert hangarlog("schema", "check").returncode == 1


def test_values_that_the_chain_drops_or_makes_the_same_fail_the_check(hangarlog: Command, project: Path) -> None:
    """Without a lock, which would have told from made-up events."""
    fill(
        project, {"provider_id": "a", "mode": "x"}, {"provider_id": "b", "mode": "y"}, {"provider_id": "C", "mode": "z"}
    )
    raised = STARTED.replace("@event", "@event(version=2)")
    for body, kind, count, fails in (
        ("{**data, 'mode': 'docker'}", "changed", 3, True),
        ("{'provider_id': data['provider_id']}", "dropped", 3, True),
        ("{**data, 'provider_id': data['provider_id'].lower()}", "changed", 1, False),
    ):
        write(project, raised + f"\n@chain.upcaster('Started', 1)\ndef step(data): return {body}\n")
        done = hangarlog("schema", "check", "s")
        (stored,) = lines(done)
        loss = stored["losses"][0]
        assert (loss["kind"], loss["count"], loss["position"] in (1, 3), loss["fails"]) == (kind, count, True, fails)
        assert done.returncode == int(fails)


def test_a_tag_that_a_class_has_lost_is_no_loss(hangarlog: Command, project: Path) -> None:
    """The lock knows that it was one."""
    write(project, STARTED.replace("(msgspec.Struct)", "(msgspec.Struct, tag=True)"))
    hangarlog("schema", "lock")
    fill(project, {"type": "Started", "provider_id": "a", "mode": "x"})
    write(project, STARTED)
    assert hangarlog("schema", "check", "s").returncode == 0


def test_whole_numbers_that_a_float_cannot_hold_fail_the_check(hangarlog: Command, project: Path) -> None:
    fill(project, {"n": 2**53}, {"n": 2**53 + 1}, {"n": 1})
    write(project, "@event\nclass Started(msgspec.Struct):\n    n: float\n")
    done = hangarlog("schema", "check", "s")
    (loss,) = lines(done)[0]["losses"]
    assert (done.returncode, loss["kind"], loss["count"], loss["position"]) == (1, "rounded", 1, 2)


def test_the_verdict_says_what_could_not_be_tried(hangarlog: Command, project: Path) -> None:
    money = "class Money:\n    pass\n"
    hooked = money + STARTED.replace('mode: str = "subprocess"', "mode: Money")
    write(project, hooked)
    hangarlog("schema", "lock")
    write(project, hooked.replace("@event", "@event(version=2)") + "\nchain.upcaster('Started', 1)(dict)\n")
    done = hangarlog("schema", "check", "--format", "text")
    assert done.returncode == 0
    assert "all history can be read, as far as it was tried: 1 could not be, see above" in done.stdout.decode()
