"""What a store hides goes from its journal, too, and every reader passes over what is left."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from conftest import tool
from erased_stores import (
    CUT,
    GONE,
    KEPT,
    ROUNDS,
    SECRET,
    STREAMS,
    TOMBSTONE,
    check,
    erase,
    erased,
    event,
    filled,
    hide,
    journal,
    numbers,
    opened,
    texts,
    with_secret,
)
from store_files import settle

from hangarlog import ANY, EncodedEvent, FileEventStore, StreamDeletedError, UntypedEvent
from hangarlog.filestore import erasing
from hangarlog.integrations.export import cloud_events, journal_lines
from hangarlog.integrations.imported import Imported
from hangarlog.integrations.json_lines import import_lines
from hangarlog.integrations.line_source import LineSource
from hangarlog.maintenance.backup import backup
from hangarlog.maintenance.verify import verify, verify_folder


@pytest.fixture(params=["plain", "compressed"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FileEventStore[Any]]:
    """A store with five streams, four of them hidden or truncated, whose journal still has everything."""
    with filled(tmp_path / "s") as store:
        hide(store)
        if request.param == "compressed":
            assert store.compress().segments
        yield store


def test_a_deleted_event_is_gone_from_every_file(store: FileEventStore[Any], tmp_path: Path) -> None:
    """A search of the bytes of all files, of compressed ones unpacked. Before, the journal has them."""
    assert {name[:8] for name in with_secret(tmp_path / "s")} == {"journal."}
    done = erase(store, least=0.0)
    assert not done.damaged
    assert sum(each.events for each in done.segments) == 3 * ROUNDS + 5
    assert with_secret(tmp_path / "s") == set()
    check(store)
    assert erase(store, least=0.0).segments == []


def test_the_ring_gives_the_text_up(tmp_path: Path, ring_at_once: None) -> None:
    """What is durable only in the ring is in the journal before that."""
    with filled(tmp_path / "s", durability="always") as store:
        hide(store)
        assert "ring" in with_secret(tmp_path / "s")
        erase(store, least=0.0)
        assert with_secret(tmp_path / "s") == set()
        store.append(KEPT, [UntypedEvent("Named", {"n": ROUNDS})], ANY)
        assert (tmp_path / "s/ring").exists()
        assert numbers(store, KEPT) == [*range(ROUNDS + 1)]
        assert list(verify(store)) == []


def test_the_last_segments_wait(tmp_path: Path) -> None:
    """What is not sealed stays, and so does the segment with the last record; they go once the journal has gone on."""
    with opened(tmp_path / "s", segment_bytes=1_200) as store:
        for n in range(ROUNDS):
            store.append(GONE, [event(GONE, n)], ANY)
        store.delete_stream(GONE)
        erase(store, least=0.0)
        assert with_secret(tmp_path / "s")
        for n in range(12):
            store.append("other:1", [UntypedEvent("Other", {"n": n, "text": "y" * 200})], ANY)
        erase(store, least=0.0)
        assert with_secret(tmp_path / "s") == set()
        assert journal(store) == {"other:1": [*range(12)]}


def test_a_dry_run_says_what_would_go(store: FileEventStore[Any], tmp_path: Path) -> None:
    settle(store)
    before = texts(tmp_path / "s")
    planned = erase(store, least=0.0, dry_run=True)
    changed = {name for name, text in texts(tmp_path / "s").items() if before.get(name) != text}
    assert changed <= {"locks/compress.lock", "state", "catalog", "checkpoint.json", "locks/checkpoint.lock"}
    done = erase(store, least=0.0)
    assert [(each.first, each.events) for each in planned.segments] == [
        (each.first, each.events) for each in done.segments
    ]


def test_a_little_that_is_hidden_stays_unless_its_stream_is_deleted(tmp_path: Path) -> None:
    with filled(tmp_path / "s", segment_bytes=4_000) as store:
        store.truncate_stream(CUT, 3)
        assert erase(store).segments == []
        assert len(erase(store, least=0.05).segments) >= 1
        store.delete_stream(GONE)
        assert len(erase(store).segments) > 1


def test_progress_ends_at_the_whole(store: FileEventStore[Any]) -> None:
    seen: list[tuple[int, int]] = []
    erasing.Erasing(store._write_session).run(lambda *each: seen.append(each), least=0.0)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert 0 < seen[-1][0] <= seen[-1][1]


def test_it_can_be_stopped(store: FileEventStore[Any], tmp_path: Path) -> None:
    work = erasing.Erasing(store._write_session)
    done = work.run(lambda *each: work.stop(), least=0.0)
    assert len(done.segments) == 0
    assert not [*(tmp_path / "s").glob("*.erased")]
    check(store, journal_too=False)


def test_positions_and_versions_go_on(tmp_path: Path) -> None:
    with erased(tmp_path / "s") as store:
        last = store.get_event_count()
        assert store.append(KEPT, [event(KEPT, 0)], ROUNDS - 1) == ROUNDS
        assert store.append(GONE, [event(GONE, 0)], ROUNDS - 1) == ROUNDS
        assert [position for position, *_ in store.read_all()][-2:] == [last + 1, last + 2]
        with pytest.raises(StreamDeletedError):
            store.append(TOMBSTONE, [event(TOMBSTONE, 0)], ANY)


def test_every_span_of_the_journal_gives_what_is_left(tmp_path: Path) -> None:
    """In both directions, with limits, from and to positions that are erased or not."""
    rng = random.Random(5)
    with erased(tmp_path / "s") as store:
        all_of_it = [record.position for record in store.records()]
        last = store.get_event_count()
        assert set(range(1, last + 1)) - set(all_of_it)
        for _ in range(300):
            first, stop = sorted(rng.choices(range(last + 1), k=2))
            limit = rng.choice([None, 1, 2, 7])
            wanted = [position for position in all_of_it if first < position <= stop][:limit]
            options: dict[str, Any] = {"from_position": first, "to_position": stop, "limit": limit}
            assert [record.position for record in store.records(**options)] == wanted
            back = [position for position in all_of_it[::-1] if stop > position >= max(1, first)][:limit]
            options = {"from_position": stop, "to_position": max(1, first), "limit": limit, "reverse": True}
            assert [record.position for record in store.records(**options)] == back
            assert [each.position for block in store.envelopes(**options) for each in block] == back


def test_a_read_through_an_index_passes_over_them(tmp_path: Path) -> None:
    """Blocks that one checksum verifies, typed and untyped, and reads between two times."""
    with opened(tmp_path / "s", segment_bytes=150_000) as store:
        for n in range(600):
            store.append(f"s:{n % 7}", [UntypedEvent("T", {"n": n, "text": "x" * 600})], ANY)
        times = [record.recorded_at for record in store.records()]
        store.delete_stream("s:3")
        assert len(erase(store).segments) >= 2
        left = {n for n in range(600) if n % 7 != 3 or n > 500}
        found = [each.data["n"] for *_, each in store.read_all()]
        assert [n for n in found if n % 7 != 3] == [n for n in range(600) if n % 7 != 3]
        assert left >= set(found)
        assert found == [record.event.data["n"] for record in store.records(reverse=True)][::-1]
        between = [record.event.data["n"] for record in store.records(since=times[100], until=times[300])]
        assert between == [n for n in found if times[100] <= times[n] < times[300]]
        assert any((tmp_path / "s").glob("journal.0*.index"))
        assert list(verify(store)) == []


def test_ids_of_erased_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are found by no reader, and known to appends that are idempotent; a table made anew has them, too."""
    path = tmp_path / "s"
    for anew in (False, True):
        monkeypatch.setattr("hangarlog.filestore.event_ids._WORTH", 8)
        shutil.rmtree(path, ignore_errors=True)
        with filled(path) as store:
            if not anew:
                assert store.contains("person:1-0")
            first = next(record for record in store.records() if record.event_id == "person:1-2").position
            hide(store)
            erase(store, least=0.0)
            assert store.event("person:1-2") is None
            assert not store.contains("person:1-2")
            assert store.contains("person:4-2")
            result = store.append(GONE, [event(GONE, 2)], ANY, idempotent=True)
            assert (result.written, result.first_position) == (False, first)
            assert store.append(GONE, [event(GONE, ROUNDS - 1)], ROUNDS - 2) == ROUNDS - 1
            assert list(verify(store)) == []


