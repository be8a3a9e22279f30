"""Transcripts become streams: each whole record once, whatever happened to the files and however often it is run."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import ROOT, Command, tool
from made_transcripts import MAKERS, ROLLOUT, SESSION, claude_lines, codex_lines, damaged, places

from hangarlog import ANY, FileEventStore, SourceError, StorageError, UntypedEvent
from hangarlog.filestore.store import FileEventStore as Store
from hangarlog.integrations.transcript_files import Kind, stream_id_of
from hangarlog.integrations.transcripts import Transcripts, import_transcripts
from hangarlog.integrations.whole_records import Lost


def opened(path: Path) -> FileEventStore[UntypedEvent]:
    return FileEventStore.untyped(path, durability="relaxed")


def take(store: FileEventStore[Any], kind: str, *paths: Path) -> tuple[Transcripts, list[tuple[str, Lost]]]:
    report, told = Transcripts(), list[tuple[str, Lost]]()
    import_transcripts(
        store,
        [*map(str, paths)],
        kind,
        report,
        tell=lambda path, lost: told.append((path, lost)),  # type: ignore[arg-type]
    )
    assert report.lost == len(told)
    assert report.lost_bytes == sum(lost.size for _, lost in told)
    return report, told


def payloads(store: FileEventStore[Any], stream_id: str) -> list[bytes]:
    """The records as they stand in a stream; those of Claude Code are in an `entry`."""
    datas = [bytes(each.data) for block in store.envelopes(stream_id) for each in block]
    return [data.removeprefix(b'{"entry":')[: -1 if data.startswith(b'{"entry":') else None] for data in datas]


def written(path: Path, lines: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with opened(tmp_path / "store") as store:
        yield store


STREAMS = {
    "claude": f"claude:-home-ada-engine/{SESSION}",
    "codex": f"codex:{ROLLOUT.removeprefix('rollout-')}",
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_record_comes_in_as_it_is_and_once(kind: str, tmp_path: Path, store: FileEventStore[Any]) -> None:
    """In order, with its type, its time, and, of Claude Code, its own id. A file that grows is continued."""
    lines = MAKERS[kind](50)
    path = written(places(tmp_path / "home", kind), lines[:30])
    assert take(store, kind, tmp_path / "home")[0] == Transcripts(taken=30, files=1)
    assert take(store, kind, path)[0] == Transcripts(already=30, files=1)
    written(path, lines)
    assert take(store, kind, path.parent)[0] == Transcripts(taken=len(lines) - 30, already=30, files=1)
    (stream_id,) = store.list_streams()
    assert stream_id == STREAMS.get(kind, f"jsonl:{str(path)[1:-6]}")
    assert payloads(store, stream_id) == lines
    time = ""
    for record, line in zip(store.records(stream_id), lines, strict=True):
        given = json.loads(line)
        assert record.event_type == ("Entry" if kind == "claude" else given.get("type", given.get("event")))
        if kind == "claude" and "uuid" in given:
            assert record.event_id == given["uuid"]
        time = given.get("timestamp", given.get("ts", time)) or time
        if time:
            assert record.recorded_at == msgspec.convert(time, type(record.recorded_at))
    assert len({record.event_id for record in store.records()}) == len(lines)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_damaged_transcript_loses_only_what_is_torn(kind: str, tmp_path: Path, store: FileEventStore[Any]) -> None:
    """The same losses are named each time, and nothing comes twice, also once the file is longer or was mended."""
    for seed in range(5):
        lines = MAKERS[kind](60, seed)
        text, whole = damaged(lines, random.Random(seed))
        path = places(tmp_path / str(seed), kind).with_stem(f"made-{seed}")
        path.write_bytes(text)
        report, told = take(store, kind, path)
        assert (report.taken, report.already) == (len(whole), 0)
        stream_id = stream_id_of(str(path), kind)  # type: ignore[arg-type]
        assert payloads(store, stream_id) == whole
        assert {path for path, _ in told} == {str(path)}
        assert take(store, kind, path) == (msgspec.structs.replace(report, taken=0, already=len(whole)), told)
        written(path, lines)
        assert take(store, kind, path)[0] == Transcripts(len(lines) - len(whole), len(whole), files=1)
        assert sorted(payloads(store, stream_id)) == sorted(lines)


def test_records_that_are_alike_all_come_in(tmp_path: Path, store: FileEventStore[Any]) -> None:
    """Also those of one id; with another content under a known id, too. Removed ones do not make others come twice."""
    one, other = claude_lines(8)[2:4]
    changed = one.replace(b'"version":"2.1.31"', b'"version":"2.1.32"')
    plain = b'{"type":"last-prompt","sessionId":"x"}'
    path = written(tmp_path / "p/s.jsonl", [one, plain, one, plain, changed, plain, other])
    assert take(store, "claude", path)[0].taken == 7
    assert payloads(store, "claude:p/s") == [one, plain, one, plain, changed, plain, other]
    assert take(store, "claude", path)[0] == Transcripts(already=7, files=1)
    for lines, taken in (([changed, one, plain], 0), ([plain] * 3 + [one], 0), ([plain] * 4, 1), ([changed] * 2, 1)):
        written(path, lines)
        assert take(store, "claude", path)[0] == Transcripts(taken, len(lines) - taken, files=1)


def test_what_another_program_wrote_into_the_stream_is_known(tmp_path: Path, store: FileEventStore[Any]) -> None:
    """As the store of the Claude Agent SDK does it: the same payloads, with ids and escapes of its own."""
    plain = b'{"type":"last-prompt","sessionId":"x"}'
    lines = [*claude_lines(8), plain, plain, plain]
    for line in [*lines[:5], plain, plain]:
        store.append("claude:p/s", [UntypedEvent("Entry", {"entry": json.loads(line)})], ANY)
    path = written(tmp_path / "p/s.jsonl", [json.dumps(json.loads(line)).encode() for line in lines])
    assert take(store, "claude", path)[0] == Transcripts(taken=len(lines) - 7, already=7, files=1)
    assert take(store, "claude", path)[0] == Transcripts(already=len(lines), files=1)


def test_what_was_deleted_or_compacted_does_not_come_back(tmp_path: Path, store: FileEventStore[Any]) -> None:
    lines = claude_lines(20)
    for name in ("gone", "for-good", "short"):
        written(tmp_path / f"p/{name}.jsonl", lines[:15])
    take(store, "claude", tmp_path)
    store.delete_stream("claude:p/gone")
    store.delete_stream("claude:p/for-good", permanent=True)
    store.truncate_stream("claude:p/short", 10)
    for name in ("gone", "for-good", "short"):
        written(tmp_path / f"p/{name}.jsonl", lines)
    report, _ = take(store, "claude", tmp_path / "p")
    assert (report.taken, report.already) == (len(lines) - 15, 15)
    assert [*report.left_out] == [str(tmp_path / f"p/{name}.jsonl") for name in ("for-good", "gone")]
    assert payloads(store, "claude:p/gone") == []
    assert payloads(store, "claude:p/short") == lines[10:]


ODD = {
    b"[1,2]": "jsonl",
    b'{"a":1,"a":2}': "a key twice",
    b'{"a":NaN}': "no number",
    b'{"_version":"x"}': "a version that is none",
    b'{"x":' + b"[" * 200 + b"]" * 200 + b"}": "deep",
    b'"\\ud800"': "half a character",
}


@pytest.mark.parametrize("text", ODD, ids=ODD.values())
def test_a_whole_record_that_no_payload_can_hold_is_kept_as_text(
    text: bytes, tmp_path: Path, store: FileEventStore[Any]
) -> None:
    path = written(tmp_path / "a.jsonl", [text])
    assert take(store, "jsonl", path)[0] == Transcripts(taken=1, files=1, as_text=1)
    assert take(store, "jsonl", path)[0] == Transcripts(already=1, files=1)
    (event,) = store.read_stream(store.list_streams()[0])
    assert event == UntypedEvent("line", {"text": text.decode()})


def test_a_record_of_claude_code_that_no_payload_can_hold(tmp_path: Path, store: FileEventStore[Any]) -> None:
    """It is kept as the store of the Claude Agent SDK keeps it."""
    text = b'{"type":"user","sessionId":"s","message":"\\ud83d"}'
    path = written(tmp_path / "p/s.jsonl", [text])
    assert take(store, "claude", path)[0] == Transcripts(taken=1, files=1, as_text=1)
    assert store.read_stream("claude:p/s") == [UntypedEvent("Entry", {"entry_json": text.decode()})]


def test_a_record_whose_fields_are_hostile_comes_in(tmp_path: Path, store: FileEventStore[Any]) -> None:
    """Types, times and ids that are none; numbers of any size; text that no one would write."""
    lines = [
        json.dumps({"type": kind, "timestamp": time, "uuid": uuid, "sessionId": "s"}).encode()
        for kind in ("", None, 7, "x" * 201, "\u202e\x00", {"a": 1})
        for time in ("now", "9999-12-31T23:59:59-23:00", "2026-01-01", 5, "0001-01-01T00:00:00+01:00")
        for uuid in ("", "../../x", 5, "A" * 5000)
    ]
    lines += [b'{"sessionId":"s","n":' + b"9" * 5000 + b"}", b'{"type":"a","sessionId":"s","n":1e999}']
    path = written(tmp_path / "p/s.jsonl", lines)
    report, _ = take(store, "claude", path)
    assert report.taken == len(lines)
    assert take(store, "claude", path)[0].already == len(lines)
    assert take(store, "codex", path)[0].taken == len(lines)
    assert {record.event_type for record in store.records("codex:s")} == {"line", "\u202e\x00", "a"}


def test_a_record_that_is_too_large_to_be_decoded_is_kept_as_text(
    tmp_path: Path, store: FileEventStore[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hangarlog.integrations.transcripts._MAX_DECODED_BYTES", 100)
    text = b'{"type":"a","list":[' + b"[]," * 100 + b"1]}"
    path = written(tmp_path / "a.jsonl", [text])
    assert take(store, "jsonl", path)[0] == Transcripts(taken=1, files=1, as_text=1)
    (event,) = store.read_stream(store.list_streams()[0])
    assert event == UntypedEvent("a", {"text": text.decode()})


def test_bytes_that_are_no_text_are_named(tmp_path: Path, store: FileEventStore[Any]) -> None:
    path = written(tmp_path / "p/s.jsonl", [b'{"type":"a","sessionId":"\xff"}', b'{"type":"b"}', b"17"])
    report, told = take(store, "claude", path)
    assert (report.taken, report.lost) == (1, 2)
    assert [(lost.offset, lost.size) for _, lost in told] == [(0, 28), (42, 2)]
    assert "not UTF-8" in told[0][1].cause


NAMES = [
    "..jsonl",
    "...jsonl",
    "a:b.jsonl",
    "a\\..\\b.jsonl",
    "$x.jsonl",
    "a\nb.jsonl",
    " .jsonl",
    "%41.jsonl",
    "A.jsonl",
]


def test_hostile_names_are_streams_of_their_own(tmp_path: Path, store: FileEventStore[Any]) -> None:
    """Whatever bytes a file's name has, and however long the path is; no stream is two files'."""
    names = [name.encode() for name in NAMES] + [b"\xff.jsonl", b"n" * 240 + b".jsonl"]
    deep = os.fsencode(tmp_path) + b"/deep"
    for _ in range(8):
        deep += b"/" + b"\xc3\xbc" * 100
    for name in names:
        for folder in (os.fsencode(tmp_path), deep):
            os.makedirs(folder, exist_ok=True)
            with open(folder + b"/" + name, "wb") as file:
                file.write(b'{"type":"a","sessionId":"s"}\n')
    for kind in MAKERS:
        report, _ = take(store, kind, tmp_path)
        assert not report.left_out  # The store itself is passed over.
        assert report.taken == (2 if kind != "codex" else 1) * len(names)
    assert store.get_stream_count() == 5 * len(names)
    assert all(len(stream_id.encode()) <= 1024 for stream_id in store.list_streams())


def test_what_is_no_transcript_is_left_out_and_named(tmp_path: Path, store: FileEventStore[Any]) -> None:
    """Links, pipes, stores, exports, compressed files. A path that is given may be a link."""
    home = tmp_path / "home"
    written(home / "p/s.jsonl", claude_lines(5))
    os.symlink(home / "p", home / "loop")
    os.symlink(home / "p/s.jsonl", home / "link.jsonl")
    os.mkfifo(home / "pipe.jsonl")
    (home / "old.jsonl.gz").write_bytes(b"\x1f\x8b")
    (home / "named.jsonl").write_bytes(b"\x28\xb5\x2f\xfd")
    (home / "wide.jsonl").write_bytes('{"type":"a"}'.encode("utf-16"))
    with opened(home / "inner") as inner:
        inner.append("a:1", [UntypedEvent("T", {})], ANY)
        (home / "export.jsonl").write_bytes((home / "inner/journal.jsonl").read_bytes())
    (home / "notes.txt").write_text("{}")
    (home / "closed.jsonl").write_text('{"type":"a"}')
    report, _ = take(store, "claude", home)
    causes = {os.path.relpath(path, home): cause for path, cause in report.left_out.items()}
    assert report.files == 2
    for name, cause in (
        ("loop", "a link"),
        ("link.jsonl", "a link"),
        ("pipe.jsonl", "no regular file"),
        ("old.jsonl.gz", "compressed"),
        ("named.jsonl", "compressed"),
        ("wide.jsonl", "UTF-16"),
        ("inner", "a store"),
        ("export.jsonl", "an export"),
    ):
        assert cause in causes.pop(name)
    assert causes == {}
    again, _ = take(store, "claude", home / "loop", home / "link.jsonl", home)
    assert (again.taken, again.files) == (0, 2)
    with pytest.raises(SourceError, match="no file or folder"):
        take(store, "claude", home, tmp_path / "none")


def test_a_file_that_grows_or_shrinks_while_it_is_read(
    tmp_path: Path, store: FileEventStore[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read up to the end that it had, and a record that was being written comes the next time."""
    monkeypatch.setattr("hangarlog.integrations.whole_records._READ_BYTES", 100)
    lines = codex_lines(20)
    path = tmp_path / f"{ROLLOUT}.jsonl"
    text = b"\n".join(lines[:10]) + b"\n" + lines[10][:30]
    path.write_bytes(text)
    real = Store.append_encoded

    def grow(self: Any, pendings: Any) -> Any:
        with path.open("ab") as file:
            file.write(lines[10][30:] + b"\n" + b"\n".join(lines[11:]))
        return real(self, pendings)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append_encoded", grow)
        report, told = take(store, "codex", path)
    assert (report.taken, report.lost_bytes) == (10, 30)
    assert "the file ends within it" in told[0][1].cause
    assert take(store, "codex", path)[0] == Transcripts(taken=len(lines) - 10, already=10, files=1)
    assert payloads(store, store.list_streams()[0]) == lines


