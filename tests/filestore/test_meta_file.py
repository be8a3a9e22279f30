"""The meta file, `hangarlog.json`: what is wrong in it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_lines import opened

from hangarlog import ANY, StoreFormatError, UntypedEvent
from hangarlog.maintenance.repair import repair
from hangarlog.maintenance.verify import verify


@pytest.mark.parametrize(
    "store_id", ["", "x" * 65, "x" * 500, "a b", 'a"b', "a\nb", "a\\", "\x1b[2J", "../x", "\u0661", "caf\u00e9", "a_b"]
)
def test_an_id_that_the_ring_could_not_hold_is_refused_and_repair_gives_another(tmp_path: Path, store_id: str) -> None:
    """Frames of the ring have it between quotes in a header of limited length: acknowledged events would be lost."""
    with opened(tmp_path / "s") as store:
        store.append("a:1", [UntypedEvent("T", {})], ANY)
    path = tmp_path / "s/hangarlog.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "store_id": store_id}))
    with pytest.raises(
        StoreFormatError, match=r"hangarlog\.json is damaged \(store_id is .*\); run `hangarlog repair`"
    ):
        opened(tmp_path / "s")
    assert any(getattr(result, "path", "") == str(path) for result in repair(tmp_path / "s"))
    with opened(tmp_path / "s") as store:
        assert len(store.read_stream("a:1")) == 1
        assert list(verify(store)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("segment_bytes", v) for v in ("0", "-1", str(2**31 + 1), "1.5", '"1"', "true", "null", "9" * 400)]
    + [("mode", v) for v in ('"0777"', '"0600 "', '"600"', "416", '"\u0660640"', '"0o640"')]
    + [("store_id", v) for v in ("1", "null", "[]")]
    + [("format", v) for v in ("1.0", "true", '"1"', "null", "0")]
    + [("store_id__", '"other"'), ("segment_bytes__", "5"), ("format__", "1")],
)
def test_a_meta_file_with_a_wrong_value_or_a_key_twice_is_refused(tmp_path: Path, key: str, value: str) -> None:
    opened(tmp_path / "s").close()
    path = tmp_path / "s/hangarlog.json"
    fields = {name: json.dumps(old) for name, old in json.loads(path.read_text()).items()} | {key: value}
    path.write_text("{" + ",".join(f'"{name.rstrip("_")}":{text}' for name, text in fields.items()) + "}")
    with pytest.raises(StoreFormatError, match=r"hangarlog\.json"):
        opened(tmp_path / "s")
