"""Stream ids."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from hangarlog import StreamIdError, UntypedEvent
from hangarlog.maintenance.verify import verify

from .part import Part

# fmt: off
BY_HAND = [
    *(
        "..", ".", "../x", "../../etc/passwd", "a/../../x", "a:../x", "..:x", "x:..", "a/..", "..\\x", "a\\..\\b", "/",
        "\\",
    ),
    *(
        "/etc/passwd", "\\\\server\\share", "C:\\x", "c:/x", "C:x", "file:///etc/passwd", "//x", "~", "~root", "~/x",
        "$x", "$",
    ),
    *(
        "%2e%2e", "%2e%2e%2fx", "%2E", "%", "%%", "%00", "%zz", "a%2Fb", "a:%2e%2e", "..%2f", "%252e", "&#46;",
        "\u2025", "\uff0e\uff0e",
    ),
    *(
        "", " ", "\t", "\n", "\r\n", "a\nb", "a\rb", "a\0b", "\0", "\x7f", "\x1b[2J", "\x80", "\x9b31m", "\u2028",
        "\u2029", "\u0085",
    ),
    *(
        "\ud800", "a\udfffb", "\udc80", "\ud83d\ude00", "\U0001f600", "\U0010ffff", "\ufeff", "\ufffe", "\uffff",
        "\u200b", "\u00ad",
    ),
    *(
        "\u202egnp", "\u2066x", "\u0645", "a\u0301", "\u00e1", "\u212b", "\u00c5", "A\u030a", "\ufb01", "fi", "\u017f",
        "s", "\u0130", "i", "I", "\u0131",
    ),
    *(
        "con", "CON", "prn", "aux", "nul", "NUL", "com1", "com9", "lpt1", "con.txt", "con:con", "a:con", "conin$",
        "clock$", "com\u00b9",
    ),
    *(
        "a", "A", "a.", "a..", "a ", " a", "a. ", ".a", "a:b", "A:b", "a:B", "a:b:c", "a:b:", ":", ":a", "a:", "::",
        "a::b", "a: ", " :a", "a:.", "a:b.",
    ),
    *(
        "journal", "journal.jsonl", "state", "locks", "streams", "snapshots", "hangarlog.json", "checkpoint.json",
        "ring", ".hangarlog",
    ),
    *(
        "journal.00000000000000000001", "a:1.00000000000000000000", "1.jsonl", "x.jsonl.new", "x.new", "x.index",
        "streams:x", "locks:write",
    ),
    *(
        "a:1.jsonl", "a:1.00000000000000000000.jsonl", "snapshots:a", "write.lock", "locks/write.lock", "..:..", "a~b",
        "~" + "0" * 64,
    ),
    *(
        "-rf", "--help", "-", "*", "?", "[a]", "{a,b}", "`id`", "$(id)", ";id", "|id", "&", "'", '"', "a'b\"c", "<x>",
        "${jndi:x}", "%s%n", "{0}",
    ),
    *("a" * n for n in (120, 121, 199, 200, 201, 255, 256, 1023, 1024, 1025, 100_000)),
    *("A" * n for n in (66, 67, 120, 341, 1024)),
    *("\u00e9" * n for n in (33, 34, 200, 512, 513)),
    *(f"{'c' * n}:{'d' * n}" for n in (100, 200, 201, 511, 512)),
    *(
        "a/" * 300, "a:" * 300, "x" * 119 + "%", "x" * 118 + "\u00e9" * 60, ("y" * 300) + "1", ("y" * 300) + "2",
        "1e400", "0", "-1", "NaN", "null",
    ),
]


def ids(part: Part) -> None:
    """Each is refused with its reason or is a stream like any other, and no two are the same one."""
    alphabet = "aA.:/\\%~ _-$\0\n\x1b\x7f\x85\u0301\u00e9\u202e\u2028\ud800\U0001f600cCoOnN0"
    tried = list(dict.fromkeys(BY_HAND))
    while len(tried) < part.size:
        kind = part.rng.randrange(3)
        if kind == 0:
            made = "".join(part.rng.choices(alphabet, k=part.rng.choice((1, 2, 3, 8, 30, 210, 700))))
        elif kind == 1:
            made = "".join(chr(part.rng.randrange(0x110000)) for _ in range(part.rng.choice((1, 2, 5, 90))))
        else:  # Neighbours of others: another case, another normal form, something at an end.
            old = part.rng.choice(tried)
            form = part.rng.choice(("NFC", "NFD", "NFKC", "NFKD"))
            made = part.rng.choice((old.swapcase(), unicodedata.normalize(form, old), old + ".", old + " ", "a:" + old))
        tried.append(made)
    tried = list(dict.fromkeys(tried))
    accepted: dict[str, str] = {}
    store = part.store()
    for number, stream_id in enumerate(tried):
        with part.case(f"id {stream_id[:80]!r}"):
            event = UntypedEvent("T", {"id": number}, event_id=f"e{number}")
            try:
                assert store.append(stream_id, [event], -1) == 0
                accepted[stream_id] = event.event_id
            except StreamIdError as error:
                str(error).encode()
                part.figures["ids refused"] += 1
                for ask in (store.read_stream, store.get_stream_version, store.load_snapshot, store.compact_stream):
                    assert refuses(ask, stream_id), f"{ask.__name__} takes it"
            store.list_streams(stream_id)
    for stream_id in list(accepted)[:: max(1, len(accepted) // 100)]:
        with part.case(f"snapshot of {stream_id[:80]!r}"):
            store.save_snapshot(stream_id, 0, {"of": stream_id})
    store.close()
    for recovered in (False, True):
        with part.case(f"all ids again, recovered: {recovered}"):
            if recovered:
                (part.path / "state").unlink()
            with part.store() as store:
                assert store.list_streams() == sorted(accepted)
                for stream_id, event_id in accepted.items():
                    assert [record.event_id for record in store.records(stream_id)] == [event_id], stream_id
                assert list(verify(store)) == []
    for path in part.path.rglob("*"):
        assert re.fullmatch(r"[a-z0-9_.%A-F~-]+", path.name), path
    part.figures["ids"] = len(tried)


def refuses(ask: Callable[[str], object], stream_id: str) -> bool:
    try:
        ask(stream_id)
    except StreamIdError:
        return True
    return False