@pytest.mark.parametrize("kind", MAKERS)
def test_two_imports_at_once_double_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same files, in batches that meet."""
    monkeypatch.setattr("hangarlog.integrations.transcripts._BATCH_EVENTS", 3)
    lines = MAKERS[kind](60)
    for number in range(4):
        written(places(tmp_path / "home", kind).with_stem(f"made-{number}"), lines)
    reports = list[Transcripts]()

    def run() -> None:
        with opened(tmp_path / "store") as store:
            reports.append(take(store, kind, tmp_path / "home")[0])

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(report.taken for report in reports) == 4 * len(lines)
    with opened(tmp_path / "store") as store:
        for stream_id in store.list_streams():
            assert payloads(store, stream_id) == lines


KILLED = """
import os, signal, sys
from hangarlog.filestore.store import FileEventStore
from hangarlog.integrations import transcripts
transcripts._BATCH_EVENTS = 7
real, left = FileEventStore.append_encoded, int(sys.argv[3])
def dying(self, pendings):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, pendings)
FileEventStore.append_encoded = dying
with FileEventStore.untyped(sys.argv[1]) as store:
    transcripts.import_transcripts(store, [sys.argv[2]], "claude", transcripts.Transcripts())
"""


def test_an_import_that_is_killed_is_run_again(tmp_path: Path) -> None:
    lines = claude_lines(60)
    for name in ("a", "b"):
        written(tmp_path / f"home/{name}.jsonl", lines)
    for left in (0, 1, 5, 11):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(tmp_path / "home"), str(left)]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
        assert done.returncode == -signal.SIGKILL
    with opened(tmp_path / "store") as store:
        report, _ = take(store, "claude", tmp_path / "home")
        assert report.taken > 0
        assert report.already > 0
        assert [payloads(store, stream_id) for stream_id in store.list_streams()] == [lines, lines]


def test_a_store_that_fails_ends_the_import(
    tmp_path: Path, store: FileEventStore[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the report counts is in the store; run again, the rest comes."""
    monkeypatch.setattr("hangarlog.integrations.transcripts._BATCH_EVENTS", 10)
    lines = claude_lines(60)
    path = written(tmp_path / "p/s.jsonl", lines)
    real, calls = Store.append_encoded, iter([False, False, True])

    def failing(self: Any, pendings: Any) -> Any:
        if next(calls, False):
            raise StorageError(self.path, 28, "No space left on device")
        return real(self, pendings)

    monkeypatch.setattr(Store, "append_encoded", failing)
    report = Transcripts()
    with pytest.raises(StorageError):
        import_transcripts(store, [str(path)], "claude", report)
    assert report.taken == store.get_event_count() == 20
    assert take(store, "claude", path)[0] == Transcripts(len(lines) - 20, 20, files=1)