def test_an_id_that_another_stream_has_is_found_there(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as store:
        store.append("other:1", [UntypedEvent("Other", {"n": 9}, event_id="person:1-3")], ANY)
        hide(store)
        erase(store, least=0.0)
        found = store.event("person:1-3")
        assert found is not None
        assert found.stream_id == "other:1"


def test_followers_and_cursors_pass_over_them(tmp_path: Path) -> None:
    """Also those that stand at an erased position, and one whose last move was noted with an erased record."""
    with opened(tmp_path / "s", segment_bytes=1_200) as store:
        for n in range(ROUNDS):
            for stream_id in STREAMS[:4]:
                position = int(store.append(stream_id, [event(stream_id, n)], n - 1).last_position)
                store.cursor(f"c{position % 4}").advance(position)
        for n in range(6):
            store.append("other:1", [UntypedEvent("Other", {"n": n, "text": "y" * 200})], ANY)
        before = {each.name: each.position for each in store.cursors()}
        hide_all = (store.delete_stream(GONE), store.delete_stream(TOMBSTONE), store.truncate_stream(CUT, 5))
        assert hide_all == (ROUNDS, ROUNDS, 5)
        erase(store, least=0.0)
        left = [record.position for record in store.records()]
        for start in (0, 1, 2, 9, 10, 11):
            wanted = [position for position in left if position > start]
            assert [record.position for record in islice(store.subscribe(start), len(wanted))] == wanted
        assert {each.name: each.position for each in store.cursors()} == before
        assert list(verify(store)) == []
    for name in ("state", "catalog", "checkpoint.json"):
        (tmp_path / "s" / name).unlink()
    with opened(tmp_path / "s") as store:
        assert {each.name: each.position for each in store.cursors()} == before
        assert list(verify(store)) == []


def test_exports_have_what_is_left_and_can_be_imported(tmp_path: Path) -> None:
    with erased(tmp_path / "s") as store:
        lines = b"\n".join(journal_lines(store)) + b"\n"
        assert SECRET.encode() not in lines
        assert lines.count(b"\n") == len([*store.records()]) == len([*cloud_events(store)])
        with opened(tmp_path / "t") as other:
            import_lines(other, LineSource(io.BytesIO(lines), "export"), Imported(), partial=True)
            assert journal(other) == journal(store)
            assert numbers(other, CUT) == numbers(store, CUT)
            assert list(verify(other)) == []


def test_a_backup_follows(tmp_path: Path) -> None:
    """A rewritten segment is copied again, also if its ends are as before; a segment that nobody touched is not."""
    source, target = tmp_path / "s", tmp_path / "backup"
    with filled(source) as store:
        backup(source, target)
        hide(store)
        erase(store, least=0.0)
        backup(source, target)
        assert with_secret(target) == set()
        assert backup(source, target).copied == 0
        with opened(target) as copy:
            check(copy)


def test_a_backup_whose_last_event_is_erased_goes_on(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "backup"
    with opened(source, segment_bytes=1_200) as store:
        for n in range(ROUNDS):
            store.append(GONE, [event(GONE, n)], ANY)
        backup(source, target)
        for n in range(12):
            store.append("other:1", [UntypedEvent("Other", {"n": n, "text": "y" * 200})], ANY)
        store.delete_stream(GONE)
        erase(store, least=0.0)
        backup(source, target)
        assert with_secret(target) == set()


def test_a_segment_is_never_as_long_as_it_was(tmp_path: Path) -> None:
    """A backup tells by its size whether it has it."""
    with opened(tmp_path / "s", segment_bytes=1_000) as store:
        for n in range(60):  # Erased, such an event has as many bytes.
            store.append(f"s:{int(n % 9 == 8)}", [EncodedEvent("T" * 12, b'{"n":%d}' % (n % 10))], ANY)
        sizes = {file.name: file.stat().st_size for file in (tmp_path / "s").glob("journal.0*.jsonl")}
        store.delete_stream("s:1")
        done = erase(store)
        assert len(done.segments) > 3
        for each in done.segments:
            assert (tmp_path / "s" / each.name).stat().st_size != sizes[each.name]
            assert b'"metadata":\t\tnull' in (tmp_path / "s" / each.name).read_bytes()
        assert {record.stream_id for record in store.records(to_position=done.segments[-1].first)} == {"s:0"}
        assert list(verify(store)) == []


def test_standard_tools_read_what_is_left(tmp_path: Path) -> None:
    with erased(tmp_path / "s"):
        pass
    text = b"".join(file.read_bytes() for file in sorted((tmp_path / "s").glob("journal*.jsonl")))
    out = subprocess.run([tool("jq"), "-c", "select(.event_type == \"\") | [.metadata, .data]"], input=text,
                         capture_output=True, check=True).stdout  # fmt: skip
    assert set(out.split()) == {b"[null,{}]"}
    assert list(verify_folder(tmp_path / "s")) == []


def test_retain_without_policies_frees_what_is_hidden(store: FileEventStore[Any], tmp_path: Path) -> None:
    """It drops the first segments if all of them is hidden, and writes those anew that have something to show."""
    planned = store.retain(dry_run=True)
    done = store.retain()
    assert [each.first for each in planned.erased] == [each.first for each in done.erased]
    assert len(done.erased) > 3
    assert done.bytes_freed >= sum(each.bytes for each in done.erased)
    assert with_secret(tmp_path / "s") == set()
    check(store)


def test_what_a_subscriber_has_not_read_stays(store: FileEventStore[Any], tmp_path: Path) -> None:
    store.cursor("slow").advance(20)
    done = store.retain()
    assert done.erased
    assert all(each.first < 20 for each in done.erased)
    assert [n for n in journal(store)[GONE] if n > 3] == [*range(4, ROUNDS)]
    check(store, journal_too=False)
    store.cursor("slow").delete()
    store.retain()
    assert with_secret(tmp_path / "s") == set()
    check(store)


def test_a_backup_keeps_no_index_of_a_segment_that_has_none_any_more(tmp_path: Path) -> None:
    """An erasing that was killed leaves the segment that it wrote anew without an index."""
    source, target = tmp_path / "s", tmp_path / "backup"
    with FileEventStore.untyped(source, durability="relaxed", segment_bytes=200_000) as store:
        for number in range(900):
            store.append(f"a:{number % 2}", [UntypedEvent("Named", {"n": number, "text": "x" * 200})], ANY)
        backup(source, target)
        store.delete_stream("a:1")
        store.retain()
        index = min(source.glob("journal.0*.index"))
        assert (target / index.name).exists()
        index.unlink()
        backup(source, target)
        assert not (target / index.name).exists()
