"""Blocks that are decoded at once hold the same events as their lines do, whatever types and versions are in them."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hangarlog import EVENT_VERSION_MAP, EventSerializer, UntypedEvent, UpcasterChain
from hangarlog.events import block_reader
from hangarlog.events import serializer as serializer_module
from hangarlog.events.block_reader import _only_version
from hangarlog.record.line import decode_record, encode_records
from hangarlog.record.verified_block import VerifiedBlock
from hangarlog.testing import registered


class Now(msgspec.Struct):
    """Of version 1."""

    n: int = 0
    data: Any = None


class Raised(msgspec.Struct):
    """Of version 3."""

    n: int = 0
    tags: list[str] = []
    data: Any = None


@dataclasses.dataclass
class Plain:
    """Of version 2, with attributes beside its fields."""

    n: int = 0

    def __post_init__(self) -> None:
        self.event_id = "fresh"


def serializer() -> EventSerializer:
    chain = UpcasterChain()
    chain.upcaster("Raised", 1)(lambda data: {**data, "n": data["n"] + 100})
    chain.upcaster("Raised", 2)(lambda data: {**data, "tags": ["new"]})
    chain.upcaster("Plain", 1)(lambda data: {**data, "n": data["n"] + 1000})
    EVENT_VERSION_MAP.update(Raised=3, Plain=2)
    return EventSerializer(chain)


def run_of(events: list[tuple[str, bytes]], metadata: bytes | None = None) -> VerifiedBlock:
    encoded = [(name, f"e{n}", data, None, None) for n, (name, data) in enumerate(events)]
    lines, _ = encode_records(7, "a:1", 0, encoded, b"2026-01-01T00:00:00.000000Z", metadata)
    return VerifiedBlock(b"".join(lines), len(lines), "path", "segment", 0)


def outcome(pairs: Any) -> list[Any]:
    """What comes, and the error that ends it."""
    seen: list[Any] = []
    try:
        for envelope, event in pairs:
            seen.append(
                (envelope.position, envelope.stream_id, envelope.event_type, event, getattr(event, "event_id", 0))
            )
    except Exception as error:
        seen.append((type(error), str(error)))
    return seen


keys = st.sampled_from(["data", "_version", "x"])
inner = st.recursive(
    st.integers(0, 3) | st.sampled_from(['"', '\\","data":{"_version":1,', "{", "é"]),
    lambda part: st.dictionaries(keys, part, max_size=3) | st.lists(part, max_size=2),
    max_leaves=6,
)
bodies = st.dictionaries(st.sampled_from(["data", "more", "event_id"]), inner, max_size=3)
versions = st.sampled_from([None, 1, 1, 2, 3, 3, 4, 0, True, "1", [1]])
events = st.tuples(st.sampled_from(["Now", "Raised", "Plain", "Unknown"]), versions, bodies)


def data_of(version: Any, body: dict[str, Any]) -> bytes:
    head = {} if version is None else {"_version": version}
    return msgspec.json.encode({**head, "n": 5, **body})


@given(st.lists(events, min_size=1, max_size=6), st.none() | bodies, st.sampled_from([0, 1, 40]))
def test_a_block_gives_the_events_that_its_lines_give(
    some: list[tuple[str, Any, Any]], metadata: Any, per_type: int
) -> None:
    """With a plan from the first block on, from a later one on, and without one."""
    with registered(Now=Now, Raised=Raised, Plain=Plain), pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_reader, "_EVENTS_PER_TYPE", per_type)
        ours = serializer()
        encoded = None if metadata is None else msgspec.json.encode(metadata)
        run = run_of([(name, data_of(version, body)) for name, version, body in some], encoded)
        lines = [decode_record(line) for line in run.text.split(b"\n")[:-1]]
        for fields in (), ("position", "stream_id"), ("position", "stream_id", "metadata", "recorded_at"):
            blocks = ours.blocks("position", "stream_id", *fields)
            expected = outcome(blocks.pairs(lines))
            for _ in range(2):  # Also with what was learned of it.
                assert outcome(blocks.pairs(run)) == expected
            assert list(run) == lines


@pytest.mark.parametrize("old", [b'{"_version":1,"n":5}', b'{"n":5}', b"{}", b'{"_version":2,"n":5}'])
@pytest.mark.parametrize(
    "decoy",
    [
        b'{"_version":3,"n":5,"data":{"_version":3,"x":1}}',
        b'{"_version":3,"n":5,"data":{"x":1,"data":{"_version":3,"x":1}}}',
        b'{"_version":3,"n":5,"data":{"x":[{"x":1,"data":{"_version":3,"x":1}}]}}',
        b'{"_version":3,"n":5,"data":{"x":",\\"data\\":{\\"_version\\":3,"}}',
    ],
)
def test_an_old_payload_is_not_taken_for_a_current_one_for_what_another_holds(old: bytes, decoy: bytes) -> None:
    """Where the text of the block has as many beginnings of current payloads as lines."""
    with registered(Now=Now, Raised=Raised, Plain=Plain):
        ours = serializer()
        for texts in ([decoy, old], [decoy, old, old], [decoy, decoy, old], [decoy, b'{"_version":3}', old]):
            run = run_of([("Raised", text) for text in texts])
            by_line = outcome(ours.blocks().pairs([decode_record(line) for line in run.text.split(b"\n")[:-1]]))
            together = outcome(ours.blocks("position", "stream_id").pairs(run))
            assert together == by_line
            assert together[-1][0] is not None


def test_metadata_is_not_taken_for_a_payload() -> None:
    with registered(Raised=Raised):
        ours = serializer()
        run = run_of([("Raised", b'{"_version":1,"n":5}')] * 3, b'{"a":1,"data":{"_version":3,"n":5}}')
        assert list(ours.blocks().events(run)) == [Raised(105, ["new"])] * 3


def test_a_line_written_by_hand_is_of_the_version_that_it_says() -> None:
    """With blanks, or with its keys escaped, among lines that make up for what it lacks."""
    with registered(Now=Now, Raised=Raised, Plain=Plain):
        ours = serializer()
        decoy = b'{"_version":3,"n":5,"x":{"a":1,"data":{"_version":3,"a":1}}}'
        for key in b'"data" : {', b'"d\\u0061ta":{', b'"data":{ ':
            text = run_of([("Raised", decoy), ("Raised", b'{"n":1}')]).text
            first, second, _ = text.split(b"\n")
            by_hand = first + b"\n" + second.replace(b'"data":{', key) + b"\n"
            assert list(ours.blocks().events(VerifiedBlock(by_hand, 2, "path", "segment", 0))) == [
                Raised(5),
                Raised(101, ["new"]),
            ]


def test_types_that_come_and_go_are_all_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when they are more than a plan may have."""
    monkeypatch.setattr(block_reader, "_MAX_TYPES", 300)
    kinds = {f"Kind{n}": msgspec.defstruct(f"Kind{n}", [("n", int)]) for n in range(450)}
    with registered(**kinds):
        blocks = EventSerializer().blocks()
        for start in (0, 100, 250, 0, 440) * 40:
            names = [f"Kind{n % 450}" for n in range(start, start + 210)]
            found = list(blocks.events(run_of([(name, b'{"_version":1,"n":3}') for name in names])))
            assert found == [kinds[name](3) for name in names]
        (plan,) = blocks._plans._plans.values()
        assert len(plan._rows) == 300