def test_a_transcript_is_found_wherever_it_lies() -> None:
    """The same stream, whatever path leads to it; subagents have their own."""
    for path, kind, stream_id in (
        ("/h/.claude/projects/-h-app/ab-1.jsonl", "claude", "claude:-h-app/ab-1"),
        ("/backup/-h-app/ab-1.jsonl", "claude", "claude:-h-app/ab-1"),
        ("/h/.claude/projects/-h-app/ab-1/subagents/agent-7.jsonl", "claude", "claude:-h-app/ab-1/subagents%2Fagent-7"),
        ("/h/-h-app/ab-1/subagents/w/agent-7.jsonl", "claude", "claude:-h-app/ab-1/subagents%2Fw%2Fagent-7"),
        ("/h/.codex/sessions/2026/11/02/rollout-2026-11-02-x.jsonl", "codex", "codex:2026-11-02-x"),
        ("/h/.codex/archived_sessions/rollout-2026-11-02-x.jsonl", "codex", "codex:2026-11-02-x"),
        ("/var/log/app.jsonl", "jsonl", "jsonl:var/log/app"),
        ("/var/log/app.ndjson", "jsonl", "jsonl:var/log/app.ndjson"),
    ):
        kinds: dict[str, Kind] = {"claude": "claude", "codex": "codex", "jsonl": "jsonl"}
        assert stream_id_of(path, kinds[kind]) == stream_id


