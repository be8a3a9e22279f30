"""`hangarlog append`."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from hangarlog import ANY, NO_STREAM, STREAM_EXISTS, AppendResult, UntypedEvent
from hangarlog.cli.app import hangarlog, open_store, with_store
from hangarlog.cli.terminal import say
from hangarlog.record.line import MAX_LINE_BYTES
from hangarlog.record.strict import refuse_repeated_keys

_VERSION_NAMES = {"any": ANY, "none": NO_STREAM, "exists": STREAM_EXISTS}


def _parse_version(context: click.Context, parameter: click.Parameter, value: str) -> int:
    if value in _VERSION_NAMES:
        return _VERSION_NAMES[value]
    if value == "-1" or (value.isascii() and value.isdecimal()):
        return int(value)
    raise click.BadParameter(f"{value!r} is neither a version nor any, none or exists", context, parameter)


def _parse_object(raw: bytes, option: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(raw, type=dict[str, Any])
        refuse_repeated_keys(raw)
        return found
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise click.BadParameter(f"not a JSON object: {error}", param_hint=option) from error


def _events(event_type: str, data: str, event_id: str | None = None) -> list[UntypedEvent]:
    raw = sys.stdin.buffer.read(MAX_LINE_BYTES + 1) if data == "-" else data.encode("utf-8", "surrogateescape")
    if len(raw) > MAX_LINE_BYTES:
        raise click.BadParameter(
            f"standard input is longer than {MAX_LINE_BYTES} bytes; append it in parts", param_hint="--data"
        )
    # Standard input holds one object, perhaps over several lines, or one object per line.
    lines = [line for line in raw.split(b"\n") if line.strip()]
    one_per_line = data == "-" and len(lines) > 1 and all(line.lstrip()[:1] == b"{" for line in lines)
    payloads = [_parse_object(part, "--data") for part in (lines if one_per_line else [raw])]
    if event_id is not None and (len(payloads) != 1 or payloads[0].get("event_id", event_id) != event_id):
        cause = "--data has several events" if len(payloads) > 1 else "--data has another event_id"
        raise click.BadParameter(f"{cause}; leave one of the two out", param_hint="--event-id")
    own = [payload.get("event_id", event_id) for payload in payloads]
    if None in own and own != [None] * len(own):
        raise click.BadParameter(
            "some lines have an event_id, others do not; give it to all or none", param_hint="--data"
        )
    return [
        UntypedEvent(event_type, payload, _schema_version(payload), own_id)
        for payload, own_id in zip(payloads, own, strict=True)
    ]


def _place(result: AppendResult) -> str:
    first, last = result.first_version, int(result)
    if first == last:
        return f"the event is there already, at version {last} (position {result.last_position})"
    positions = f"positions {result.first_position} to {result.last_position}"
    return f"the events are there already, at versions {first} to {last} ({positions})"


def _schema_version(payload: dict[str, Any]) -> int:
    version = payload.pop("_version", 1)
    if type(version) is not int or version < 1:
        raise click.BadParameter(f"_version must be a whole number from 1 up, not {version!r}", param_hint="--data")
    return version


@hangarlog.command()
@with_store("stream")
@click.option("--type", "event_type", required=True, help="The event type.")
@click.option(
    "--expected-version",
    default="any",
    show_default=True,
    metavar="N|any|none|exists",
    callback=_parse_version,
    help="The version that the stream must be at. -1 means that it must not exist.",
)
@click.option(
    "--data",
    default="{}",
    show_default=True,
    metavar="JSON|-",
    help="The payload, a JSON object. - reads one object from standard input, or several, one per line, which are "
    "appended together.",
)
@click.option("--event-id", metavar="ID", help="The event's id, unless the payload has it as event_id.")
@click.option("--metadata", metavar="JSON", help="A JSON object to store beside the payload.")
def append(
    store: str,
    stream: str,
    event_type: str,
    expected_version: int,
    data: str,
    event_id: str | None,
    metadata: str | None,
) -> None:
    """Append an event to STREAM and print the stream's new version.

    With an id (--event-id, or event_id in the payload) you can repeat the append safely, at any time: if the stream has
    the id, nothing is written, whatever the expected version and whatever was appended since. Standard error then says
    where the event is, and the exit code is 0. Without an id, a repeated append is written again, except where
    --expected-version refuses it.
    """
    if not event_type:
        raise click.BadParameter("it is empty", param_hint="--type")
    events = _events(event_type, data, event_id)
    extra = None if metadata is None else _parse_object(metadata.encode("utf-8", "surrogateescape"), "--metadata")
    with open_store(store, create=True) as event_store:
        idempotent = bool(events) and events[0].event_id is not None
        result = event_store.append(stream, events, expected_version, metadata=extra, idempotent=idempotent)
        say(str(result))
        if events and not result.written:
            say(f"nothing was written: {_place(result)}", err=True)