def test_what_is_remembered_of_types_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may have any number of types that nobody registered."""
    monkeypatch.setattr(block_reader, "_MAX_TYPES", 20)
    monkeypatch.setattr(block_reader, "_MAX_REMEMBERED", 100)
    monkeypatch.setattr(serializer_module, "_MAX_READERS", 100)
    ours = EventSerializer(unknown="untyped")
    blocks = ours.blocks()
    for start in range(0, 3000, 50):
        names = [f"Unknown{n}" for n in range(start, start + 50)]
        found = list(blocks.events(run_of([(name, b'{"_version":2,"n":3}') for name in names])))
        assert found == [UntypedEvent(name, {"n": 3}, 2) for name in names]
    plans = blocks._plans
    assert max(len(plans._readers), len(plans._kinds), len(ours._readers)) <= 100
    assert [len(plan._rows) for plan in plans._plans.values()] == [20]


def test_a_plan_is_made_when_reading_without_it_has_cost_as_much() -> None:
    """And two plans are the most, whatever versions the blocks mix."""
    with registered(Now=Now, Raised=Raised, Plain=Plain):
        blocks = serializer().blocks()
        current, old = b'{"_version":3,"n":5}', b'{"_version":1,"n":5}'
        for n in range(200):
            texts = [old if n % 2 and n >> bit & 1 else current for bit in range(8)]
            found = list(blocks.events(run_of([("Raised", text) for text in texts])))
            assert [event.n for event in found] == [105 if text is old else 5 for text in texts]
            assert (blocks._plans._last is not None) == (n >= 8)
        assert len(blocks._plans._plans) == 2


@pytest.mark.parametrize("metadata", [None, b'{"a":{"data":{"_version":1,"x":"{"}},"data":{"_version":1}}'])
@pytest.mark.parametrize("version", [1, 3])
def test_long_lines_are_read_as_their_lines_are(version: int, metadata: bytes | None) -> None:
    """Also those with metadata, which may hold what looks like a payload."""
    text = b'{"_version":%d,"n":5,"data":{"data":{"_version":2}},"x":"%b"}' % (version, b"{" * 5000)
    with registered(Raised=Raised):
        for count in 1, 2, 5:
            run = run_of([("Raised", text)] * count, metadata)
            assert _only_version(run) == version
            lines = [decode_record(line) for line in run.text.split(b"\n")[:-1]]
            assert [run.first, run.last, run[0], run[-1]] == [lines[0], lines[-1], lines[0], lines[-1]]
            assert list(run) == lines
            blocks = serializer().blocks("position", "stream_id")
            for _ in range(40):
                assert outcome(blocks.pairs(run)) == outcome(blocks.pairs(lines))
            mixed = run_of([("Raised", text), ("Raised", b'{"_version":2,"n":5}'), ("Raised", text)], metadata)
            assert _only_version(mixed) is None


def test_a_long_line_written_by_hand_is_of_the_version_that_it_says() -> None:
    """With blanks, with keys twice or in another order."""
    with registered(Raised=Raised):
        pad = b',"x":"%b","y":{"a":1,"data":{"_version":3,"n":9}}}' % (b"x" * 5000)
        text = run_of([("Raised", b'{"_version":1,"n":5' + pad)]).text
        for key in b'"data" : {', b'"d\\u0061ta":{', b'"data":{ ', b'"data":{"z":{"data":{}},':
            by_hand = text.replace(b'"data":{', key, 1)
            block = VerifiedBlock(by_hand, 1, "path", "segment", 0)
            assert list(serializer().blocks().events(block)) == [Raised(105, ["new"])]


def test_a_type_that_is_registered_anew_is_read_as_what_it_is_now() -> None:
    run = run_of([("Now", b'{"_version":1,"n":3}')] * 2)
    with registered(Now=Now):
        blocks = EventSerializer().blocks()
        assert list(blocks.events(run)) == [Now(3), Now(3)]
        other = msgspec.defstruct("Other", [("n", str | int)])
        with registered(Now=other):
            assert list(blocks.events(run)) == [other(3), other(3)]
