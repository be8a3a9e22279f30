"""Lines whose checksum is right and which are no records: damage for every command, and a traceback for none."""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import closing
from pathlib import Path
from zlib import crc32

import msgspec
import pytest
from conftest import Command
from made_lines import ends_otherwise, line, opened

from hangarlog import (
    ANY,
    CorruptionError,
    CorruptionWarning,
    EventSerializationError,
    FileEventStore,
    UntypedEvent,
)
from hangarlog.filestore.stored_lines import as_stored
from hangarlog.integrations.export import cloud_events, journal_lines
from hangarlog.integrations.mcp_hangar_sqlite import export_database
from hangarlog.maintenance.repair import Lost, repair
from hangarlog.maintenance.verify import verify, verify_folder

pytestmark = pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")

BAD = {
    "a time that is none": (line(2, recorded_at='"x"'), "recorded_at is 'x'"),
    "a time of month 13": (line(2, recorded_at='"2026-13-01T00:00:00.000000Z"'), "recorded_at is"),
    "a time of the 30th of February": (line(2, recorded_at='"2026-02-30T00:00:00.000000Z"'), "recorded_at is"),
    "a time of a week": (line(2, recorded_at='"2026-W01-1T00:00:00.000000Z"'), "recorded_at is"),
    "a time with an escape in it": (line(2, recorded_at='"2026-01-01\\u001b00:00:00.000000Z"'), "recorded_at is"),
    "a time elsewhere": (line(2, recorded_at='"2026-01-01T00:00:00.0000+01"'), "recorded_at is"),
    "a time in other digits": (line(2, recorded_at='"\u0662\u0660\u0662\u0666-01-01T00:00:00.000000Z"'), "recorded_at"),
    "a time that is a number": (line(2, recorded_at="5"), "recorded_at"),
    "data that is a list": (line(2, data="[]"), "not an object"),
    "data that is a text": (line(2, data='"{}"'), "not an object"),
    "data that is null": (line(2, data="null"), "not an object"),
    "data that is no object, and not last": (ends_otherwise("metadata", "{}").replace(b"{}", b"{}"), ""),
    "metadata that is a list": (line(2, metadata="[1]"), "not an object"),
    "metadata that is null": (line(2, metadata="null"), "not an object"),
    "invalid UTF-8 in a key": (line(2, data=b'{"\xff":1}'), "not a record"),
    "invalid UTF-8 in a value": (line(2, data=b'{"x":"\xed\xa0\x80"}'), "not a record"),
    "invalid UTF-8 in an id": (line(2, event_id=b'"\xff"'), "not a record"),
    "half a surrogate pair": (line(2, data='{"x":"\\ud800"}'), "not a record"),
    "a control character": (line(2, data='{"x":"\x01"}'), "not a record"),
    "a number that is too large": (line(2, data='{"x":1e999}'), "out of range"),
    "a number of 5,000 digits": (line(2, data=f'{{"x":{"9" * 5000}}}'), "out of range"),
    "a number that is none": (line(2, data='{"x":NaN}'), "not a record"),
    "a key of the payload twice": (line(2, data='{"a":1,"a":2}'), "'a' comes twice"),
    "a key twice, deep inside": (line(2, data='{"b":[{"c":{"a":1,"\\u0061":1}}]}'), "'a' comes twice"),
    "a key twice, with blanks": (line(2, data='{"a" :1, "a":2}'), "'a' comes twice"),
    "a key of metadata twice": (line(2, metadata='{"a":1,"a":1}'), "'a' comes twice"),
    "the data twice": (line(2, data="[1]", data__="{}"), "'data' comes twice"),
    "the position twice": (line(2, position__="2"), "'position' comes twice"),
    "the type twice": (line(2, event_type__='"U"'), "'event_type' comes twice"),
    "the checksum twice": (line(2, crc='"00000000"'), "'crc' comes twice"),
    "position 0": (line(0), ">= 1"),
    "position -2": (line(-2), ">= 1"),
    "position 2.0": (line("2.0"), "float"),
    "position 2e0": (line("2e0"), "float"),
    "position true": (line("true"), "bool"),
    "position 2^53": (line(2**53), "<= 9007199254740991"),
    "position 2^63": (line(2**63), "<= 9007199254740991"),
    "position 2^64": (line(2**64), "<= 9007199254740991"),
    "position of 400 digits": (line("9" * 400), "<= 9007199254740991"),
    "version -1": (line(2, stream_version="-1"), ">= 0"),
    "version 2^53": (line(2, stream_version=str(2**53)), "<= 9007199254740991"),
    "version 1.5": (line(2, stream_version="1.5"), "float"),
    "batch_end -1": (line(2, batch_end="-1"), ">= 0"),
    "batch_end 2^64": (line(2, batch_end=str(2**64)), "<= 9007199254740991"),
}

