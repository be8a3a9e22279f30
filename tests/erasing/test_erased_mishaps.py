"""Crashes, copies, damage and lost files around erased events: what streams show is never lost, what they hide never
comes back.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dying import Died, DyingFileSystem
from erased_stores import (
    CUT,
    GONE,
    KEPT,
    ROUNDS,
    SHOWN,
    TRUNCATED_AT,
    check,
    erase,
    erased,
    filled,
    hide,
    journal,
    numbers,
    opened,
    texts,
    with_secret,
)

from hangarlog import ANY, CorruptionError, UntypedEvent
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify, verify_folder
from hangarlog.testing import Recording, crash_states

pytestmark = pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")

FORMS = pytest.mark.parametrize("form", ["plain", "compressed"])


def in_form(path: Path, form: str, **options: Any) -> None:
    """Fill a store, hide four streams, and close it. Nothing is erased yet."""
    with filled(path, **options) as store:
        hide(store)
        if form == "compressed":
            store.compress()


def without_caches(path: Path) -> None:
    for name in ("state", "catalog", "checkpoint.json"):
        (path / name).unlink(missing_ok=True)


def without_streams(path: Path) -> None:
    shutil.rmtree(path / "streams")


def without_hidden_streams(path: Path) -> None:
    for file in path.glob("streams/person/[123]*"):
        file.unlink()


def repaired(path: Path) -> None:
    list(repair(path))


def then(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    def all_of_them(path: Path) -> None:
        for step in steps:
            step(path)

    return all_of_them


def copied(path: Path) -> None:
    shutil.copytree(path, path.with_name("copy"))
    shutil.rmtree(path)
    path.with_name("copy").rename(path)


def backed_up(path: Path) -> None:
    backup(path, path.with_name("backup"))
    shutil.rmtree(path)
    path.with_name("backup").rename(path)


def without_a_line_of_the_journal(path: Path) -> None:
    """The line of an event that is shown: the streams have it."""
    for file in sorted(path.glob("journal.0*.jsonl")):
        lines = file.read_bytes().split(b"\n")
        at = next((n for n, line in enumerate(lines) if b"person:4" in line), None)
        if at is not None:
            lines[at] = lines[at].replace(b"Grace", b"Ghost", 1)
            file.write_bytes(b"\n".join(lines))
            return


LATER: dict[str, Callable[[Path], None]] = {
    "its caches are deleted": without_caches,
    "its streams are deleted": without_streams,
    "its streams and caches are deleted": then(without_streams, without_caches),
    "its hidden streams are deleted": without_hidden_streams,
    "its hidden streams and caches are deleted": then(without_hidden_streams, without_caches),
    "it is repaired": repaired,
    "its streams are deleted, and it is repaired": then(without_streams, repaired),
    "it is copied": copied,
    "it is copied without caches": then(without_caches, copied),
    "its hidden streams are deleted, and it is copied": then(without_hidden_streams, without_caches, copied),
    "it is backed up": backed_up,
    "a line of its journal is damaged, and it is repaired": then(without_a_line_of_the_journal, repaired),
    "its journal is damaged, without caches, and repaired": then(
        without_a_line_of_the_journal, without_caches, repaired
    ),
}


@pytest.mark.parametrize("least", [0.0, 0.6])
@pytest.mark.parametrize("later", LATER)
def test_nothing_brings_erased_events_back(tmp_path: Path, later: str, least: float) -> None:
    """Nor takes what is shown. With some segments that are not written anew, a stream's journal is of both kinds."""
    path = tmp_path / "s"
    with filled(path) as store:
        store.truncate_stream(CUT, TRUNCATED_AT)
        store.truncate_stream(GONE, 3)
        assert erase(store, least=0.0).segments
        hide(store)
        erase(store, least=least)
    hidden = with_secret(path)
    LATER[later](path)
    with opened(path) as store:
        hide(store)  # It takes up the streams' files, as a writer does.
        for stream_id in (KEPT, "other:1"):
            store.truncate_stream(stream_id, 0)
        check(store, journal_too=not least)
        assert store.append(GONE, [UntypedEvent("T", {"n": 0})], ROUNDS - 1) == ROUNDS
        assert store.append(KEPT, [UntypedEvent("T", {"n": 0})], ROUNDS - 1) == ROUNDS
    assert list(verify_folder(path)) == []
    assert with_secret(path) <= hidden


