"""`hangarlog append`."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from hangarlog import ANY, NO_STREAM, STREAM_EXISTS, UntypedEvent
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


def _events(event_type: str, data: str) -> list[UntypedEvent]:
    raw = sys.stdin.buffer.read(MAX_LINE_BYTES + 1) if data == "-" else data.encode("utf-8", "surrogateescape")
    if len(raw) > MAX_LINE_BYTES:
        raise click.BadParameter(
            f"standard input is longer than {MAX_LINE_BYTES} bytes; append it in parts", param_hint="--data"
        )
    # Standard input holds one object, perhaps over several lines, or one object per line.
    lines = [line for line in raw.split(b"\n") if line.strip()]
    one_per_line = data == "-" and len(lines) > 1 and all(line.lstrip()[:1] == b"{" for line in lines)
    payloads = [_parse_object(part, "--data") for part in (lines if one_per_line else [raw])]
    return [
        UntypedEvent(event_type, payload, _schema_version(payload), payload.get("event_id")) for payload in payloads
    ]


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
@click.option("--metadata", metavar="JSON", help="A JSON object to store beside the payload.")
def append(store: str, stream: str, event_type: str, expected_version: int, data: str, metadata: str | None) -> None:
    """Append an event to STREAM and print the stream's new version.

    If the payload has an event_id, you can repeat the append safely: an event that is there already is not written
    again.
    """
    if not event_type:
        raise click.BadParameter("it is empty", param_hint="--type")
    events = _events(event_type, data)
    extra = None if metadata is None else _parse_object(metadata.encode("utf-8", "surrogateescape"), "--metadata")
    with open_store(store, create=True) as event_store:
        say(str(event_store.append(stream, events, expected_version, metadata=extra)))
