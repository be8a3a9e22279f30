"""Findings about followers, files and clocks: each comes of the real condition, and what it advises ends that."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from examined import (
    Watched,
    ago,
    examined,
    has,
    made,
    numbered,
    of_kind,
    only,
    program,
    treat,
)

from hangarlog import ANY, FileEventStore, MissingExtraError
from hangarlog.doctor import files, followers, walk
from hangarlog.doctor.examination import examine
from hangarlog.doctor.finding import Finding
from hangarlog.maintenance.backup import backup

# Followers


def test_followers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind; abandoned, if it has not moved for a day and there were events for it; and back again."""
    path = tmp_path / "s"
    with FileEventStore.untyped(path) as store:
        store.append("a:1", numbered(10, recorded=[ago(200_000)]), ANY)
        store.cursor("mailer").advance(10)
        assert only(path, "followers").facts == {"cursors": 1, "behind": 0}
        store.append("a:1", numbered(5, recorded=[ago(200_000)]), ANY)
        finding = only(path, "follower-behind")
        assert (finding.severity, finding.facts["lag"], finding.facts["owner"]) == ("note", 5, None)
        assert finding.facts["lag_seconds"] > 199_000
        monkeypatch.setattr("hangarlog.filestore.cursors.now", lambda: ago(100_000).isoformat()[:26].encode() + b"Z")
        store.cursor("mailer").reset(9)
        finding = only(path, "follower-abandoned")
        assert (finding.severity, finding.where, finding.facts["lag"]) == ("warning", "mailer", 6)
        with store.subscribe(name="mailer", timeout=0) as subscription:
            next(subscription)
            finding = only(path, "follower-behind")
            assert finding.facts["owner"] == os.getpid()
    finding = only(path, "follower-abandoned")
    _, _, command = finding.next.partition("no longer used: ")
    treat(Finding(finding.severity, finding.kind, "", "", command))
    assert only(path, "followers").facts["cursors"] == 0


def test_a_projection_that_is_behind(tmp_path: Path) -> None:
    """By the cursor of its name; the one who runs it is known."""
    from hangarlog.projections import Projection

    path = made(tmp_path / "s")
    with FileEventStore.untyped(path) as store:
        totals = Projection("totals", lambda state, record: {"count": record.position})
        totals.run(store, timeout=0)
        store.append("a:1", numbered(3), ANY)
        finding = only(path, "follower-behind")
        assert finding.what.startswith("projection 'totals' has 3 events to process")


def test_parked_events(tmp_path: Path) -> None:
    path = made(tmp_path / "s")

    def fail(record: object) -> None:
        raise ValueError("no")

    with FileEventStore.untyped(path) as store:
        with store.subscribe(name="mailer", timeout=0) as subscription:
            subscription.run(fail, on_failure="park")
        finding = only(path, "events-parked")
        assert (finding.severity, finding.facts) == ("warning", {"name": "mailer", "count": 10})
        assert '"cause":"ValueError: no"' in treat(finding)
        store.replay("mailer", lambda record: None)
        assert not has(path, "events-parked")


def test_more_followers_than_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "_MOST_FOLLOWERS", 2)
    path = made(tmp_path / "s")
    with FileEventStore.untyped(path) as store:
        for name in ("a", "b", "c"):
            store.cursor(name).advance(10)
    assert only(path, "skipped").facts["folders"] == [str(path / "cursors.jsonl")]
    monkeypatch.undo()
    assert not has(path, "skipped")
    monkeypatch.setattr(followers, "_MOST_SECONDS", 0.0)
    assert has(path, "skipped")
    assert not has(path, "skipped", thorough=True)


# Segments and other files


def test_segments_of_unusual_size(tmp_path: Path) -> None:
    path = made(tmp_path / "s", 30, segment_bytes=1000)
    assert not has(path, "segment-odd-size")
    assert only(path, "segments").facts["streams"] == 3
    sealed = sorted(path.glob("journal.0*.jsonl"))[1]
    sealed.write_bytes(b"".join(sealed.read_bytes().splitlines(keepends=True)[:1]))
    finding = only(path, "segment-odd-size")
    assert (finding.severity, finding.where, finding.facts["count"]) == ("note", str(sealed), 1)


def test_a_huge_active_segment(tmp_path: Path) -> None:
    """The next append seals it."""
    path = tmp_path / "s"
    with FileEventStore.untyped(path, segment_bytes=1000) as store:
        store.append("a:1", numbered(50), ANY)
        assert only(path, "segment-huge").severity == "note"
        store.append("a:1", numbered(1), ANY)
    assert not has(path, "segment-huge")


