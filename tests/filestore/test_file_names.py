"""The map from stream ids to file names: injective, reversible, and safe on every file system."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_lines import line, opened

from hangarlog import ANY, StreamIdError, UntypedEvent
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.filestore.file_names import stream_id_of, stream_path
from hangarlog.maintenance.verify import verify

_ALPHABET = st.one_of(st.sampled_from("aAbB:./\\%~_- \u00e9\u00c9e\u0301\u00df\u0131\u0130\u202e"), st.characters())
ids = st.text(_ALPHABET, min_size=1, max_size=400)


def accepted(stream_id: str) -> bool:
    try:
        check_stream_id(stream_id)
    except StreamIdError:
        return False
    return True


@given(ids.filter(accepted))
def test_every_id_that_is_accepted_has_a_safe_path(stream_id: str) -> None:
    """One case, one normal form, no dot, no separator, short enough; and back it is the same id."""
    folder, name = stream_path(stream_id)
    for part in (folder, name) if folder else (name,):
        assert re.fullmatch(r"([a-z0-9_-]|%[0-9A-F]{2})+(~[0-9a-f]{64})?", part)
        assert len(part) + len(".00000000000000000000.jsonl.new") <= 255
    if "~" not in folder + name:
        assert stream_id_of(folder, name) == stream_id


@given(ids.filter(accepted), ids.filter(accepted))
def test_two_ids_never_share_a_path(one: str, two: str) -> None:
    """Not even where a file system folds case and normal forms."""
    if one != two:
        folded = [
            tuple(unicodedata.normalize("NFC", part).casefold() for part in stream_path(each)) for each in (one, two)
        ]
        assert folded[0] != folded[1]


@given(st.text(st.sampled_from("abc%~.4D1F") | st.characters(), max_size=60))
def test_a_file_name_that_no_id_maps_to_is_no_stream(name: str) -> None:
    """Only what the map makes is taken for a stream: other files may lie there."""
    stream_id = stream_id_of("", name)
    assert stream_id is None or stream_path(stream_id) == ("", name)


@pytest.mark.parametrize("device", ["con", "prn", "aux", "nul", "com1", "lpt9"])
def test_windows_devices_are_not_file_names(device: str) -> None:
    for stream_id in (device, f"{device}:{device}", device.upper()):
        folder, name = stream_path(stream_id)
        assert device not in (folder.lower(), name.lower())
        assert stream_id_of(folder, name) == stream_id


@given(st.one_of(st.none(), st.integers(), st.binary(), st.floats()))
def test_what_is_not_text_is_refused(value: object) -> None:
    with pytest.raises(StreamIdError, match="must be text"):
        check_stream_id(value)


# Names of others

DIGITS = ["\u0661", "\uff11", "\u0967", "\u00b9", "\u2460", "\U0001d7cf", "\u0be7"]


@pytest.mark.parametrize("one", DIGITS, ids=ascii)
def test_a_name_in_other_digits_is_a_file_of_somebody_elses(tmp_path: Path, one: str) -> None:
    """Beside the journal, a stream, a snapshot; with an event in it, or none."""
    for content in (b"", line(1)):
        path = tmp_path / f"s{len(content)}"
        with opened(path) as store:
            store.append("a:1", [UntypedEvent("T", {})], ANY)
        names = [
            f"journal.{one * 20}",
            f"journal.{'0' * 19}{one}",
            f"streams/a/1.{one * 20}",
            f"streams/a/1.{'0' * 19}{one}",
            f"streams/a/{one}",
        ]
        names.append("streams/a/1." + "9" * 20)  # Beyond every number that there is.
        for name in names:
            (path / f"{name}.jsonl").write_bytes(content)
        with opened(path) as store:
            assert [record.stream_id for record in store.records()] == ["a:1"]
            assert store.list_streams() == ["a:1"]
            assert list(verify(store)) == []
            store.append("a:1", [UntypedEvent("T", {"text": "x"})], ANY)
        assert all((path / f"{name}.jsonl").read_bytes() == content for name in names)