def test_the_command_names_what_is_lost(hangarlog: Command, tmp_path: Path) -> None:
    """With file and offset, and exits with 1; of whole files, with 0."""
    path = written(tmp_path / "p/s.jsonl", claude_lines(5))
    done = hangarlog("import", "--format", "claude", "t", "p")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["taken"] == 6
    offset = path.stat().st_size
    path.write_bytes(path.read_bytes() + b'{"type":"user","sess\n{"type":"b","sessionId":"s"}\n')
    os.symlink("s.jsonl", tmp_path / "p/link.jsonl")
    done = hangarlog("import", "--format", "claude", "t", "p", "p/s.jsonl")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"taken": 1, "already": 6, "files": 1, "as_text": 0, "lost": 1, "lost_bytes": 20}
    torn, link = done.stderr.decode().splitlines()
    cause = "it is torn, or another record was written into it"
    assert torn == f"hangarlog: {path}: offset {offset} (line 7): 20 bytes not imported: {cause}"
    assert link.startswith(f"hangarlog: {path.with_stem('link')} was not imported: it is a link")
    for words, code, cause in (
        (["t", "none"], 1, "there is no file or folder of this name"),
        (["t", "-"], 2, "transcripts are not read from standard input"),
        (["--partial", "t", "p"], 2, "--partial is for what `export` wrote"),
    ):
        done = hangarlog("import", "--format", "claude", *words)
        assert done.returncode == code
        assert cause in done.stderr.decode()
    assert "need --format claude, codex or jsonl" in hangarlog("import", "t", "p", "p").stderr.decode()


