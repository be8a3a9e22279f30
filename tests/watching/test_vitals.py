"""The vital signs of a store: true, read without a lock or a write, and partial where something is damaged."""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Added, Command, tool
from watched_stores import snapshot

from hangarlog import ANY, FileEventStore, StoreOpenError
from hangarlog.system.filesystem import FileSystem
from hangarlog.watching.durations import BOUNDS_SECONDS, SyncTimes
from hangarlog.watching.vitals import Vitals, read_vitals


def filled(path: Path, events: int = 30, **options: object) -> Path:
    with FileEventStore(path, durability="relaxed", segment_bytes=3000, **options) as store:  # type: ignore[arg-type]
        for number in range(events):
            store.append(f"a:{number % 3}", [Added(number)], ANY)
        store.cursor("mailer").advance(10)
        store.cursor("other").advance(events)
    return path


def test_they_are_those_of_the_store(tmp_path: Path) -> None:
    path = filled(tmp_path / "s")
    vitals = read_vitals(path, files=True, largest=2)
    assert vitals.problems == ()
    assert (vitals.committed, vitals.first, vitals.events, vitals.state.is_open) == (30, 1, 30, False)
    assert vitals.meta
    assert vitals.meta.segment_bytes == 3000
    journal = [file.stat().st_size for file in path.glob("journal*.jsonl")]
    assert vitals.journal
    assert (vitals.journal.segments, vitals.journal.bytes) == (len(journal), sum(journal))
    assert vitals.state.written_bytes == sum(journal)
    assert [(each.name, each.position, each.lag) for each in vitals.subscribers] == [
        ("mailer", 10, 20),
        ("other", 30, 0),
    ]
    assert vitals.files
    streams = {name: sum(f.stat().st_size for f in path.glob(f"streams/a/{name}.*jsonl")) for name in "012"}
    assert vitals.files.parts["streams"].bytes == sum(streams.values())
    assert sum(part.files for part in vitals.files.parts.values()) == sum(file.is_file() for file in path.rglob("*"))
    assert sum(part.bytes for part in vitals.files.parts.values()) == sum(
        file.stat().st_size for file in path.rglob("*") if file.is_file()
    )
    assert vitals.files.streams == 3
    largest = sorted(streams, key=lambda name: (-streams[name], name))[:2]
    assert [(each.name, each.bytes) for each in vitals.files.largest] == [(f"a:{n}", streams[n]) for n in largest]