def test_sealed_segments_without_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice makes a store that has them."""
    path = tmp_path / "s"
    with FileEventStore.untyped(path, segment_bytes=70_000, durability="relaxed") as store:
        for _ in range(3):
            store.append("a:1", numbered(300, 100), ANY)
    assert not has(path, "segment-without-index")
    next(path.glob("journal.0*.index")).unlink()
    finding = only(path, "segment-without-index")
    assert finding.severity == "note"
    monkeypatch.chdir(tmp_path)
    text = finding.next.replace("hangarlog ", f"{sys.executable} -m hangarlog ")
    treat(Finding("note", "", "", "", text.replace("-m hangarlog", "-m  hangarlog")))
    assert not has(tmp_path / "COPY", "segment-without-index")


def test_many_small_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MANY_STREAMS", 20)
    path = tmp_path / "s"
    with FileEventStore.untyped(path, durability="relaxed") as store:
        store.append_many([(f"a:{number}", numbered(1), ANY) for number in range(21)])
        assert only(path, "streams-many-small").severity == "note"
        store.append("a:1", numbered(100, 1000), ANY)
        assert not has(path, "streams-many-small")


def test_compressed_segments_are_segments(tmp_path: Path) -> None:
    """Also without the library that unpacks them, which is a finding."""
    path = tmp_path / "s"
    with FileEventStore.untyped(path, segment_bytes=70_000, durability="relaxed") as store:
        for day in range(5):
            store.append("a:1", numbered(400, 100, [ago((5 - day) * 80_000)]), ANY)
    before = only(path, "segments").facts
    with FileEventStore.untyped(path) as store:
        try:
            store.compress()
        except MissingExtraError:
            pytest.skip("zstd is not installed")
    assert only(path, "segments").facts["segments"] == before["segments"]
    assert only(path, "segments").facts["journal_bytes"] < before["journal_bytes"] / 2
    assert only(path, "growth").facts["bytes_a_day"] > 0
    kinds = {finding.kind for finding in examined(path) if finding.severity != "ok"}
    assert not kinds & {"foreign-files", "cache-without-segment", "segment-without-index", "segment-odd-size"}
    (path / "journal.jsonl").write_bytes(b"")
    missing = program(path, "sys.modules['backports'] = sys.modules['compression'] = None")
    failed = [finding for finding in missing if finding.kind == "check-failed"]
    assert {finding.next for finding in failed} == {"pip install 'hangarlog[zstd]'"}


def test_what_was_put_aside(tmp_path: Path) -> None:
    path = made(tmp_path / "s")
    with FileEventStore.untyped(path) as store:
        store.folder.put_aside([b'{"position":1}'])
    finding = only(path, "put-aside")
    assert finding.severity == "warning"
    assert '{"position":1}' in treat(finding)
    assert not has(path, "put-aside")


def test_files_that_wait_to_replace_others(tmp_path: Path) -> None:
    path = made(tmp_path / "s")
    (path / "journal.jsonl.new").touch()
    assert not has(path, "unfinished")  # A writer may be at it.
    os.utime(path / "journal.jsonl.new", (ago(7200).timestamp(),) * 2)
    finding = only(path, "unfinished")
    assert finding.severity == "note"
    treat(finding)
    (path / "streams/a/0.jsonl.rebuilt").touch()
    finding = only(path, "unfinished")
    assert finding.severity == "warning"
    treat(finding)
    assert not has(path, "unfinished")


def test_a_backup_that_was_cut_short(tmp_path: Path) -> None:
    path = made(tmp_path / "s")

    def interrupt(*progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(path, tmp_path / "copy", interrupt)
    findings = list(examine(tmp_path / "copy", filesystem=Watched()))
    finding = of_kind(findings, "backup-unfinished")
    assert finding.severity == "warning"
    treat(Finding("note", "", "", "", finding.next.replace("SOURCE", str(path))))
    assert not has(tmp_path / "copy", "backup-unfinished")


def test_foreign_files_and_caches_without_a_segment(tmp_path: Path) -> None:
    """With any name; the advice moves them away, or deletes them."""
    path = made(tmp_path / "s")
    assert not has(path, "foreign-files")
    names = ["notes.txt", "-rf", "a'b\n\x1b[2J", ".hidden", "streams/a/x.tmp", "x.tmp"]
    for name in names:
        (path / name).write_text("x")
    finding = only(path, "foreign-files")
    assert (finding.severity, finding.facts["count"]) == ("note", 6)
    treat(finding)
    treat(only(path, "foreign-files"))
    assert not has(path, "foreign-files")
    assert len(list((tmp_path / "s-foreign").iterdir())) == 6
    (path / "journal.00000000000000000001.index").touch()
    (path / "streams/a/7.times").touch()
    finding = only(path, "cache-without-segment")
    assert (finding.severity, finding.facts["count"]) == ("note", 2)
    treat(finding)
    assert not has(path, "cache-without-segment")


def test_more_files_than_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what it has skipped; with --thorough it looks at all."""
    monkeypatch.setattr(walk, "_MOST_ENTRIES", 10)
    path = tmp_path / "s"
    with FileEventStore.untyped(path, durability="relaxed") as store:
        store.append_many([(f"a:{number}", numbered(1), ANY) for number in range(30)])
    for number in range(30):
        (path / f"streams/a/{number}.jsonl").chmod(0o644)
    assert only(path, "skipped").facts["folders"] == [str(path / "streams")]
    assert only(path, "rights-too-open").facts["count"] < 11
    assert only(path, "rights-too-open", thorough=True).facts["count"] == 30
    assert not has(path, "skipped", thorough=True)


# Time


def test_clocks(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FileEventStore.untyped(path) as store:
        store.append("a:1", numbered(10), ANY)
        assert only(path, "clock").severity == "ok"
        store.append("a:1", numbered(1, recorded=[ago(3600)]), ANY)
        finding = only(path, "clock-back")
        assert (finding.severity, finding.facts["position"]) == ("note", 11)
        assert treat(finding).count("\n") == 2
        store.append("a:1", numbered(1, recorded=[ago(-3600)]), ANY)
        finding = only(path, "clock-ahead")
        assert (finding.severity, finding.facts["seconds"] > 3500) == ("warning", True)


def test_files_of_the_future(tmp_path: Path) -> None:
    """As a clock leaves them that is set back."""
    path = made(tmp_path / "s")
    os.utime(path / "streams/a/1.jsonl", (ago(-3600).timestamp(),) * 2)
    finding = only(path, "clock-ahead")
    assert (finding.severity, finding.where) == ("warning", str(path / "streams/a/1.jsonl"))


def test_checksums(tmp_path: Path) -> None:
    path = made(tmp_path / "s")
    pytest.importorskip("isal")
    assert only(path, "checksums").severity == "ok"
    assert of_kind(program(path, "sys.modules['isal'] = None"), "checksums-slow").severity == "note"