del BAD["data that is no object, and not last"]

_NOT_LAST = line(2).replace(b'"data":{"_version":1}', b'"data":[],"metadata":{}').rpartition(b',"crc"')[0]
BAD["data that is no object, and not last"] = (b'%b,"crc":"%08x"}\n' % (_NOT_LAST, crc32(_NOT_LAST)), "not an object")
FINE = {
    "escapes": line(2, event_type='"\\u0054"', data='{"x":"\\u0041\\/"}'),
    "numbers as somebody wrote them": line(2, data='{"a":1e5,"b":1.50,"c":-0,"d":12345678901234567890123}'),
    "a key that this version does not know": line(2, later='{"x":1}'),
    "keys in another order": ends_otherwise("metadata", '{"z":1,"a":2}'),
    "the same key in several objects": line(2, data='{"a":{"a":1},"b":[{"a":1},{"a":2}]}'),
    "a text that looks like a key": line(2, data='{"a":"\\"a\\":1,\\"a\\":2"}'),
    "the last moment": line(2, recorded_at='"9999-12-31T23:59:59.999999Z"'),
    "letters": line(2, data='{"caf\u00e9":"\u2028\U0001f600"}'),
}


def make(path: Path, *lines: bytes, stream: tuple[bytes, ...] | None = None) -> Path:
    """A store of these lines, in both copies, unless the stream has others."""
    FileEventStore(path, durability="relaxed").close()
    for name in ("state", "catalog"):
        (path / name).unlink()
    (path / "streams/a").mkdir()
    (path / "journal.jsonl").write_bytes(b"".join(lines))
    (path / "streams/a/1.jsonl").write_bytes(b"".join(stream or lines))
    return path


@pytest.mark.parametrize("name", BAD)
def test_it_is_damage_wherever_it_is_met(tmp_path: Path, name: str) -> None:
    """In the middle of a store, in both copies: named by `verify` with its place, raised by what shows it, and passed
    over where that is wanted. What reads typed events raises the library's errors, if any."""
    bad, cause = BAD[name]
    path = make(tmp_path / "s", line(1), bad, line(3))
    (found, *_) = damages = list(verify_folder(path))
    assert {damage.offset for damage in damages} == {len(line(1))}
    assert cause in found.cause
    with opened(path) as store:
        assert {damage.offset for damage in verify(store)} == {len(line(1))}
        for stream_id in (None, "a:1"):
            for reverse in (False, True):
                with pytest.raises(CorruptionError, match="damaged"):
                    list(as_stored(store, store.envelopes(stream_id, reverse=reverse)))
                blocks = as_stored(
                    store, store.envelopes(stream_id, reverse=reverse, on_damage="skip"), skip_damaged=True
                )
                with pytest.warns(CorruptionWarning, match="passed over"):
                    shown = [one for _, lines in blocks for one in lines]
                assert shown == [line(3)[:-1], line(1)[:-1]][:: 1 if reverse else -1]
            with contextlib.suppress(CorruptionError, EventSerializationError):
                list(store.records(stream_id))
        with contextlib.suppress(CorruptionError, EventSerializationError):
            store.read_stream("a:1")
        for export in (journal_lines, cloud_events):
            with pytest.raises(CorruptionError):
                list(export(store))
        with pytest.raises(CorruptionError):
            export_database(store, str(tmp_path / "x.db"))
        assert not (tmp_path / "x.db").exists()