@FORMS
@pytest.mark.usefixtures("ring_at_once")
def test_a_power_cut_at_every_step(tmp_path: Path, form: str) -> None:
    """Whatever is lost, everything that is shown is there, and the next run ends it.

    At the last run there is a checkpoint, and an append is durable only in the ring.
    """
    path = tmp_path / "s"
    in_form(path, form, durability="always")
    recording = Recording(path)
    with opened(path, filesystem=recording, durability="always") as store:
        store.append(KEPT, [UntypedEvent("Named", {"n": ROUNDS})], ROUNDS - 1)
        erase(store, least=0.0)
        recording.note("erased")
        for n in (1, 2):
            store.append(KEPT, [UntypedEvent("Named", {"n": ROUNDS + n})], ROUNDS + n - 1)
            recording.note(ROUNDS + n)
        erase(store, least=0.0)
    erased_states = 0
    for number, state in enumerate(crash_states(recording.operations, random.Random(3), 2)):
        where = tmp_path / "crashed"
        where.mkdir()
        state.write_to(where)
        with opened(where) as store:
            left = journal(store)
            durable = max([ROUNDS - 1, *(n for n in state.notes if n != "erased")])
            assert left[KEPT][: durable + 1] == [*range(durable + 1)], (state.at, state.lost)
            assert [n for n in left[CUT] if n >= TRUNCATED_AT] == SHOWN[CUT]
            for stream_id in (GONE, CUT):
                assert numbers(store, stream_id) == SHOWN[stream_id], (state.at, state.lost)
            assert list(verify(store)) == [], (state.at, state.lost)
            if "erased" in state.notes:
                assert not left.get(GONE), (state.at, state.lost)
                erased_states += 1
            erase(store, least=0.0)
            assert not journal(store).get(GONE)
            assert list(verify(store)) == [], (state.at, state.lost)
        if number % 10 == 0:
            assert with_secret(where) == set(), (state.at, state.lost)
        shutil.rmtree(where)
    assert erased_states


@FORMS
def test_a_death_at_every_call(tmp_path: Path, form: str) -> None:
    """The process dies, the machine goes on; a file by file copy at that moment opens, too."""
    made, at = tmp_path / "made", 0
    in_form(made, form)
    while True:
        path = tmp_path / f"died-{at}"
        shutil.copytree(made, path)
        filesystem = DyingFileSystem()
        store = opened(path, filesystem=filesystem)
        filesystem.at, filesystem.calls, filesystem.share = at, 0, 0.5
        died = False
        try:
            erase(store, least=0.0)
        except Died:
            died = True
        shutil.copytree(path, tmp_path / f"copy-{at}")
        filesystem.at = None
        for where in (tmp_path / f"copy-{at}", path):
            with opened(where) as other:
                check(other, journal_too=not died)
                erase(other, least=0.0)
                check(other)
            assert with_secret(where) == set()
            assert not [*where.glob("*.erased")]
        store.close()
        shutil.rmtree(path)
        shutil.rmtree(tmp_path / f"copy-{at}")
        if not died:
            break
        at += 1
    assert at > 40


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [{here!r}, {tests!r}]
from erased_stores import erase, opened
with opened(Path(sys.argv[1])) as store:
    print("go", flush=True)
    erase(store, least=0.0)
