"""The small files of a store, with wild contents."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import msgspec

from hangarlog import ANY, UntypedEvent

from .part import Part, make_base, sealed, use

# fmt: off
NUMBERS = (
    "0", "-1", "1.5", '"1"', "null", "true", "[]", "NaN", "1e999", "9" * 400, str(2**63), str(2**64), "-" + "9" * 40,
)
# fmt: on
ABSENT = {"retained.json": '{"retained":1,"store_id":"STORE","first_position":1,"crc":"00000000"}\n'}
DEEP = ("[" * 2000 + "]" * 2000, "[" * 300_000, '{"x":' * 100_000 + "1" + "}" * 100_000)


def small_files(part: Part) -> None:
    """`hangarlog.json`, `checkpoint.json`, snapshots, state, indexes and others with wild contents."""
    base = part.folder / "base"
    make_base(base)
    index = str(next(path for path in base.rglob("*.index")).relative_to(base))
    names = ("hangarlog.json", "checkpoint.json", "snapshots/a/1.json", "retained.json")
    texts = {name: wild_objects(base, name) for name in names}
    for name, many in {**texts, **wild_binaries(part, base, index)}.items():
        for number, content in enumerate(many):
            for lost in part.states():
                part.made_anew(base, lost=lost)
                path = part.path / name
                if name == "state" and not lost:
                    # In place, so that it is the file that it says it is, of this start of the machine.
                    with part.store() as store:
                        store.append("b:1", [UntypedEvent("T", {})], ANY)
                    content = valid_head(path.read_bytes(), content)
                path.parent.mkdir(exist_ok=True)
                with open(path, "r+b" if path.exists() else "wb") as file:
                    file.truncate()
                    file.write(content)
                with part.case(f"{name} {number}: {content[:60]!r}{', state lost' if lost else ''}"):
                    use(part)
    for name in (*texts, "state", index):
        part.made_anew(base, lost=False)
        (part.path / name).touch()
        os.truncate(part.path / name, 1 << 30)
        with part.case(f"{name} of 1 GiB"):
            use(part)


def wild_objects(base: Path, name: str) -> list[bytes]:
    """Contents of a file that is one JSON object, with something wild in each field in turn."""
    absent = ABSENT.get(name, '{"position":5,"began_at":1.0,"crc":"00000000"}\n')
    raw = (base / name).read_text() if (base / name).exists() else absent
    if name == "retained.json":  # Else it is of another store, whatever else it says.
        raw = raw.replace("STORE", json.loads((base / "hangarlog.json").read_bytes())["store_id"])
    fields = msgspec.json.decode(raw)
    fields.pop("crc", None)
    found = []
    for key in fields:
        for value in (*NUMBERS, *DEEP, '"../../x"', '"\\ud800"', "{}"):
            body = "{" + ",".join(f'"{k}":{value if k == key else json.dumps(v)}' for k, v in fields.items())
            found.append(body.encode() + b"}" if name == "hangarlog.json" else sealed(body))
    body = "{" + ",".join(f'"{k}":{json.dumps(v)}' for k, v in [*fields.items(), *fields.items()])
    return [*found, body.encode() + b"}", sealed(body), b"\xff", b"{", b"", DEEP[1].encode(), b"\0" * 4096]


def wild_binaries(part: Part, base: Path, index: str) -> dict[str, list[bytes]]:
    """Contents of the shared state and of an index: noise, and one word changed."""
    noise = [part.rng.randbytes(n) for n in (1, 15, 16, 100, 4095, 4096, 5000)]
    states = [*noise, b"\xff" * 4096, b"\0" * 4096]
    words = (base / "state").read_bytes()
    for at in range(3, 12):
        wild = (0, 1, 2**63, 2**64 - 1, part.rng.getrandbits(64))
        states += [words[: 8 * at] + w.to_bytes(8, sys.byteorder) + words[8 * at + 8 :] for w in wild]
    indexes = [*noise, (base / index).read_bytes()[:16] + part.rng.randbytes(4096), b"\xff" * 999]
    return {"state": states, index: indexes}


def valid_head(words: bytes, content: bytes) -> bytes:
    return words[:24] + content[24:] if len(content) >= 4096 else content
