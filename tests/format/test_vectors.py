"""The test vectors of the format, run against hangarlog, and against what was written from the pages alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from by_the_page import counts, erased, frames, id_at, is_stream_id, is_torn, path_of, record, sealed_number
from conftest import ROOT
from store_by_the_page import RefusedError, Store, meta, retained, snapshot
from test_format_pages import FORMAT, blocks
from verifier_by_the_page import cursor_line, damages

from hangarlog import CorruptionError, FileEventStore, HangarlogError
from hangarlog.eventstore.stream_id import why_not_an_id
from hangarlog.filestore.checkpoint import load_checkpoint
from hangarlog.filestore.commit_ring import frames_in
from hangarlog.filestore.cursor_file import pairs_in
from hangarlog.filestore.file_names import stream_id_of, stream_path
from hangarlog.filestore.folder import Folder
from hangarlog.filestore.recovery.unrecovered import Unrecovered
from hangarlog.filestore.snapshot_files import parse
from hangarlog.log.segment_name import first_of
from hangarlog.maintenance.cursor_check import cursors_damage
from hangarlog.maintenance.store_view import StoreView
from hangarlog.maintenance.verify import verify_folder
from hangarlog.record.line import decode_record, is_record
from hangarlog.record.strict import record_or_cause
from hangarlog.system.filesystem import FileSystem

VECTORS: dict[str, Any] = json.loads((ROOT / "docs/format-vectors.json").read_text())
META = b'{"format":1,"store_id":"s-1","created_at":"","segment_bytes":67108864}'


def content(vector: dict[str, Any]) -> bytes:
    if "text" in vector:
        return str(vector["text"]).encode()
    parts = [part.partition("*") for part in vector["hex"].split()]
    return b"".join(bytes.fromhex(part) * int(times or 1) for part, _, times in parts)


def each(section: str, **only: str) -> Any:
    vectors = [vector for vector in VECTORS[section] if only.items() <= vector.items()]
    assert vectors
    return pytest.mark.parametrize("vector", vectors, ids=lambda vector: vector.get("name") or str(vector)[:40])


def made(path: Path, journal: bytes = b"", **files: bytes) -> Path:
    """A store by hand: the page's list of what a new one needs."""
    (path / "streams").mkdir(parents=True)
    (path / "locks").mkdir()
    (path / "journal.jsonl").write_bytes(journal)
    for name, text in {"hangarlog.json": META, **files}.items():
        (path / name).write_bytes(text)
    return path


@each("lines")
def test_lines(vector: dict[str, Any]) -> None:
    line = content(vector)
    strict = record_or_cause(line)
    assert isinstance(strict, str) is not vector["record"]
    assert (record(line) is not None) is vector["record"]
    assert (counts(line) is not None) is is_record(line) is vector.get("reader", vector["record"])
    if is_record(line):
        # What is not UTF-8, or no float, is found when the payload is decoded.
        assert decode_record(line).stream_id == "a:1"


@each("tails")
@pytest.mark.parametrize("where", ["journal.jsonl", "streams/a/1.jsonl"])
@pytest.mark.parametrize("state", [True, False], ids=["with state", "without state"])
@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
def test_torn_tails(tmp_path: Path, vector: dict[str, Any], where: str, state: bool) -> None:
    """One rule, in the journal and in a stream, with `state` and without, for a check and for a recovery."""
    path = tmp_path / "s"
    with FileEventStore.untyped(path, durability="relaxed") as store:
        for name in ("a:1", "b"):
            store.append(name, [event(), event()], -1)
    with (path / where).open("ab") as file:
        file.write(content(vector))
    if not state:
        (path / "state").unlink()
    assert (not list(verify_folder(path))) is vector["torn"]
    assert (not damages(path)) is vector["torn"]
    refused, damage = False, []
    try:
        with FileEventStore.untyped(path, durability="relaxed") as store:
            assert store.recovered
            damage = store.recovered.damage
            assert store.get_event_count() == 4
            assert int(store.append("b", [event()], 1)) == 2
    except CorruptionError:
        refused = True
    if vector["torn"]:
        assert not refused
        assert not damage
        assert not list(verify_folder(path))
    elif where == "journal.jsonl":
        assert refused


def event() -> Any:
    from hangarlog import UntypedEvent

    return UntypedEvent("Added", {"number": 1})


@each("ids")
def test_ids(vector: dict[str, Any]) -> None:
    text = vector["id"] if "id" in vector else bytes.fromhex(vector["hex"]).decode("utf-8", "surrogatepass")
    assert (why_not_an_id(text) is None) is is_stream_id(text) is (vector["path"] is not None)
    if vector["path"] is not None:
        folder, name = stream_path(text)
        assert (f"{folder}/{name}" if folder else name) == path_of(text) == vector["path"]
        if "~" not in vector["path"]:
            assert stream_id_of(folder, name) == id_at(vector["path"]) == text


@each("segments")
def test_names_of_segments(vector: dict[str, Any]) -> None:
    name = vector["log"] or vector["file"].partition(".")[0]
    assert first_of(vector["file"], name) == sealed_number(vector["file"], name) == vector["first"]


@each("files", kind="hangarlog.json")
def test_hangarlog_json(tmp_path: Path, vector: dict[str, Any]) -> None:
    path = made(tmp_path / "s", **{"hangarlog.json": content(vector)})
    if not vector["valid"]:
        with pytest.raises(HangarlogError):
            Folder(FileSystem(), str(path)).open(1, create=False)
        with pytest.raises(RefusedError):
            Store(path)
        return
    found = Folder(FileSystem(), str(path)).open(1, create=False)
    assert {key: getattr(found, key) for key in vector["means"]} == vector["means"]
    assert vector["means"].items() <= meta(content(vector)).items()