print("done", flush=True)
"""


@FORMS
def test_a_kill_in_the_middle(tmp_path: Path, form: str) -> None:
    made, path = tmp_path / "made", tmp_path / "s"
    in_form(made, form)
    here = Path(__file__).parent
    program = KILLED.format(here=str(here), tests=str(here.parent))
    rng, killed = random.Random(9), 0
    for _ in range(12):
        shutil.copytree(made, path)
        with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE) as child:
            assert child.stdout
            child.stdout.readline()
            with opened(path) as other:
                for _ in range(rng.randrange(60)):
                    list(other.read_all())
            child.send_signal(signal.SIGKILL)
            killed += child.wait() == -signal.SIGKILL
        with opened(path) as store:
            check(store, journal_too=False)
            erase(store, least=0.0)
            check(store)
        shutil.rmtree(path)
    assert os.name == "nt" or killed


@FORMS
def test_a_copy_whose_files_are_of_different_moments(tmp_path: Path, form: str) -> None:
    """Each file from before or after the erasing: it opens, or one repair makes it open, and what is shown is there."""
    before, after = tmp_path / "before", tmp_path / "after"
    rng = random.Random(1)
    in_form(before, form)
    shutil.copytree(before, after)
    with opened(after) as store:
        erase(store, least=0.0)
    for number in range(25):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(before, copy)
        for file in sorted(after.rglob("*")):
            if file.is_file() and rng.random() < 0.5:
                shutil.copy2(file, copy / file.relative_to(after))
        try:
            with opened(copy) as store:
                check(store, journal_too=False)
        except CorruptionError:
            repaired(copy)
        with opened(copy) as store:
            check(store, journal_too=False)
            erase(store, least=0.0)
            check(store)


def test_a_copy_without_the_marks_keeps_what_its_streams_show(tmp_path: Path) -> None:
    """Its streams and snapshots are from before the deletion, its journal from after the erasing."""
    path, old = tmp_path / "s", tmp_path / "old"
    filled(path).close()
    shutil.copytree(path, old)
    with opened(path) as store:
        hide(store)
        erase(store, least=0.0)
    for name in ("streams", "snapshots", "deleted"):
        shutil.rmtree(path / name)
        if (old / name).exists():
            shutil.copytree(old / name, path / name)
    without_caches(path)
    with opened(path) as store:
        for stream_id in SHOWN:
            assert numbers(store, stream_id) == [*range(ROUNDS)], stream_id
        damage = list(verify(store))
        assert damage
        assert all("no mark hides" in each.cause for each in damage)
    list(repair(path))
    with opened(path) as store:
        assert list(verify(store)) == []
        for stream_id in SHOWN:
            assert numbers(store, stream_id) == [*range(ROUNDS)]
            assert journal(store)[stream_id] == [*range(ROUNDS)]


def test_a_lost_mark_is_made_anew(tmp_path: Path) -> None:
    """Nothing is left that could be shown: a repair says from where on the stream is."""
    path = tmp_path / "s"
    with erased(path) as store:
        (path / "snapshots/person/3.json").unlink()
        assert [damage for damage in verify(store) if "no mark hides" in damage.cause]
    list(repair(path))
    with opened(path) as store:
        check(store)


@FORMS
def test_damage_in_a_rewritten_segment(tmp_path: Path, form: str) -> None:
    """What is shown comes from its stream; a repair mends it. An erased line that rots is a lost event, named."""
    made, path, rng = tmp_path / "made", tmp_path / "s", random.Random(4)
    with erased(made) as store:
        if form == "compressed":
            store.compress()
    names = [file.name for file in sorted(made.glob("journal.0*.jsonl*"))]
    for _ in range(25):
        shutil.copytree(made, path)
        file = path / rng.choice(names)
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content) - 1)] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        for _ in range(2):
            with opened(path) as store:
                found: dict[str, list[int]] = {}
                for _, stream_id, event in store.read_all(on_damage="skip"):
                    found.setdefault(stream_id, []).append(event.data["n"])
                assert {name: found.get(name, []) for name in SHOWN} == SHOWN
                assert [numbers(store, stream_id) for stream_id in SHOWN] == [*SHOWN.values()]
            repaired(path)
        shutil.rmtree(path)


def test_a_damaged_segment_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s"
    in_form(path, "plain")
    file = sorted(path.glob("journal.0*.jsonl"))[1]
    content = file.read_bytes().replace(b"Lovelace", b"lovelace", 1)
    file.write_bytes(content)
    with opened(path) as store:
        done = erase(store, least=0.0)
        assert done.damaged == [str(file)]
        assert file.read_bytes() == content


def test_an_erased_line_that_somebody_has_changed_is_damage(tmp_path: Path) -> None:
    """With a right checksum, too: an erased line has nothing to say."""
    path = tmp_path / "s"
    from hangarlog.record.checksum import crc32

    with erased(path):
        pass
    file = next(file for file in sorted(path.glob("journal.0*.jsonl")) if b"\t" in file.read_bytes())
    lines = file.read_bytes().split(b"\n")
    at = next(n for n, line in enumerate(lines) if b"\t" in line)
    body = lines[at].rpartition(b',"crc"')[0].replace(b'"data":{}', b'"data":{"n":1}')
    lines[at] = b'%b,"crc":"%08x"}' % (body, crc32(body))
    file.write_bytes(b"\n".join(lines))
    assert list(verify_folder(path))


@pytest.mark.parametrize("erased_before", [False, True])
def test_a_compressed_twin_with_what_was_erased_goes(tmp_path: Path, erased_before: bool) -> None:
    """A compression was killed, or somebody has unpacked the file: both forms are there."""
    path = tmp_path / "s"
    in_form(path, "compressed")
    both = {file: file.read_bytes() for file in path.glob("journal.0*.zst")}
    if erased_before:
        with opened(path) as store:
            erase(store, least=0.0)
    for file, content in both.items():
        file.with_suffix("").write_bytes(texts(path)[file.name][len(file.read_bytes()) :])
        file.write_bytes(content)
    assert with_secret(path)
    without_caches(path)
    with opened(path) as store:
        check(store, journal_too=erased_before)
        erase(store, least=0.0)
        check(store)
    assert with_secret(path) == set()


@pytest.mark.usefixtures("ring_at_once")
def test_the_ring_goes_only_when_the_journal_has_it(tmp_path: Path) -> None:
    """An append that is durable only in the ring survives a power cut."""
    path = tmp_path / "s"
    with filled(path, durability="always") as store:
        hide(store)
        erase(store, least=0.0)
    recording = Recording(path)
    with opened(path, filesystem=recording, durability="always", segment_bytes=1_200) as store:
        for n in (0, 1):
            store.append("new:1", [UntypedEvent("Named", {"n": n})], ANY)
            recording.note(n)
        assert b"new:1" in (path / "ring").read_bytes()
        erase(store, least=0.0)
        assert not (path / "ring").exists()
        recording.note("gone")
    seen = 0
    for state in crash_states(recording.operations, random.Random(3), 5):
        if 1 in state.notes:
            where = tmp_path / "crashed"
            where.mkdir()
            state.write_to(where)
            with opened(where) as store:
                assert numbers(store, "new:1") == [0, 1], (state.at, state.lost)
            shutil.rmtree(where)
            seen += 1
    assert seen


def test_a_power_cut_leaves_no_index_of_what_was_erased(tmp_path: Path) -> None:
    """Whatever of the caches and of the new text reaches the device."""
    path = tmp_path / "s"
    with opened(path, segment_bytes=80_000) as store:
        for n in range(70):
            store.append(f"s:{n % 2}", [UntypedEvent("T", {"n": n, "text": "x" * 3_000})], ANY)
        store.delete_stream("s:1")
    assert len([*path.glob("journal.0*.index")]) > 1
    recording = Recording(path)
    with opened(path, filesystem=recording) as store:
        erase(store)
    for state in crash_states(recording.operations, random.Random(3), 2):
        where = tmp_path / "crashed"
        where.mkdir()
        state.write_to(where)
        with opened(where) as store:
            assert numbers(store, "s:0") == [*range(0, 70, 2)]
            assert journal(store)["s:0"] == [*range(0, 70, 2)]
            assert list(verify(store)) == [], (state.at, state.lost)
        shutil.rmtree(where)


def test_a_recovery_takes_nothing_from_a_stream_because_the_journal_has_erased_it(tmp_path: Path) -> None:
    """The stream is from before the deletion and has lost its end, so that it is to be written anew."""
    path, old = tmp_path / "s", tmp_path / "old"
    filled(path, segment_bytes=2_000).close()
    shutil.copytree(path, old)
    with opened(path) as store:
        store.truncate_stream(CUT, TRUNCATED_AT)
        erase(store, least=0.0)
    for file in path.glob("streams/person/3*"):
        file.unlink()
    (path / "snapshots/person/3.json").unlink()
    text = b"".join(file.read_bytes() for file in sorted(old.glob("streams/person/3.*")))
    lines = text.splitlines(keepends=True)
    assert len(lines) == ROUNDS
    (path / "streams/person/3.jsonl").write_bytes(b"".join(lines[:5]) + lines[6])
    without_caches(path)
    for mend in (False, True):
        if mend:
            repaired(path)
        with opened(path) as store:
            assert numbers(store, CUT) == [*range(ROUNDS)]
            assert bool(list(verify(store))) is not mend


def test_a_repair_prefers_what_is_erased(tmp_path: Path) -> None:
    """A stream may have whole lines of hidden events, as a deletion leaves it that was cut short."""
    path, old = tmp_path / "s", tmp_path / "old"
    filled(path).close()
    shutil.copytree(path, old)
    with opened(path) as store:
        hide(store)
        erase(store, least=0.0)
    for file in path.glob("streams/person/1*"):
        file.unlink()
    for file in old.glob("streams/person/1*"):
        shutil.copy(file, path / "streams/person")
    without_a_line_of_the_journal(path)
    repaired(path)
    for kept in [*path.rglob("*.damaged*")]:
        kept.unlink()
    with opened(path) as store:
        hide(store)
        check(store)
    assert with_secret(path) == set()