@pytest.mark.parametrize("name", BAD)
def test_the_other_copy_serves_it_and_repair_mends_it(tmp_path: Path, name: str) -> None:
    """In the journal of a store that is open, while its stream has the event whole."""
    bad, _ = BAD[name]
    with opened(tmp_path / "s") as store:
        store.append("a:1", [UntypedEvent("T", {"n": n}) for n in range(3)], ANY)
        first, second, third = (tmp_path / "s/journal.jsonl").read_bytes().splitlines(keepends=True)
        (tmp_path / "s/journal.jsonl").write_bytes(first + bad + third)
        with pytest.warns(CorruptionWarning):
            shown = [one for _, lines in as_stored(store, store.envelopes()) for one in lines]
        assert shown == [first[:-1], second[:-1], third[:-1]]
        assert list(verify(store))
    assert not any(isinstance(result, Lost) for result in repair(tmp_path / "s"))
    assert list(verify_folder(tmp_path / "s")) == []
    with opened(tmp_path / "s") as store:
        assert [event.data for event in store.read_stream("a:1")] == [{"n": n} for n in range(3)]


@pytest.mark.parametrize("name", ["a key of the payload twice", "a key of metadata twice"])
def test_repair_keeps_an_event_with_a_key_twice_that_an_older_version_took(tmp_path: Path, name: str) -> None:
    """In both copies, beside damage that is mended: it is read into its class before and after."""
    lines = [line(1), BAD[name][0], line(3)]
    with opened(tmp_path / "s") as store:
        store.append("a:1", [UntypedEvent("T", {})], ANY)
    for path in ("s/journal.jsonl", "s/streams/a/1.jsonl"):
        (tmp_path / path).write_bytes(b"".join(lines))
    (tmp_path / "s/state").unlink()
    with opened(tmp_path / "s") as store:
        before = store.read_stream("a:1")
        assert len(before) == 3
    (tmp_path / "s/streams/a/1.jsonl").write_bytes(lines[0].replace(b"T", b"t") + lines[1] + lines[2])
    assert not any(isinstance(result, Lost) for result in repair(tmp_path / "s"))
    assert (tmp_path / "s/streams/a/1.jsonl").read_bytes() == b"".join(lines)
    with opened(tmp_path / "s") as store:
        assert store.read_stream("a:1") == before
    assert {damage.position for damage in verify_folder(tmp_path / "s")} == {2}


@pytest.mark.parametrize("name", FINE)
def test_what_another_program_wrote_within_the_rules_is_shown_byte_for_byte(
    hangarlog: Command, tmp_path: Path, name: str
) -> None:
    """By `read --raw`, whatever it is asked for, and by an export; it is no damage."""
    lines = [line(1), FINE[name], line(3)]
    path = make(tmp_path / "s", *lines)
    assert list(verify_folder(path)) == []
    for words in (["read", "s"], ["read", "s", "a:1", "--raw"], ["tail", "s"], ["export", "s", "-"]):
        assert hangarlog(*words).stdout == b"".join(lines), words
    assert hangarlog("read", "s", "--reverse").stdout == b"".join(lines[::-1])
    assert hangarlog("read", "s", "--type", "T", "--limit", "2").stdout == b"".join(lines[:2])


def test_every_export_has_the_payload_as_it_is_stored(hangarlog: Command, tmp_path: Path) -> None:
    """Numbers, escapes and the order of keys are nobody's to change."""
    data = '{"z":1e5,"a":1.50,"s":"\\u0041","n":12345678901234567890123,"_version":1}'
    make(tmp_path / "s", line(1, data=data, metadata='{"z":1.0,"a":"\\u0041"}'))
    with opened(tmp_path / "s") as store:
        store.save_snapshot("a:1", 0, {"state": msgspec.Raw(b'{"z":1e5,"a":1.50,"s":"\\u0041"}')})
    assert hangarlog("export", "s", "x.jsonl").returncode == 0
    assert (tmp_path / "x.jsonl").read_text() == (tmp_path / "s/journal.jsonl").read_text()
    assert f'"data":{data}' in hangarlog("export", "s", "-", "--format", "cloudevents").stdout.decode()
    assert hangarlog("export", "s", "x.db").returncode == 0
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        assert database.execute("SELECT data, metadata FROM events").fetchall() == [(data, '{"z":1.0,"a":"\\u0041"}')]
        ((state,),) = database.execute("SELECT state_data FROM snapshots").fetchall()
    assert state.replace(" ", "") == '{"state":{"z":1e5,"a":1.50,"s":"\\u0041"}}'