@each("files", kind="retained.json")
def test_retained_json(tmp_path: Path, vector: dict[str, Any]) -> None:
    folder = Folder(FileSystem(), str(made(tmp_path / "s", **{"retained.json": content(vector)})))
    folder.open(1, create=False)
    if not vector["valid"]:
        with pytest.raises(HangarlogError):
            folder.journal.begins()
        with pytest.raises(RefusedError):
            retained(content(vector), "s-1")
        return
    assert folder.journal.begins() == retained(content(vector), "s-1") == vector["means"]["first_position"]


@each("files", kind="snapshot")
def test_snapshots(vector: dict[str, Any]) -> None:
    by_the_page = snapshot(content(vector))
    try:
        found = parse(content(vector))[0]
    except ValueError:
        assert not vector["valid"]
        assert by_the_page is None
        return
    assert {key: getattr(found, key) for key in vector["means"]} == vector["means"]
    assert by_the_page
    assert vector["means"].items() <= by_the_page[0].items()


@each("files", kind="cursors")
def test_cursors(tmp_path: Path, vector: dict[str, Any]) -> None:
    path = made(tmp_path / "s", **{"cursors.jsonl": content(vector)})
    folder = Folder(FileSystem(), str(path))
    folder.open(1, create=False)
    found = cursors_damage(folder, StoreView(folder, "s-1"))
    assert bool(found) is bool(damages(path)) is not vector["valid"]
    if vector["valid"]:
        counting = {pair.name: place.position for pair in pairs_in(content(vector)) if (place := pair.counting(9))}
        assert counting == vector["means"]
        lines = [
            cursor_line(content(vector)[at : at + 512].rstrip(b" \n\0")) for at in range(0, len(content(vector)), 512)
        ]
        found = [line for line in lines if line and line["appended"] <= 9]
        assert {line["cursor"]: line["position"] for line in sorted(found, key=lambda each: each["move"])} == counting


@each("files", kind="checkpoint.json")
def test_checkpoints(tmp_path: Path, vector: dict[str, Any]) -> None:
    path = made(tmp_path / "s", **{"checkpoint.json": content(vector)})
    folder = Folder(FileSystem(), str(path))
    folder.open(1, create=False)
    expected = vector["means"]["position"] if vector["valid"] else 0
    assert load_checkpoint(folder).position == Store(path).checkpoint["position"] == expected
    ahead = expected > 0
    assert bool(list(verify_folder(path))) is bool(damages(path)) is (ahead or not vector["valid"])


@each("indexes")
def test_indexes(tmp_path: Path, vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from hangarlog.log.index import Index

    monkeypatch.setattr("hangarlog.log.index.STRIDE_BYTES", 0)
    text = VECTORS["indexed_text"].encode()
    path = made(tmp_path / "s", text, **{"journal.index": content(vector)})
    (path / "streams/a").mkdir()
    (path / "streams/a/1.jsonl").write_bytes(text)
    assert bool(list(verify_folder(path))) is bool(damages(path)) is vector["damaged"]
    if not vector["damaged"]:
        index = Index.open(FileSystem(), str(path / "journal.index"), len(text), 1)
        assert [*index.entries(1, index.count)[0]] == vector["ends"] if index else not vector["ends"]


@each("frames")
def test_frames(vector: dict[str, Any]) -> None:
    ring = content(vector).ljust(1 << 20, b"\0")
    found = [[block, frame.first, frame.last] for block, frame in frames_in(ring)]
    assert found == vector["frames"]
    assert [[block, header["first"], header["last"]] for block, _, header, _ in frames(ring)] == found


@each("journals")
def test_journals(tmp_path: Path, vector: dict[str, Any]) -> None:
    more = {"ring": "ring", "checkpoint": "checkpoint.json"}
    files = {name: content({"hex": vector[key]}) for key, name in more.items() if key in vector}
    files |= {"ring": files["ring"].ljust(1 << 20, b"\0")} if "ring" in files else {}
    path = made(tmp_path / "s", vector["text"].encode(), **files)
    by_the_page = Store(path)
    found = [*verify_folder(path)]
    assert bool(found) is bool(damages(path)) is vector["damaged"], found
    if vector["committed"] is not None:
        folder = Folder(FileSystem(), str(path))
        folder.open(1, create=False)
        assert StoreView(folder, "s-1").committed == by_the_page.stored == vector["committed"]
        if "shown" in vector:
            assert Unrecovered(folder, "s-1").committed == by_the_page.committed == vector["shown"]
        assert what_is_committed(by_the_page)[:2] == (by_the_page.stored, by_the_page.committed)


def what_is_committed(store: Store) -> tuple[int, int, bool]:
    """What the program on the page says of a store."""
    (program,) = [program for program in blocks(FORMAT, "python") if "def what_is_committed" in program]
    joined = {position: json.loads(line) for position, line in store.joined.items()}
    names: dict[str, Any] = {
        "counted": lambda line: counts(line) or erased(line, journal=True),
        "torn": lambda line, ended: is_torn(line, ended=ended),
        "joined": lambda after: joined,
    }
    exec(program, names)  # noqa: S102 - that is the test
    parts = [part for segment in store.journal for part in segment.parts()]
    known = store.checkpoint["position"]
    found: tuple[int, int, bool] = names["what_is_committed"](parts, known)
    if "before the checkpoint" in (store.cause or ""):
        return names["what_is_committed"](parts, 0)  # type: ignore[no-any-return]
    assert found[2] is bool(store.cause)
    return found
