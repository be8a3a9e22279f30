"""Lines with right checksums and wrong contents."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from datetime import datetime
from typing import Any

from hangarlog.integrations.export import journal_lines
from hangarlog.maintenance.verify import verify_folder

from .part import REFUSALS, Part, command, make_base, sealed, use


def lines(part: Part) -> None:
    """Lines with the right checksum and wrong contents, at the end of the journal, of a stream, and in a sealed one."""
    base = part.folder / "base"
    make_base(base)
    places = [
        "journal.jsonl",
        "streams/b/1.jsonl",
        str(next((base / "streams/a").glob("1.0*.jsonl")).relative_to(base)),
    ]
    for name, line in wild_lines().items():
        for place in places if len(line) < 1 << 20 else places[:2]:
            for lost in part.states():
                part.made_anew(base, lost=lost)
                with open(part.path / place, "ab") as file:
                    file.write(line)
                with part.case(f"{place}: {name}{', state lost' if lost else ''}", brings=6 * len(line)):
                    use(part)


def wild_lines() -> dict[str, bytes]:
    """Lines with something wild in one field each, or in none; and very long ones."""
    good = {
        "position": "92",
        "stream_id": '"b:1"',
        "stream_version": "1",
        "event_type": '"T"',
        "event_id": '"x"',
        "recorded_at": '"2026-01-01T00:00:00.000000Z"',
        "data": '{"_version":1}',
    }
    # fmt: off
    wild = [
        *(
            "0", "-1", "1.5", '"1"', "null", "true", "[]", "{}", "NaN", "1e999", "9" * 400, str(2**63), str(2**64),
            '"\\ud800"',
        ),
        *(
            '""', '"../../x"', '"\\u0000"', '"x:../../../etc/passwd"', '"/etc/passwd"', '"$x"', f'"{"x" * 5000}"',
            '"\xff"',
        ),
        *(
            "[" * 2000 + "]" * 2000, '{"x":' * 2000 + "1" + "}" * 2000, "[" * 300_000, '{"_version":1,"_version":2}',
            '{"_version":"x"}',
        ),
        *(
            '"0000-00-00"', '"9999-12-31T23:59:59.999999Z"', '"2026-01-01"', '{"_version":99999999999999999999}',
            '"\x1b[2J"',
        ),
    ]
    # fmt: on
    made = {f"{key} is {value[:24]}": {**good, key: value} for key in good for value in wild}
    for key, value in (("batch_end", w) for w in ("0", "-1", "91", "92", "93", "9" * 400, '"x"', str(2**64), "null")):
        made[f"{key} is {value[:24]}"] = {**good, key: value}
    bodies = {name: "{" + ",".join(f'"{key}":{value}' for key, value in line.items()) for name, line in made.items()}
    plain = "{" + ",".join(f'"{key}":{value}' for key, value in good.items())
    for key, value in good.items():
        bodies[f"{key} twice"] = f'{plain},"{key}":{value}'
        bodies[f"{key} twice, another"] = f'{plain},"{key}":{"7" if value.isdigit() else value[:-1] + "y" + value[-1]}'
    bodies["nothing but a checksum"] = ""
    bodies["an unknown key"] = f'{plain},"unknown":{{}}'
    whole = {name: sealed(body) + b"\n" for name, body in bodies.items()}
    whole["invalid UTF-8"] = sealed(plain.encode().replace(b"b:1", b"b:\xff\xfe")) + b"\n"
    whole["20 MB without a newline"] = b"x" * (20 << 20)
    whole["20 MB of a record"] = plain.encode() + b"x" * (20 << 20)
    whole["20 MB line"] = b"x" * (20 << 20) + b"\n"
    whole["20 MB of newlines"] = b"\n" * (20 << 20)
    whole["20 MB of zeros"] = b"\0" * (20 << 20)
    return whole


def proved(part: Part) -> None:
    """Lines with right checksums in both copies: what is no record to the letter is damage for everything.

    A judge of the standard library says which: it knows nothing of how hangarlog decides.
    """
    for number, (name, body) in enumerate(wild_bodies(part).items()):
        line = sealed(body)
        lines = [sealed(plain_body(1)), line, sealed(plain_body(3))]
        part.path = part.fence / f"store{number}"
        part.store().close()
        (part.path / "state").unlink()
        (part.path / "streams/a").mkdir()
        for file in ("journal.jsonl", "streams/a/1.jsonl"):
            (part.path / file).write_bytes(b"".join(one + b"\n" for one in lines))
        with part.case(f"proved: {name}", brings=8 * len(line), refusable=False):
            damages = list(verify_folder(part.path))
            assert is_to_the_letter(line) or damages, "it is whole for verify"
            with contextlib.suppress(*REFUSALS), part.store() as store:
                shown = [one for block in journal_lines(store) for one in block.split(b"\n")]
                assert shown == lines, "an export has other bytes"
                assert is_to_the_letter(line), "it is no record, and exported"
            part.figures["damage" if damages else "records"] += 1
        if number % 60 == 0:
            with part.case(f"proved, by the command line: {name}", refusable=False):
                for words in (["read"], ["tail", "--raw"], ["stats"], ["verify"], ["export"], ["repair"]):
                    done = command(words[0], part.path, *(["-"] if words == ["export"] else words[1:]))
                    assert done.returncode in (0, 1), f"{words} ends with {done.returncode}"
                    assert b"Traceback" not in done.stderr, done.stderr[-600:]
        shutil.rmtree(part.path)


def plain_body(place: int, **fields: str) -> str:
    values = {
        "position": str(place),
        "stream_id": '"a:1"',
        "stream_version": str(place - 1),
        "event_type": '"T"',
        "event_id": f'"e{place}"',
        "recorded_at": '"2026-01-01T00:00:00.000000Z"',
        **fields,
    }
    return "{" + ",".join(f'"{key}":{value}' for key, value in values.items()) + ',"data":{"_version":1}'


def wild_bodies(part: Part) -> dict[str, bytes]:
    """Bodies of the line at position 2, each with something wild in one place, or in several by chance."""
    # fmt: off
    wild = [
        *("0", "-1", "2.0", "2e0", "true", "null", "[]", "{}", '""', '"x"', "9" * 400, str(2**53), str(2**63), "02"),
        *('{"a":1,"a":2}', '{"x":{"a":1,"\\u0061":2}}', '[{"":1,"":1}]', '{"x":1e999}', '{"x":NaN}', '"\\ud800"'),
        *('"2026-13-01T00:00:00.000000Z"', '"2026-01-01t00:00:00.000000Z"', '"2026-01-01T00:00:00.000000z"', '"\x1b"'),
        *('{"x":1.50,"y":1e5}', '{"_version":1,"_version":1}', "[" * 2000 + "]" * 2000, '{"x":' + "9" * 5000 + "}"),
        *('"\xff"', '{"\xed\xa0\x80":1}', ' {"x" : 1 } ', '{"x":1,}', '{"x":"\\/\\u00e9"}', '"\u0661"', "1 2", ""),
    ]
    # fmt: on
    keys = ("position", "stream_id", "stream_version", "event_type", "event_id", "recorded_at", "metadata", "batch_end")
    plain = plain_body(2)
    found: dict[str, str] = {}
    for value in wild:
        found |= {f"{key} is {value[:30]}": plain_body(2, **{key: value}) for key in keys}
        found |= {f"{key} again, {value[:30]}": f'{plain},"{key}":{value},"z":{{}}' for key in (*keys, "data", "crc")}
        found[f"data is {value[:30]}"] = plain.replace('{"_version":1}', value)
        found[f"data has {value[:30]}"] = plain.replace('{"_version":1}', f'{{"_version":1,"x":{value}}}')
    while len(found) < part.size:
        body = found[part.rng.choice(list(found))]
        at = part.rng.randrange(1, len(body))
        more = part.rng.choice((*wild, ",", '"a":1,', '"a":1,"a":1,', "{", "}", "\\", '"', " "))
        found[f"chance {len(found)}"] = body[:at] + more + body[at + part.rng.choice((0, 0, 1, len(more))) :]
    return {name: body.encode("latin-1", "replace") for name, body in found.items()}


def is_to_the_letter(line: bytes) -> bool:
    """Whether a line is a record, as docs/format.md has it, for a program that takes no key twice."""

    def single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return found

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(text)
        return number

    try:
        record = json.loads(line.decode(), object_pairs_hook=single, parse_float=finite, parse_constant=finite)
        json.dumps(record, ensure_ascii=False).encode()
        datetime.strptime(record["recorded_at"], "%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    numbers = [(record.get("position"), 1), (record.get("stream_version"), 0), (record.get("batch_end", 0), 0)]
    texts = [record.get(key) for key in ("stream_id", "event_type", "event_id", "recorded_at")]
    return (
        all(type(number) is int and least <= number < 2**53 for number, least in numbers)
        and all(type(text) is str for text in texts)
        and re.fullmatch(r"[0-9]{4}-[0-9-]{5}T[0-9:]{8}\.[0-9]{6}Z", texts[-1]) is not None
        and type(record.get("data")) is dict
        and type(record.get("metadata", {})) is dict
    )
