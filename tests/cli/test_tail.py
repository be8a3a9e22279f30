"""`hangarlog tail -f`: where it begins, what it wants, and when it ends by itself."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Command
from test_cli import imported, lines

from hangarlog import EncodedEvent, Envelope, FileEventStore, UntypedEvent
from hangarlog.cli import following
from hangarlog.cli.following import History

__all__ = ["imported"]


def test_a_follower_may_begin_anywhere_and_takes_what_is_wanted(imported: Command, tmp_path: Path) -> None:
    """`--from` counts positions of the store; it needs `-f`, as the filters do not."""
    found = lines(imported("tail", "s", "-n", 3, "--type", "ProviderStarted").stdout)
    expected = lines(imported("read", "s", "--type", "ProviderStarted").stdout)
    assert found == expected[-3:]
    assert len(lines(imported("tail", "s", "--category", "provider", "-n", 9999).stdout)) == len(
        lines(imported("read", "s", "--category", "provider").stdout)
    )
    assert imported("tail", "s", "--from", 3).returncode == 2
    assert imported("tail", "s", "-f", "--from", 999_999).returncode == 1
    command = [sys.executable, "-m", "hangarlog", "tail", str(tmp_path / "s"), "-f", "--from", "700", "--type"]
    follower = subprocess.Popen(
        [*command, "ProviderStarted"], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        assert follower.stdout
        due = [line for line in expected if line["position"] > 700]
        assert [json.loads(follower.stdout.readline()) for _ in due] == due
    finally:
        follower.kill()
        follower.communicate()


def test_a_follower_ends_when_its_reader_has_gone(imported: Command, tmp_path: Path) -> None:
    """By itself, while nothing comes that it would write."""
    follower = subprocess.Popen(
        [sys.executable, "-m", "hangarlog", "tail", str(tmp_path / "s"), "-n", "1", "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert follower.stdout
    assert follower.stderr
    follower.stdout.readline()
    follower.stdout.close()
    assert (follower.wait(60), follower.stderr.read()) == (0, b"")
    follower.stderr.close()


def test_a_named_follower_goes_on_where_it_stopped(imported: Command, tmp_path: Path) -> None:
    """`--name` is a cursor. A killed follower may give the batch that it had printed last again."""
    expected = lines(imported("read", "s").stdout)
    found: list[object] = []
    command = [sys.executable, "-m", "hangarlog", "tail", str(tmp_path / "s"), "-f", "--name", "shipper"]
    for _ in range(2):
        follower = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert follower.stdout
        printed = [follower.stdout.readline() for _ in range(20)]
        follower.kill()
        rest, _ = follower.communicate()
        found += [json.loads(line) for line in [*printed, *rest.splitlines(keepends=True)] if line.endswith(b"\n")]
        (status,) = lines(imported("subscribers", "s").stdout)
        assert 0 < status["position"] <= len(found)
        found = found[: status["position"]]
    assert found == expected[: len(found)]
    assert imported("tail", "s", "--name", "shipper").returncode == 2


def test_a_named_follower_ends_too_when_its_reader_has_gone(imported: Command, tmp_path: Path) -> None:
    """One that waits in line has nothing to write. Then another reader can take over."""
    command = [
        sys.executable,
        "-m",
        "hangarlog",
        "tail",
        str(tmp_path / "s"),
        "-f",
        "--name",
        "shipper",
        "--from",
        "758",
    ]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with FileEventStore.untyped(tmp_path / "s") as store, store.subscribe(name="shipper", timeout=0) as owner:
        assert next(owner).position == 1
        follower = subprocess.Popen(command, **pipes, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert follower.stdout
        assert follower.stderr
        follower.stdout.close()
        with follower.stderr:
            assert (follower.wait(60), follower.stderr.read()) == (0, b"")


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[tuple[Path, Path, subprocess.Popen[bytes]]]:
    """A store of ten events, a copy of it from when there were five, and a follower that has printed all ten."""
    path, older = tmp_path / "s", tmp_path / "older"
    put(path, 5)
    shutil.copytree(path, older)
    put(path, 5)
    follower = subprocess.Popen(
        [sys.executable, "-m", "hangarlog", "tail", "s", "-f", "--from", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert follower.stdout
        assert [position_of(follower.stdout.readline()) for _ in range(10)] == list(range(1, 11))
        yield path, older, follower
    finally:
        follower.kill()
        follower.communicate()


def put(path: Path, count: int) -> None:
    with FileEventStore.untyped(path, durability="relaxed") as store:
        for _ in range(count):
            store.append_at_end("a:1", [UntypedEvent("T", {})])


def position_of(line: bytes) -> int:
    return int(json.loads(line)["position"])


@pytest.mark.parametrize("all_files", [False, True])
def test_a_follower_survives_a_restored_store(
    followed: tuple[Path, Path, subprocess.Popen[bytes]], all_files: bool
) -> None:
    """It says where the older files end, and goes on with what comes after the last event that both have."""
    path, older, follower = followed
    if all_files:
        shutil.copytree(older, path, dirs_exist_ok=True)
    else:
        for name in ("journal.jsonl", "streams/a/1.jsonl"):
            shutil.copy(older / name, path / f"{name}.copied")
            os.replace(path / f"{name}.copied", path / name)
        os.remove(path / "state")
    assert follower.stderr
    assert follower.stdout
    said = follower.stderr.readline().decode()
    assert said == (
        f"hangarlog: older files were put in place of {path}: it ends at position 5 now, and events up to 10 "
        "were seen; going on after position 5\n"
    )
    put(path, 7)
    assert [position_of(follower.stdout.readline()) for _ in range(7)] == list(range(6, 13))


def test_a_follower_says_that_the_folder_was_replaced_and_how_to_go_on(
    followed: tuple[Path, Path, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """As backup.md says how to restore. It goes on after the last event that the store in its place has."""
    path, older, follower = followed
    follower.send_signal(signal.SIGSTOP)  # So that it sees no store that is half in its place.
    os.rename(path, tmp_path / "before")
    shutil.copytree(older, path)
    put(path, 9)
    follower.send_signal(signal.SIGCONT)
    output, errors = follower.communicate(timeout=60)
    assert (follower.returncode, output) == (1, b"")
    assert b"its folder was moved, deleted or replaced while it was open" in errors
    assert errors.endswith(b"events up to position 10 were seen; go on with `hangarlog tail s -f --from 5`\n")


def test_a_follower_says_that_the_folder_is_gone(
    followed: tuple[Path, Path, subprocess.Popen[bytes]],
) -> None:
    path, _, follower = followed
    shutil.rmtree(path)
    output, errors = follower.communicate(timeout=60)
    assert (follower.returncode, output) == (1, b"")
    assert errors.endswith(
        b"when the store is whole and in its place again, go on with `hangarlog tail s -f --from 10`\n"
    )


def test_a_history_that_is_long_is_remembered_in_steps(
    store: FileEventStore[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough to find the last event that an older store has, or one a little before it."""
    monkeypatch.setattr(following, "_RECENT_MARKS", 40)
    monkeypatch.setattr(following, "_OLDER_MARKS", 40)
    for _ in range(300):
        store.append_at_end("a:1", [UntypedEvent("T", {})])
    history = History(store, 0)
    for block in store.envelopes(limit=299):
        for envelope in block:
            history.note([envelope])
    history.note_position(store, 300)
    assert history.holds(store)
    for count in (0, 1, 37, 150, 298, 299):
        older = FileEventStore.untyped(tmp_path / f"older{count}", durability="relaxed")
        for envelope in chain.from_iterable(store.envelopes(limit=count)):
            event = EncodedEvent("T", envelope.data, envelope.event_id, recorded_at=envelope.recorded_at)
            older.append_at_end("a:1", [event])
        again = copy.deepcopy(history)
        assert not again.holds(older)
        found = again.go_back(older)
        assert found is not None
        assert 0 <= count - found < (1 if count > 250 else 8)
        assert again.holds(older)
    other = FileEventStore.untyped(tmp_path / "other", durability="relaxed")
    other.append_at_end("b:1", [UntypedEvent("T", {})])
    begun_later = History(store, 1)
    assert begun_later.go_back(other) is None


def test_a_named_follower_of_a_restored_store_says_how_to_go_on(tmp_path: Path) -> None:
    """Its cursor does not go back by itself. That of the older store may be the right one."""
    path, older = tmp_path / "s", tmp_path / "older"
    put(path, 5)
    shutil.copytree(path, older)
    put(path, 5)
    printed: list[int] = []

    def write(envelope: Envelope, line: bytes) -> None:
        printed.append(envelope.position)
        if len(printed) == 10:
            shutil.copytree(older, path, dirs_exist_ok=True)

    filters: following.Filters = {"event_types": None, "category": None}
    with (
        FileEventStore.untyped(path, durability="relaxed") as store,
        pytest.raises(
            following.FollowingError, match="events up to position 10 were printed; run the same command"
        ) as e,
    ):
        following.follow_named(store, "a:1", 0, filters, [], write, str(path), "shipper")
    assert printed == list(range(1, 11))
    assert str(e.value).endswith(f"begin another one: `hangarlog tail {path} a:1 -f --from 5 --name NAME`")
