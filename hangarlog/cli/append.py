"""`hangarlog append`."""

from __future__ import annotations

import sys
from typing import Any

import click

from hangarlog import ANY, NO_STREAM, STREAM_EXISTS, AppendResult, UntypedEvent
from hangarlog.cli.app import hangarlog, note_done, open_store, with_store
from hangarlog.cli.payloads import object_in, objects_in
from hangarlog.cli.terminal import say
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.record.line import MAX_LINE_BYTES

_VERSION_NAMES = {"any": ANY, "none": NO_STREAM, "exists": STREAM_EXISTS}


def _parse_version(context: click.Context, parameter: click.Parameter, value: str) -> int:
    if value in _VERSION_NAMES:
        return _VERSION_NAMES[value]
    if value == "-1" or (value.isascii() and value.isdecimal()):
        return int(value)
    raise click.BadParameter(f"{value!r} is neither a version nor any, none or exists", context, parameter)


def _given(data: str) -> bytes:
    """Return the text of `--data`: what is given, standard input for `-` or `@-`, or a file for `@PATH`."""
    if data in ("-", "@-"):
        raw, what = sys.stdin.buffer.read(MAX_LINE_BYTES + 1), "standard input"
    elif data.startswith("@"):
        with open(data[1:], "rb") as file:
            raw, what = file.read(MAX_LINE_BYTES + 1), f"the file {data[1:]}"
    else:
        return _encoded(data)
    if len(raw) > MAX_LINE_BYTES:
        raise click.BadParameter(
            f"{what} is longer than {MAX_LINE_BYTES} bytes; append it in parts", param_hint="--data"
        )
    return raw


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _events(event_type: str, data: str, event_id: str | None = None) -> list[UntypedEvent]:
    payloads = objects_in(_given(data), "--data")
    if len(payloads) > 1 and data[:1] not in ("-", "@"):
        raise click.BadParameter("it holds several objects; give them by --data -", param_hint="--data")
    if event_id is not None and (len(payloads) != 1 or payloads[0].get("event_id", event_id) != event_id):
        cause = "--data has several events" if len(payloads) > 1 else "--data has another event_id"
        raise click.BadParameter(f"{cause}; leave one of the two out", param_hint="--event-id")
    own = [payload.get("event_id", event_id) for payload in payloads]
    if None in own and own != [None] * len(own):
        raise click.BadParameter(
            "some lines have an event_id, others do not; give it to all or none", param_hint="--data"
        )
    texts = [own_id for own_id in own if isinstance(own_id, str)]
    if len(set(texts)) < len(texts):
        raise click.BadParameter("two lines have the same event_id; give each event its own", param_hint="--data")
    return [
        UntypedEvent(event_type, payload, _schema_version(payload), own_id)
        for payload, own_id in zip(payloads, own, strict=True)
    ]


def _stored(result: AppendResult) -> str:
    return f"stored up to version {int(result)} of the stream (position {result.last_position})"


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
    metavar="JSON|-|@FILE",
    help="The payload, a JSON object. - reads standard input, @FILE a file: one object, over any number of lines, or "
    "several after one another, which are appended together.",
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
    """Append an event to STREAM and print the stream's new version. A missing STORE is created.

    With an id (--event-id, or event_id in the payload) you can repeat the append safely, at any time: if the stream has
    the id, nothing is written, whatever the expected version and whatever was appended since. Standard error then says
    where the event is, and the exit code is 0. Without an id, a repeated append is written again, except where
    --expected-version refuses it.
    """
    check_stream_id(stream)  # Before a store is created for it.
    if not event_type:
        raise click.BadParameter("it is empty", param_hint="--type")
    for option, text in (("--type", event_type), ("--event-id", event_id or "")):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise click.BadParameter("it is not text in UTF-8", param_hint=option)
    events = _events(event_type, data, event_id)
    extra = None if metadata is None else object_in(_encoded(metadata), "--metadata")
    with open_store(store, create=True) as event_store:
        idempotent = bool(events) and events[0].event_id is not None
        result = event_store.append(stream, events, expected_version, metadata=extra, idempotent=idempotent)
        note_done(_stored(result) if result.written else f"nothing was written: {_place(result)}")
        say(str(result))
        if events and not result.written:
            say(f"nothing was written: {_place(result)}", err=True)
