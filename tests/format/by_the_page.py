"""A reader and verifier of closed stores, written from docs/format.md and docs/format-binary.md, and nothing else.

It imports no hangarlog: what it says of a store is what the pages say.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

MAX = 2**53 - 1
HEAD = b'{"position":'
CRC_BYTES = len(b',"crc":"00000000"}')
BLANKS = {*range(9, 14), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F}
BLANKS |= {0x3000}
CONTROLS = {*range(0x20), *range(0x7F, 0xA0)}
DEVICES = {"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(10)}
Json = dict[str, Any]

# A line


def strict_json(text: bytes, levels: int = 129, *, twice: bool = False) -> Any:
    """The value of a JSON text. Raises `ValueError` about what no line may have, `twice` says that a key may repeat."""

    def members(pairs: list[tuple[str, Any]]) -> Json:
        if not twice and len(dict(pairs)) != len(pairs):
            raise ValueError("a key comes twice")
        return dict(pairs)

    def number(text: str) -> float:
        if abs(value := float(text)) == float("inf"):
            raise ValueError("beyond a float")
        return value

    def refuse(text: str) -> None:
        raise ValueError(text)

    try:
        value = json.loads(text.decode(), object_pairs_hook=members, parse_float=number, parse_constant=refuse)
        check(value, levels)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value


def check(value: Any, levels: int) -> None:
    if isinstance(value, str):
        value.encode()  # Raises a ValueError for half of a surrogate pair.
    elif isinstance(value, (dict, list)):
        if not levels:
            raise ValueError("nested too deep")
        for each in value.items() if isinstance(value, dict) else value:
            parts = each if isinstance(each, tuple) else (each,)
            for part in parts:
                check(part, levels - 1)


def signed(text: bytes) -> bytes | None:
    """What a text that ends in a `crc` says, as its bytes; None if the checksum is wrong."""
    text = text.removesuffix(b"\n")
    return text if text[-CRC_BYTES:] == b',"crc":"%08x"}' % crc32(text[:-CRC_BYTES]) else None


def is_int(value: Any, least: int = 0, most: int = MAX) -> bool:
    return type(value) is int and least <= value <= most


def is_time(value: Any) -> bool:
    if not (
        isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}(:[0-9]{2}){2}\.[0-9]{6}Z", value)
    ):
        return False
    try:
        datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%fZ")
    except ValueError:
        return False
    return value[17:19] < "60"


def is_move(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str) and is_int(value.get("position"))


def record(line: bytes) -> Json | None:
    """The record of a line without its newline, None if it is none."""
    if (
        not line.startswith(HEAD)
        or len(line) >= 1 << 28
        or line[-CRC_BYTES - 1 : -CRC_BYTES] != b"}"
        or not signed(line)
    ):
        return None
    try:
        found = strict_json(line)
    except ValueError:
        return None
    good = (
        is_int(found.get("position"), 1)
        and is_int(found.get("stream_version"))
        and all(isinstance(found.get(key), str) for key in ("stream_id", "event_type", "event_id", "crc"))
        and is_time(found.get("recorded_at"))
        and isinstance(found.get("metadata", {}), dict)
        and isinstance(found.get("data"), dict)
        and is_int(found.get("batch_end", 0))
        and is_move(found.get("cursor", {"name": "", "position": 0}))
    )
    return found if good else None


def counts(line: bytes) -> Json | None:
    """What a line says that keeps its place: a record, or what only breaks the format as a lenient reader allows."""
    if found := record(line):
        return found
    if not line.startswith(HEAD) or line[-CRC_BYTES - 1 : -CRC_BYTES] != b"}" or not signed(line):
        return None
    try:
        read = json.JSONDecoder(parse_int=digits, parse_constant=digits)
        found = read.decode(line.decode(errors="replace"))
        check(found, 1 << 30)
    except (ValueError, RecursionError):
        return None
    texts = [found.get(key) for key in ("stream_id", "event_type", "event_id", "recorded_at", "crc")]
    whole = all(isinstance(text, str) and "\ufffd" not in text for text in texts)
    numbers = (found.get("position"), 1), (found.get("stream_version"), 0), (found.get("batch_end", 0), 0)
    whole &= all(is_int(number, least) for number, least in numbers)
    return found if whole and "data" in found else None


def digits(text: str) -> float:
    """An integer; infinity for a long one. Raises `ValueError` for `NaN` and `Infinity`."""
    return int(text) if len(text) <= 4300 else float("inf")


def written(position: int, stream_id: str, version: int, rest: bytes) -> bytes:
    """A line as a writer writes it: `rest` is all from the type on."""
    body = b'{"position":%d,"stream_id":%b,"stream_version":%d,%b' % (position, string(stream_id), version, rest)
    return b'%b,"crc":"%08x"}' % (body, crc32(body))


ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def string(text: str) -> bytes:
    written = (ESCAPES.get(c) or (c if c >= " " else rf"\u{ord(c):04x}") for c in text)
    return f'"{"".join(written)}"'.encode()


def erased(line: bytes, *, journal: bool) -> Json | None:
    """What an erased line says, None if it is none."""
    tabs = line.count(b"\t")
    if not signed(line) or bool(tabs) != journal:
        return None
    plain = line.replace(b"\t", b"", tabs)
    if plain.count(b',"metadata":null') != 1:
        return None
    try:
        found = strict_json(line)
    except ValueError:
        return None
    rest = b'"event_type":"","event_id":%b,"recorded_at":%b,"metadata":%bnull' % (
        string(found["event_id"]),
        string(found["recorded_at"]),
        b"\t" * tabs,
    )
    rest += b',"batch_end":%d' % found["batch_end"] if found.get("batch_end") else b""
    if "cursor" in found and journal:
        rest += b',"cursor":{"name":%b,"position":%d}' % (string(found["cursor"]["name"]), found["cursor"]["position"])
    made = written(found["position"], found["stream_id"], found["stream_version"], rest + b',"data":{}')
    return found if made == line else None


# Names


def is_stream_id(text: str) -> bool:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return False
    codes = {*map(ord, text)}
    if not 1 <= size <= 1024 or codes <= BLANKS or codes & CONTROLS or text[0] in "$/\\":
        return False
    if re.match(r"[A-Za-z]:[/\\]", text) or {".", ".."} & {*re.split(r"[/\\:]", text)}:
        return False
    category, colon, rest = text.partition(":")
    return not colon or bool(category and rest)


def part(text: str) -> str:
    raw = text.encode()
    plain = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
    name = "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in raw)
    if name in DEVICES:
        return f"%{raw[0]:02X}{name[1:]}"
    if len(name) <= 200:
        return name
    return re.sub(r"%[0-9A-F]?$", "", name[:120]) + "~" + sha256(raw).hexdigest()


def path_of(stream_id: str) -> str:
    category, colon, rest = stream_id.partition(":")
    return f"{part(category)}/{part(rest)}" if colon else part(stream_id)


def id_at(path: str) -> str | None:
    """The id of a path without `~`, None if no id leads there."""
    try:
        halves = [
            re.sub(rb"%([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), half.encode()).decode()
            for half in path.split("/")
        ]
    except ValueError:
        return None
    stream_id = ":".join(halves)
    return stream_id if len(halves) < 3 and is_stream_id(stream_id) and path_of(stream_id) == path else None


def sealed_number(name: str, log: str) -> int | None:
    match = re.fullmatch(rf"{re.escape(log)}\.([0-9]{{20}})\.jsonl(\.zst)?", name, re.ASCII)
    return int(match[1]) if match and int(match[1]) <= MAX else None


# Segments


class Segment(NamedTuple):
    """A segment: its number (None: active), its text, and whether it is a compressed file that is damaged."""

    number: int | None
    path: Path
    text: bytes
    is_damaged: bool = False

    def parts(self) -> Iterator[tuple[bytes, bool]]:
        """Each line without its newline, and whether it had one."""
        *lines, rest = self.text.split(b"\n")
        yield from ((line, True) for line in lines)
        if rest:
            yield rest, False

    @property
    def first(self) -> bytes:
        return self.text.split(b"\n", 1)[0] if b"\n" in self.text else b""

    def is_misnamed(self, key: str) -> bool:
        """True if a sealed segment begins with a record of another number than its name says."""
        found = record(self.first) or erased(self.first, journal=key == "position")
        return self.number is not None and found is not None and found[key] != self.number


def segments(folder: Path, log: str, key: str, begins: int = 0) -> tuple[list[Segment], list[Segment]]:
    """The segments of a log in order, the active one last if it is there; and the sealed ones that do not belong."""
    active = folder / f"{log}.jsonl"
    text = active.read_bytes() if active.is_file() else None
    numbers: dict[int, Path] = {}
    for path in sorted(folder.glob(f"{log}.*.jsonl*")):
        number = sealed_number(path.name, log)
        if number is not None and number >= begins:
            numbers.setdefault(number, path)  # Sorted: the plain one first.
    found = [Segment(number, path, *sealed_text(path, number)) for number, path in sorted(numbers.items())]
    others: list[Segment] = []
    if text is not None:
        last = Segment(None, active, text)
        first = record(last.first) or erased(last.first, journal=key == "position")
        if first:
            others = [each for each in found if each.number is not None and each.number >= first[key]]
            found = [each for each in found if each not in others]
        found.append(last)
    return found, others


def sealed_text(path: Path, number: int) -> tuple[bytes, bool]:
    return unpacked(path.read_bytes(), number) if path.suffix == ".zst" else (path.read_bytes(), False)


def unpacked(data: bytes, number: int) -> tuple[bytes, bool]:
    """The text of a compressed segment, and whether it is damaged."""
    from hangarlog.log.zstd import zstd  # The module of zstd, wherever it is installed.

    module, texts = zstd(""), list[bytes]()
    pairs = tables(data, number)
    if pairs is None:
        return b"".join(frame_by_frame(module, data)), True
    at, good = 0, True
    for size, text_size, lines in pairs:
        try:
            text = module.decompress(data[at : at + size])
        except module.ZstdError:
            text = b""
        if len(text) != text_size or not text.endswith(b"\n"):
            text, good = b"\0" * (text_size - lines) + b"\n" * lines, False
        good &= text.count(b"\n") == lines
        texts.append(text)
        at += size
    return b"".join(texts), not good


def frame_by_frame(module: Any, data: bytes) -> Iterator[bytes]:
    """The texts of the frames of a file whose tables are damaged. What is no frame is one damaged line."""
    magic = b"\x28\xb5\x2f\xfd"
    damaged = not data.startswith(magic)
    for piece in data.split(magic)[1:]:
        unpacker = module.ZstdDecompressor()
        try:
            text = unpacker.decompress(magic + piece)
        except module.ZstdError:
            text = b""
        damaged |= not (unpacker.eof and text.endswith(b"\n"))
        if damaged and unpacker.eof:
            yield b"\0\n"
        damaged &= not unpacker.eof
        yield text if unpacker.eof else b""
    if damaged:
        yield b"\0\n"


def tables(data: bytes, number: int) -> list[tuple[int, int, int]] | None:
    """(Size, size of the text, lines) of each frame by the tables of a compressed segment; None if they are damaged."""
    if len(data) < 9:
        return None
    count, form, magic = struct.unpack("<IBI", data[-9:])
    q = len(data) - 17 - 8 * count
    p = q - 28 - 4 * (count - 1)
    if (form, magic) != (0, 0x8F92EAB1) or count < 2 or p < 0:
        return None
    n = count - 1
    counts = struct.unpack(f"<{n}I", data[p + 24 : p + 24 + 4 * n])
    pairs = [*struct.iter_unpack("<II", data[q + 8 : q + 8 + 8 * n])]
    whole = (
        struct.unpack("<II8sQ", data[p : p + 24]) == (0x184D2A57, 20 + 4 * n, b"HLFRAMES", number)
        and data[q - 4 : q] == struct.pack("<I", crc32(data[q + 8 : q + 8 + 8 * n], crc32(data[p + 8 : q - 4])))
        and sum(size for size, _ in pairs) == p
        and all(0 < lines <= size // 64 for lines, (_, size) in zip(counts, pairs, strict=True))
    )
    return [(*pair, lines) for pair, lines in zip(pairs, counts, strict=True)] if whole else None


def is_nothing(line: bytes) -> bool:
    return b"\0" in line or not line.strip(b"\t\n\v\f\r ")


def is_torn(line: bytes, *, ended: bool) -> bool:
    """True if a part of a log's end that is no record is torn."""
    return is_nothing(line) or (not ended and (line.startswith(HEAD) or HEAD.startswith(line)))


# The ring


def frames(ring: bytes) -> Iterator[tuple[int, int, Json, bytes]]:
    """(Block, the block after it, header, lines) of each whole frame."""
    block = 0
    while block * 4096 < len(ring):
        at = block * 4096
        end = ring.find(b"\n", at, at + 512)
        block += 1
        if ring[at : at + 1] != b"\x1e" or end < 0:
            continue
        head, _, crc = ring[at:end].rpartition(b',"crc":"')
        try:
            header = json.loads(ring[at + 1 : end])
            lines = ring[end + 1 : end + 1 + header["length"]]
        except (ValueError, KeyError, TypeError):
            continue
        if len(lines) == header["length"] and crc == b'%08x"}' % crc32(lines, crc32(head)):
            after = -(-(end + 1 + header["length"]) // 4096)
            yield block - 1, after, header, lines
            block = after