def test_an_export_of_a_version_that_is_there_twice_is_refused_with_its_place(
    hangarlog: Command, tmp_path: Path
) -> None:
    make(tmp_path / "s", line(1), line(2, stream_version="0"))
    done = hangarlog("export", "s", "x.db")
    assert done.returncode == 1
    assert b"an event between positions 1 and 2 has the same stream and version as another" in done.stderr
    assert b"Traceback" not in done.stderr
    assert not (tmp_path / "x.db").exists()


def test_a_block_that_an_index_proves_is_looked_at_as_a_line_is(hangarlog: Command, tmp_path: Path) -> None:
    """The index is a cache that came with the folder: its checksums are of whatever somebody wrote."""
    with opened(tmp_path / "s") as store:
        store.append("a:1", [UntypedEvent("T", {"text": "x" * 100, "y": n}) for n in range(2000)], ANY)
    journal = tmp_path / "s/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    body = lines[1000].rpartition(b',"crc"')[0].replace(b'"text":"xxxxxx', b'"y":0,"text":"')
    assert len(body) == len(lines[1000].rpartition(b',"crc"')[0])
    lines[1000] = b'%b,"crc":"%08x"}\n' % (body, crc32(body))
    for file in (journal, tmp_path / "s/streams/a/1.jsonl"):
        file.write_bytes(b"".join(lines))
    for index in (tmp_path / "s").rglob("*.index"):
        content = bytearray(index.read_bytes())
        start = at = 0
        text = b"".join(lines)
        for at in range(16, len(content), 8):
            end = int.from_bytes(content[at : at + 4], "little")
            if any(content[at + 4 : at + 8]):
                content[at + 4 : at + 8] = crc32(text[start:end]).to_bytes(4, "little")
                start = end
        index.write_bytes(content)
    done = hangarlog("read", "s", "--skip-damaged")
    assert done.stdout == b"".join(lines[:1000] + lines[1001:])
    assert b"'y' comes twice" in done.stderr
    assert hangarlog("read", "s", "a:1").returncode == 1
    assert hangarlog("verify", "s").stdout.count(b"'y' comes twice") == 2
    assert hangarlog("schema", "show", "s").returncode == 1


def test_a_snapshot_with_a_right_checksum_and_a_wrong_state_is_damage(tmp_path: Path) -> None:
    for state in (b"[]", b"1", b'{"a":1,"a":2}', b'{"x":1e999}', b'{"x":"\xff"}', b"null"):
        with opened(tmp_path / "s") as store:
            store.append("a:1", [UntypedEvent("T", {})], ANY)
            store.save_snapshot("a:1", 0, {})
            path = tmp_path / "s/snapshots/a/1.json"
            body = path.read_bytes().rpartition(b',"crc"')[0].replace(b'"state":{}', b'"state":' + state)
            path.write_bytes(b'%b,"crc":"%08x"}\n' % (body, crc32(body)))
            assert [damage.path for damage in verify(store)] == [str(path)], state
            if b"a" not in state:
                with pytest.raises(CorruptionError, match="snapshot"):
                    store.load_snapshot("a:1")
                with pytest.raises(CorruptionError):
                    export_database(store, str(tmp_path / "x.db"))
        assert [result.path for result in repair(tmp_path / "s")] == [str(path)]
        assert list(verify_folder(tmp_path / "s")) == []


def test_commands_say_it_and_give_no_traceback(tmp_path: Path, hangarlog: Command) -> None:
    """One of each kind; all of them go through the same functions."""
    for number, name in enumerate(
        ("a time that is none", "data that is a list", "invalid UTF-8 in a value", "position 2^64")
    ):
        path = make(tmp_path / f"s{number}", line(1), BAD[name][0], line(3))
        for words in (
            ["read", path],
            ["tail", path],
            ["export", path, "-"],
            ["export", path, tmp_path / "x.db"],
            ["schema", "show", path],
            ["backup", path, tmp_path / f"b{number}"],
            ["verify", path],
            ["repair", path],
        ):
            done = hangarlog(*words)
            assert done.returncode == 1, words
            assert b"Traceback" not in done.stderr
            assert b"not a record" in done.stdout + done.stderr, (words, done)
        for words in (["stats", path], ["streams", path, "-l"], ["append", path, "b:1", "--type", "T"]):
            done = hangarlog(*words)
            assert (done.returncode, done.stderr) == (0, b"")