def test_json_lines_are_an_export_if_they_look_like_one(hangarlog: Command, tmp_path: Path) -> None:
    """Also a damaged one, which is refused as before; anything else is taken line by line."""
    with opened(tmp_path / "s") as store:
        store.append("a:1", [UntypedEvent("T", {"n": number}) for number in range(3)], ANY)
    text = (tmp_path / "s/journal.jsonl").read_bytes()
    (tmp_path / "export.jsonl").write_bytes(b"torn" + text)
    done = hangarlog("import", "--format", "jsonl", "t", "export.jsonl")
    assert b"line 1: the line does not start with" in done.stderr
    (tmp_path / "app.jsonl").write_bytes(b'{"event":"a"}\ntorn\n{"event":"b"}\n')
    done = hangarlog("import", "--format", "jsonl", "t", "app.jsonl")
    assert json.loads(done.stdout)["taken"] == 2
    assert (done.returncode, done.stderr.count(b"offset 14 (line 2): 4 bytes")) == (1, 1)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(text,))
    writer.start()
    done = hangarlog("import", "--format", "jsonl", "piped", "pipe")
    writer.join()
    assert (json.loads(done.stdout)["taken"], done.stderr) == (3, b"")
    done = hangarlog("import", "--format", "jsonl", "t", "missing.jsonl")
    assert b"cannot import missing.jsonl: it cannot be read: No such file" in done.stderr


def test_the_pages_commands_run(hangarlog: Command, tmp_path: Path) -> None:
    """In a home that has transcripts of all kinds; the first three again find nothing new."""
    for kind, folder in (("claude", "home/.claude"), ("codex", "home/.codex"), ("jsonl", "logs")):
        written(places(tmp_path / folder, kind), MAKERS[kind](20))
    page = (ROOT / "docs/transcripts.md").read_text()
    imports, looks = (block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    assert len(imports) == 3
    for taken in (True, False):
        for line in imports:
            done = hangarlog(*shlex.split(line.replace("~", str(tmp_path / "home")))[1:])
            assert (done.returncode, done.stderr) == (0, b"")
            assert bool(json.loads(done.stdout)["taken"]) is taken
    for line in looks:
        name, *words = shlex.split(line)
        command = hangarlog if name == "hangarlog" else lambda *given: subprocess.run(given, cwd=tmp_path, check=False)
        assert command(*(words if name == "hangarlog" else [tool(name), *words])).returncode == 0