def test_while_a_writer_has_it_open(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        for number in range(3):
            store.append("a:1", [Added(number)], ANY)
        vitals = read_vitals(tmp_path / "s")
        assert (vitals.state.is_open, vitals.state.is_believed) == (True, True)
        assert (vitals.committed, vitals.unsynced) == (3, 3)
        store.sync()
        vitals = read_vitals(tmp_path / "s")
        assert (vitals.unsynced, vitals.state.syncs and vitals.state.syncs.count) == (0, 1)
        with store.subscribe(0, name="mailer", timeout=0) as subscription:
            assert len(list(subscription)) == 3
            (mailer,) = read_vitals(tmp_path / "s").subscribers
            assert (mailer.is_owned, mailer.owner) == (True, os.getpid())
        (mailer,) = read_vitals(tmp_path / "s").subscribers
        assert (mailer.is_owned, mailer.owner) == (False, None)


def test_the_age_of_what_a_subscriber_has_not_processed(tmp_path: Path) -> None:
    path = filled(tmp_path / "s")
    found = {each.name: each.lag_seconds for each in read_vitals(path).subscribers}
    assert found["other"] == 0
    assert found["mailer"] is not None
    assert 0 < found["mailer"] < 3600


@pytest.mark.parametrize("open_", [True, False])
def test_reading_them_changes_and_locks_nothing(tmp_path: Path, open_: bool) -> None:
    """Seen from outside: by the system calls of a process of its own."""
    strace = tool("strace")
    path = filled(tmp_path / "s")
    opened = FileEventStore(path) if open_ else None
    before = snapshot(path)
    program = "import sys; from hangarlog.watching.vitals import read_vitals; read_vitals(sys.argv[1], files=True)"
    trace = tmp_path / "trace"
    subprocess.run(
        [strace, "-f", "-o", trace, sys.executable, "-c", program, path],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    text = trace.read_text()
    calls = text[text.index("hangarlog.json") :]
    assert "/state" in calls or '"state"' in calls
    for call in calls.splitlines():
        assert not any(
            word in call for word in ("O_RDWR", "O_WRONLY", "O_CREAT", "SETLK", "flock(", "unlink", "rename")
        )
    assert snapshot(path) == before
    if opened:
        opened.close()


def test_a_store_that_may_only_be_read(tmp_path: Path) -> None:
    """By another user, who may not see the locks."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    setpriv = tool("setpriv")
    path = Path("/tmp") / f"hangarlog-{os.getpid()}-{tmp_path.name}"
    try:
        filled(path, mode=0o644)
        path.chmod(0o755)
        program = (
            "import sys; from hangarlog.watching.vitals import read_vitals; v = read_vitals(sys.argv[1], files=True); "
            "print(v.committed, v.problems, v.files.streams, [each.is_owned for each in v.subscribers])"
        )
        done = subprocess.run(
            [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", program, path],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        if "PermissionError" in done.stderr and "hangarlog-" not in done.stderr:
            pytest.skip("another user may not read Python's files here")
        assert done.stdout.strip() == "30 () 3 [None, None]", done.stderr
    finally:
        shutil.rmtree(path, ignore_errors=True)


def test_no_store_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("missing", "file", "empty"):
        with pytest.raises(StoreOpenError):
            read_vitals(tmp_path / name)


CRASH = """
import os, sys
from hangarlog import ANY, FileEventStore, UntypedEvent
store = FileEventStore.untyped(sys.argv[1], durability="relaxed")
for number in range(5):
    store.append("a:1", [UntypedEvent("T", {"number": number})], ANY)
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("torn", [b"", b'{"position":6,"str', b"\0" * 100])
def test_after_a_crash_the_files_tell(tmp_path: Path, torn: bytes) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", CRASH, tmp_path / "s"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    with open(tmp_path / "s/journal.jsonl", "ab") as file:
        file.write(torn)
    before = snapshot(tmp_path / "s")
    vitals = read_vitals(tmp_path / "s", files=True)
    assert (vitals.committed, vitals.problems, vitals.state.is_open) == (5, (), False)
    assert vitals.last_at is not None
    assert snapshot(tmp_path / "s") == before


def test_an_incomplete_batch_at_the_end_does_not_count(tmp_path: Path) -> None:
    with FileEventStore(tmp_path / "s", durability="relaxed") as store:
        store.append("a:1", [Added(1)], ANY)
        store.append("a:1", [Added(2), Added(3), Added(4)], ANY)
    journal = tmp_path / "s/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:3]))
    assert read_vitals(tmp_path / "s").committed == 1


def test_without_a_state_the_files_tell(tmp_path: Path) -> None:
    path = filled(tmp_path / "s")
    (path / "state").unlink()
    vitals = read_vitals(path)
    assert (vitals.committed, vitals.problems, vitals.state.syncs) == (30, (), None)
    shutil.copytree(path, tmp_path / "copy")
    assert read_vitals(tmp_path / "copy").committed == 30


def test_damage_leaves_a_part_and_says_so(tmp_path: Path) -> None:
    """Whatever is in the place of each file: nothing, nonsense, a folder, a link, a FIFO."""
    path = filled(tmp_path / "s")
    whole = read_vitals(path, files=True)
    generator = random.Random(7)
    for name in ("state", "hangarlog.json", "journal.jsonl", "cursors.jsonl", "locks", "streams"):
        for what in ("missing", "empty", "noise", "folder", "link", "fifo"):
            copy = tmp_path / f"{name}-{what}"
            shutil.copytree(path, copy)
            spoil(copy / name, what, generator)
            before = snapshot(copy)
            vitals = read_vitals(copy, files=True, largest=5)
            assert isinstance(vitals, Vitals)
            assert snapshot(copy) == before
            if name in ("state", "locks", "streams"):
                assert vitals.committed == whole.committed, copy.name
            if name == "hangarlog.json":
                assert vitals.meta is None
            may_be_so = {
                "state": ("missing", "empty"),
                "journal.jsonl": ("empty",),
            }  # Before a writer, and after a roll.
            if name in ("state", "hangarlog.json", "journal.jsonl") and what not in may_be_so.get(name, ()):
                assert vitals.problems, copy.name
            shutil.rmtree(copy)


def spoil(path: Path, what: str, generator: random.Random) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if what == "empty":
        path.touch()
    elif what == "noise":
        path.write_bytes(generator.randbytes(5000))
    elif what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to("/etc/passwd")
    elif what == "fifo":
        os.mkfifo(path)


def test_any_words_in_the_state_are_survived(tmp_path: Path) -> None:
    """Random ones, behind a right magic, file and check; the highest ones too."""
    path = filled(tmp_path / "s")
    whole = (path / "state").read_bytes()
    generator = random.Random(11)
    for round_ in range(60):
        raw = bytearray(whole)
        for _ in range(generator.randint(1, 30)):
            at = generator.randrange(3, 132) * 8
            raw[at : at + 8] = generator.choice(
                [b"\xff" * 8, bytes(8), generator.randbytes(8), struct.pack("=Q", 1 << 53)]
            )
        (path / "state").write_bytes(raw)
        vitals = read_vitals(path)
        assert vitals.committed == 30, round_
        if vitals.state.syncs:
            vitals.state.syncs.quantile(0.5)


# The durations


def test_quantiles_lie_in_the_bucket_of_the_true_ones() -> None:
    generator = random.Random(3)
    for _ in range(50):
        samples = sorted(int(generator.lognormvariate(11, generator.choice([0.1, 1, 2]))) for _ in range(500))
        times = histogram(samples)
        assert times.count == 500
        assert times.seconds == pytest.approx(sum(samples) / 1e9)
        for fraction in (0.01, 0.5, 0.9, 0.99, 1.0):
            true = samples[max(0, round(fraction * 500) - 1)] / 1e9
            found = times.quantile(fraction)
            assert found is not None
            assert true / 1.42 <= found <= true * 1.42


def histogram(samples: list[int]) -> SyncTimes:
    buckets = [[0, 0] for _ in range(len(BOUNDS_SECONDS) + 1)]
    for sample in samples:
        bucket = next((n for n, bound in enumerate(BOUNDS_SECONDS) if sample / 1e9 <= bound), len(BOUNDS_SECONDS))
        buckets[bucket][0] += 1
        buckets[bucket][1] += sample
    return SyncTimes(tuple((count, total) for count, total in buckets))


def test_a_difference_of_durations_is_what_came_between_or_all_if_they_began_anew() -> None:
    first, second = histogram([1000, 5000]), histogram([1000, 5000, 7000, 1 << 60])
    assert second.since(first) == histogram([7000, 1 << 60])
    assert first.since(second) == first
    assert histogram([]).quantile(0.5) is None
    assert histogram([1 << 40]).quantile(0.99) == pytest.approx((1 << 40) / 1e9)


def test_what_was_written_never_falls_at_any_step_of_a_roll(tmp_path: Path) -> None:
    """Looked at after each write to the shared state, by another reader."""
    seen: list[int] = []

    class Looking(FileSystem):
        def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> None:
            super().write_at(fd, data, offset)
            if os.fstat(fd).st_ino == self.identity_at(str(tmp_path / "s/state")):
                written = read_vitals(tmp_path / "s").state.written_bytes
                if written is not None:
                    seen.append(written)

    with FileEventStore(tmp_path / "s", durability="relaxed", segment_bytes=1500, filesystem=Looking()) as store:
        for number in range(40):
            store.append("a:1", [Added(number)], ANY)
        sizes = sum(file.stat().st_size for file in (tmp_path / "s").glob("journal*.jsonl"))
    assert len(list((tmp_path / "s").glob("journal.0*.jsonl"))) > 3
    assert seen == sorted(seen)
    assert seen[-1] == sizes


def test_compressed_segments_are_segments(tmp_path: Path, hangarlog: Command) -> None:
    pytest.importorskip("backports.zstd", reason="zstd is not installed")
    path = filled(tmp_path / "s", events=300)
    before = read_vitals(path, files=True, largest=1)
    assert hangarlog("compress", path).returncode == 0
    assert list(path.glob("journal.*.zst"))
    after = read_vitals(path, files=True, largest=1)
    assert (after.committed, after.first, after.problems) == (300, 1, ())
    assert before.journal
    assert after.journal
    assert after.journal.segments == before.journal.segments
    assert (
        after.journal.bytes == sum(file.stat().st_size for file in path.glob("journal*.jsonl*")) < before.journal.bytes
    )
    assert after.files
    assert before.files
    assert after.files.streams == 3
    assert after.files.parts["journal"].bytes == after.journal.bytes
    assert [each.lag for each in after.subscribers] == [290, 0]
    assert after.subscribers[0].lag_seconds is not None
