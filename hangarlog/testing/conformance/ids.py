"""Conformance tests of event ids: finding an event by its id, and appends that are idempotent for ever."""

from __future__ import annotations

from hangarlog.errors import ConcurrencyError, PartialRetryError
from hangarlog.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS
from hangarlog.testing.conformance.opening import Opening
from hangarlog.testing.events import Counted, raises


def _event(event_id: str) -> Counted:
    return Counted(0, event_id)


class IdConformance(Opening):
    """How every event store finds events by their ids."""

    def test_an_event_is_found_by_its_id(self) -> None:
        """With its envelope; an id that is not there gives None."""
        with self.store() as store:
            assert store.event("x") is None
            assert not store.contains("x")
            store.append("a:1", [_event("w"), _event("x")], NO_STREAM, metadata={"user": "ann"})
            found = store.event("x")
            assert found is not None
            assert found == list(store.records("a:1"))[1]
            assert found.metadata == {"user": "ann"}
            assert store.contains("w")
            assert not store.contains("y")

    def test_an_id_is_text(self) -> None:
        """Anything else is refused."""
        with self.store() as store:
            for wrong in (7, None, b"x"):
                with raises(TypeError):
                    store.event(wrong)  # type: ignore[arg-type]
                with raises(TypeError):
                    store.contains(wrong)  # type: ignore[arg-type]

    def test_of_events_with_one_id_the_first_is_found(self) -> None:
        """In whatever streams they are."""
        with self.store() as store:
            for stream_id in ("a:1", "a:2", "a:3"):
                store.append(stream_id, [_event("x")], NO_STREAM)
            found = store.event("x")
            assert found is not None
            assert (found.position, found.stream_id) == (1, "a:1")

    def test_a_compacted_event_is_found(self) -> None:
        """The store keeps all events."""
        with self.store() as store:
            store.append("a:1", [_event("w"), _event("x"), _event("y")], NO_STREAM)
            store.save_snapshot("a:1", 1, {})
            store.compact_stream("a:1")
            found = store.event("w")
            assert found is not None
            assert (found.stream_version, found.event) == (0, _event("w"))

    def test_an_idempotent_append_is_written_once(self) -> None:
        """Whatever was appended since, and whatever version it expects."""
        with self.store() as store:
            events = [_event("w"), _event("x")]
            first = store.append("a:1", events, NO_STREAM, idempotent=True)
            assert first.written
            store.append("a:1", [Counted(1)], 1)
            store.append("a:2", [Counted(2)], NO_STREAM)
            for expected in (NO_STREAM, ANY, STREAM_EXISTS, 2, 7):
                again = store.append("a:1", events, expected, idempotent=True)
                assert (again, again.first_version, again.written) == (1, 0, False)
                assert (again.first_position, again.last_position) == (1, 2)
                assert again.event_ids == ("w", "x")
            assert store.append_at_end("a:1", [_event("x")], idempotent=True) == 1
            assert store.get_event_count() == 4

    def test_an_idempotent_append_knows_compacted_events(self) -> None:
        """For ever."""
        with self.store() as store:
            store.append("a:1", [_event("w"), _event("x"), _event("y")], NO_STREAM, idempotent=True)
            store.save_snapshot("a:1", 2, {})
            store.append("a:1", [_event("z")], 2, idempotent=True)
            store.compact_stream("a:1")
            again = store.append("a:1", [_event("w"), _event("x")], NO_STREAM, idempotent=True)
            assert (again, again.first_position, again.last_position, again.written) == (1, 1, 2, False)
            assert store.get_stream_version("a:1") == 3

    def test_an_id_in_another_stream_does_not_count(self) -> None:
        """Each stream has its own events, in any number."""
        with self.store() as store:
            for stream_id in ("a:1", "a:2", "a:3"):
                assert store.append(stream_id, [_event("x")], NO_STREAM, idempotent=True).written
            for position, stream_id in enumerate(("a:1", "a:2", "a:3"), 1):
                again = store.append(stream_id, [_event("x")], NO_STREAM, idempotent=True)
                assert (again.last_position, again.written) == (position, False)

    def test_a_new_idempotent_append_keeps_to_the_expected_version(self) -> None:
        """Also where events were compacted."""
        with self.store() as store:
            store.append("a:1", [_event("w"), _event("x")], NO_STREAM, idempotent=True)
            store.save_snapshot("a:1", 1, {})
            store.append("a:1", [_event("y")], 1, idempotent=True)
            store.compact_stream("a:1")
            for expected in (NO_STREAM, 0, 1, 7):
                with raises(ConcurrencyError) as caught:
                    store.append("a:1", [_event("z")], expected, idempotent=True)
                assert type(caught.error) is ConcurrencyError
            assert store.append("a:1", [_event("z")], 2, idempotent=True) == 3
            assert store.append("a:1", [], 3, idempotent=True) == 3

    def test_an_append_that_is_stored_in_part_is_refused(self) -> None:
        """The error names the id that is missing, and where the other one is."""
        with self.store() as store:
            store.append("a:1", [_event("w"), _event("x")], NO_STREAM)
            for events in ([_event("x"), _event("y")], [_event("y"), _event("x")]):
                with raises(PartialRetryError) as caught:
                    store.append("a:1", events, ANY, idempotent=True)
                assert caught.error.missing == ("y", "x", "a:1", 1)
                assert caught.error.actual == 1
            assert store.get_event_count() == 2

    def test_idempotent_events_have_ids_of_their_own(self) -> None:
        """Each one; `retry=False` contradicts it."""
        with self.store() as store:
            with raises(ValueError):
                store.append("a:1", [Counted(1)], ANY, idempotent=True)
            with raises(ValueError):
                store.append("a:1", [_event("x"), _event("x")], ANY, idempotent=True)
            with raises(ValueError):
                store.append("a:1", [_event("x")], ANY, idempotent=True, retry=False)
            assert store.get_event_count() == 0

    def test_append_many_is_idempotent_as_a_whole(self) -> None:
        """All of it is a retry, or nothing of it may be stored."""
        with self.store() as store:
            both = [("a:1", [_event("x")], NO_STREAM), ("a:2", [_event("x"), _event("y")], NO_STREAM)]
            assert store.append_many(both, idempotent=True) == {"a:1": 0, "a:2": 1}
            store.append("a:1", [Counted(1)], 0)
            again = store.append_many([*both, ("a:3", [], ANY)], idempotent=True)
            assert again == {"a:1": 0, "a:2": 1, "a:3": -1}
            assert not any(result.written for result in again.values())
            with raises(PartialRetryError):
                store.append_many([both[0], ("a:4", [_event("z")], NO_STREAM)], idempotent=True)
            twice = [("a:5", [_event("p")], ANY), ("a:6", [_event("p")], ANY), ("a:5", [_event("q")], ANY)]
            assert store.append_many(twice, idempotent=True) == {"a:5": 1, "a:6": 0}
            assert store.append_many(twice, idempotent=True)["a:5"].event_ids == ("p", "q")
            assert store.get_event_count() == 7
