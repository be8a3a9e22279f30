"""An append with an event id is safe to repeat on the command line."""

from __future__ import annotations

import pytest
from conftest import Command


def test_an_append_with_an_id_is_safe_to_repeat_at_any_time(hangarlog: Command) -> None:
    """By default: also after others appended, and with several events. Standard error says where they are."""

    def repeat(*arguments: object, stdin: bytes = b"") -> tuple[bytes, bytes]:
        done = hangarlog("append", "s", "a:1", "--type", "T", *arguments, stdin=stdin)
        assert done.returncode == 0
        return done.stdout, done.stderr

    assert repeat("--data", '{"event_id":"k1"}') == (b"0\n", b"")
    assert repeat("--event-id", "k2") == (b"1\n", b"")
    two = b'{"event_id":"k3"}\n{"event_id":"k4"}\n'
    assert repeat("--data", "-", stdin=two) == (b"3\n", b"")
    there = b"nothing was written: the event is there already, at version %d (position %d)\n"
    assert repeat("--data", '{"event_id":"k1"}') == (b"0\n", there % (0, 1))
    assert repeat("--event-id", "k1", "--expected-version", "none") == (b"0\n", there % (0, 1))
    assert repeat("--event-id", "k2", "--data", '{"event_id":"k2"}') == (b"1\n", there % (1, 2))
    message = b"nothing was written: the events are there already, at versions 2 to 3 (positions 3 to 4)\n"
    assert repeat("--data", "-", stdin=two) == (b"3\n", message)
    assert len(hangarlog("read", "s").stdout.splitlines()) == 4
    part = hangarlog(
        "append", "s", "a:1", "--type", "T", "--data", "-", stdin=b'{"event_id":"k4"}\n{"event_id":"k5"}\n'
    )
    assert part.returncode == 1
    assert b"id 'k5' is not in stream 'a:1'" in part.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["--event-id", "x", "--data", '{"event_id":"y"}'], b"", b"--data has another event_id"),
        (["--event-id", "x", "--data", "-"], b"{}\n{}\n", b"--data has several events"),
        (["--data", "-"], b'{"event_id":"x"}\n{}\n', b"some lines have an event_id"),
    ],
)
def test_ids_that_do_not_fit_are_wrong_usage(
    hangarlog: Command, arguments: list[str], stdin: bytes, message: bytes
) -> None:
    done = hangarlog("append", "s", "a:1", "--type", "T", *arguments, stdin=stdin)
    assert done.returncode == 2
    assert message in done.stderr
