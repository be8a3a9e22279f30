"""What a check advises: which field was renamed, and a draft of the upcaster that can be pasted but not left unread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec
import pytest

from hangarlog import EventRegistry, EventSerializer, UpcasterChain
from hangarlog.schema.check import Finding, check, failing
from hangarlog.schema.describe import describe
from hangarlog.schema.lockfile import SchemaLock
from hangarlog.schema.locking import make_lock
from hangarlog.schema.renames import LIKELY, guess_renames, likeness
from hangarlog.schema.skeleton import skeleton

RENAMED = """created created_at|userId user_id|msg message|qty quantity|desc description|addr address|args arguments
|amount_cents amount_in_cents|server_name serverName|max_tokens max_completion_tokens|tool_choice tool_choices
|prompt_tokens input_prompt_tokens|text content_text|func function|params parameters|cfg config|recieved_at received_at
|startTime started_at|num_calls number_of_calls|error_msg error_message|dst destination|src source|callId call_id
|duration duration_ms|timeout timeout_seconds|num_retries retries|latency_ms latency|owner owner_id|sender from_sender
|ip ip_address|ctx context|req request|resp response|pwd password|usr user|system system_prompt|model model_name
|partial is_partial|partner partner_id|file file_name|URL url|HTTPStatus http_status|event_ts event_timestamp
|provider mcp_provider|usage_metadata usage|maxItems max_items|reason failure_reason|thinking thinking_tokens"""

DIFFERENT = """id name|user_id order_id|created updated|created_at deleted_at|first_name last_name|start end
|started_at ended_at|min max|source target|old_state new_state|width height|lat lon|email phone|title body
|price quantity|is_active is_deleted|input output|input_tokens output_tokens|request_id response_id
|from_version to_version|key value|street city|zip city|type kind|count mode|provider_id tool_name
|min_length max_length|error result|text image|prompt_tokens completion_tokens|host port|url name|before after
|left right|state status|total tax|order_type payment_type"""


def pairs(text: str) -> list[tuple[str, str]]:
    return [(one, other) for one, _, other in (pair.strip().partition(" ") for pair in text.split("|"))]


@pytest.mark.parametrize("pair", pairs(RENAMED), ids=" ".join)
def test_names_of_one_thing_are_alike(pair: tuple[str, str]) -> None:
    """As in the changelogs of real projects."""
    assert likeness(*pair) >= LIKELY
    assert likeness(*reversed(pair)) >= LIKELY


@pytest.mark.parametrize("pair", pairs(DIFFERENT), ids=" ".join)
def test_names_of_two_things_are_not_alike(pair: tuple[str, str]) -> None:
    """Though both may hold values of the same type."""
    assert likeness(*pair) < LIKELY


def always(one: str, other: str) -> bool:
    return True


def test_a_removed_field_gets_at_most_one_new_name_and_a_new_one_at_most_one_old() -> None:
    removed, added = ["created", "user_id"], ["created_at", "created_on", "userId", "user"]
    assert guess_renames(removed, added, always) == {"user_id": "userId"}, "which of two equally likely, nobody knows"
    assert guess_renames(["msg", "message_text"], ["message"], always) == {"msg": "message"}


def test_alike_names_are_no_rename_if_the_new_field_cannot_hold_the_old_values() -> None:
    before = msgspec.defstruct("Event", [("created", str)])
    after = msgspec.defstruct("Event", [("created_at", int)])
    assert "CONFIRM(data" not in draft(before, after)


# Drafts


def draft(before: Any, after: Any) -> str:
    return skeleton("Event", 1, describe("Event", before), describe("Event", after))


def step_of(code: str, **known: Any) -> Callable[[dict[str, Any]], Any]:
    """The step that a draft registers, which knows what a person has filled in."""
    chain = UpcasterChain()
    exec(code, {"chain": chain, "Any": Any, **known})  # noqa: S102 - it was written here
    ((_, _, step),) = list(chain.steps())
    return step


def same(value: Any) -> Any:
    return value


class OldLine(msgspec.Struct):
    sku: str
    qty: int


class Line(msgspec.Struct):
    sku: str
    quantity: int


class OldCard(msgspec.Struct, tag="card"):
    holder: str
    lines: list[OldLine]


class Card(msgspec.Struct, tag="card"):
    holder_name: str
    lines: list[Line]


class Cash(msgspec.Struct, tag="cash"):
    amount: int


class OldNode(msgspec.Struct):
    msg: str
    below: list[OldNode] = []


class Node(msgspec.Struct):
    message: str
    below: list[Node] = []


OLD_LINE, NEW_LINE = {"sku": "a", "qty": 2}, {"sku": "a", "quantity": 2}


@pytest.mark.parametrize(
    ("before", "after", "stored", "reached"),
    [
        (OldLine, Line, OLD_LINE, NEW_LINE),
        (OldLine | None, Line | None, None, None),
        (OldLine | None, Line | None, OLD_LINE, NEW_LINE),
        (list[OldLine], list[Line], [OLD_LINE], [NEW_LINE]),
        (list[list[OldLine | None]], list[list[Line | None]], [[None, OLD_LINE]], [[None, NEW_LINE]]),
        (dict[str, OldLine], dict[str, Line], {"k": OLD_LINE}, {"k": NEW_LINE}),
        (OldCard | Cash, Card | Cash, {"type": "cash", "amount": 1}, {"type": "cash", "amount": 1}),
        (
            OldCard | Cash | None,
            Card | Cash | None,
            {"type": "card", "holder": "Ada", "lines": [OLD_LINE]},
            {"type": "card", "holder_name": "Ada", "lines": [NEW_LINE]},
        ),
        (str | list[OldLine], str | list[Line], [OLD_LINE], [NEW_LINE]),
        (str | list[OldLine], str | list[Line], "x", "x"),
        (
            OldNode,
            Node,
            {"msg": "a", "below": [{"msg": "b"}]},
            {"message": "a", "below": [{"message": "b", "below": []}]},
        ),
    ],
    ids=str,
)
def test_a_nested_change_gets_a_nested_draft(before: Any, after: Any, stored: Any, reached: Any) -> None:
    """It works once the guesses in it are confirmed, and not before."""
    code = draft(msgspec.defstruct("Event", [("x", before)]), msgspec.defstruct("Event", [("x", after)]))
    assert "FILL_IN" not in code
    assert step_of(code, CONFIRM=same)({"x": stored}) == {"x": reached}
    if stored != reached:
        with pytest.raises(NameError, match="CONFIRM"):
            step_of(code)({"x": stored})


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        (list[str], list[int], "x[]: was text, is integer; it was each"),
        (dict[str, list[str] | None], dict[str, list[int] | None], "x{}[]: was text, is integer; it was each_2"),
        (str | int, int, 'x: text is no longer taken; it was data["x"]'),
        (Literal["a", "b"], Literal["a"], 'x: no longer takes "b"; it was data["x"]'),
    ],
    ids=str,
)
def test_what_is_to_be_filled_in_is_named_to_the_leaf(before: Any, after: Any, path: str) -> None:
    code = draft(msgspec.defstruct("Event", [("x", before)]), msgspec.defstruct("Event", [("x", after)]))
    assert path in code
    assert "FILL_IN" in code


def test_dropped_values_must_be_confirmed() -> None:
    code = draft(msgspec.defstruct("Event", [("a", int), ("b", int)]), msgspec.defstruct("Event", [("a", int)]))
    with pytest.raises(NameError, match="CONFIRM"):
        step_of(code)({"a": 1, "b": 2})
    assert step_of(code, CONFIRM=same)({"a": 1, "b": 2}) == {"a": 1}


@pytest.mark.parametrize("name", ["3d.printed", "²", "class", "Ünïted", 'x"\nimport os', ""])
def test_a_draft_is_python_whatever_the_type_is_called(name: str) -> None:
    compile(skeleton(name, 1, describe(name, OldLine), describe(name, Line)), "draft", "exec")


# Findings


def application(**classes: Any) -> EventSerializer:
    registry = EventRegistry()
    for name, event_class in classes.items():
        registry.event(event_class, name=name)
    return EventSerializer(registry=registry)


def found(before: EventSerializer, after: EventSerializer) -> list[Finding]:
    return failing(check(after, make_lock(before, SchemaLock())))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (list[OldLine] | None, list[Line] | None),
        (str | list[OldLine], str | list[Line]),
        (dict[str, OldCard | Cash], dict[str, Card | Cash]),
        (OldCard | Cash | list[OldCard], Card | Cash | list[Card]),
        (int | list[str], int | list[int]),
    ],
    ids=str,
)
def test_findings_do_not_contradict_themselves(before: Any, after: Any) -> None:
    """An alternative that has changed is not one that is gone and another that has come."""
    old, new = (msgspec.defstruct("Event", [("x", kind)]) for kind in (before, after))
    (finding,) = found(application(Event=old), application(Event=new))
    said = " ".join(finding.details)
    assert "no longer taken" not in said
    assert ", too" not in said


def test_the_alternative_of_a_union_is_named_by_its_tag() -> None:
    old, new = (msgspec.defstruct("Event", [("x", list[kind])]) for kind in (OldCard | Cash, Card | Cash))
    (finding,) = found(application(Event=old), application(Event=new))
    assert "! x[]<card>.holder: was removed: its stored values would be lost; was it renamed to holder_name?" in (
        finding.details
    )


def test_many_types_with_one_rename_get_one_step() -> None:
    """Also where the names are not alike: that all have it says enough."""
    names = [f"Server{name}" for name in ("Started", "Stopped", "Failed", "Added")]
    old = {name: msgspec.defstruct(name, [("provider", str), (f"x{name}", int)]) for name in names}
    new = {name: msgspec.defstruct(name, [("host", str), (f"x{name}", int)]) for name in names}
    first, *others = found(application(**old), application(**new))
    assert "was it renamed to host?" in first.details[0]
    assert first.code.count("@chain.upcaster(") == len(names)
    assert {other.code for other in others} == {f"# the step of {first.event_type} is for this type too"}
    chain = UpcasterChain()
    with pytest.raises(NameError, match="CONFIRM"):
        exec(first.code, {"chain": chain, "Any": Any})  # noqa: S102 - it was written here
    exec(first.code, {"chain": chain, "Any": Any, "CONFIRM": same})  # noqa: S102 - it was written here
    steps = {name: step for name, _, step in chain.steps()}
    assert sorted(steps) == sorted(names)
    assert all(step({"provider": "a", "n": 1}) == {"host": "a", "n": 1} for step in steps.values())


class ProviderStarted(msgspec.Struct):
    provider_id: str
    mode: str
    tools_count: int


class McpServerStarted(msgspec.Struct):
    mcp_server_id: str
    mode: str
    tools_count: str
    duration: float = 0.0


class Ticked(msgspec.Struct):
    id: str


class Noted(msgspec.Struct):
    id: str = ""


class Unrelated(msgspec.Struct):
    text: str = ""


def test_a_renamed_type_is_found_though_its_fields_have_changed_too() -> None:
    lost = found(
        application(ProviderStarted=ProviderStarted), application(A=Unrelated, McpServerStarted=McpServerStarted)
    )
    assert "(is it McpServerStarted now?)" in lost[0].message


def test_an_unrelated_type_is_not_offered() -> None:
    """Though it reads the events, as a class of optional fields reads everything."""
    for other in (Noted, Unrelated):
        (lost,) = found(application(Ticked=Ticked), application(Other=other))
        assert "now?" not in lost.message


def test_a_type_that_the_lock_knows_is_no_new_name_of_another() -> None:
    before = application(ProviderStarted=ProviderStarted, ProviderStarted2=ProviderStarted)
    (lost,) = found(before, application(ProviderStarted2=ProviderStarted))
    assert "now?" not in lost.message
