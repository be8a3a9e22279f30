"""More bugs for row 7: of what follows a store (row 19)."""

from __future__ import annotations

from .bug import Bug

ROW = "--row 19 --size 300000"
WAKING = "tests/subscribing/test_waking.py"
ITERATING = "tests/subscribing/test_iterating.py"
FILES = "tests/subscribing/test_files.py"

OF_FOLLOWING = [
    Bug(
        "followers are woken before the commit is published",
        "writer.py",
        "session.standing = state.publish(session.raw, last, first, journal.size, tail)",
        "state.announce(session.raw)\n                session._announced = last\n                "
        "__import__('time').sleep(0.001)\n                "
        "session.standing = state.publish(session.raw, last, first, journal.size, tail)",
        ROW,
    ),
    Bug(
        "a woken follower does not wake the next one",
        "tail.py",
        "            if woken:\n                waking.relay(now)\n",
        "",
        ROW,
    ),
    Bug(
        "a follower of what is durable gets what is committed",
        "tail.py",
        "return min(words[DURABLE], words[COMMITTED]) if self._durable else words[COMMITTED]",
        "return words[COMMITTED]",
        ROW,
    ),
    Bug(
        "a read at the end of the journal counts a record too many",
        "tail.py",
        "self.position = last\n        return without",
        "self.position = last + (len(records) > 3)\n        return without",
        ROW,
    ),
    Bug(
        "what is skipped to reach a place in the journal is one record short",
        "tail.py",
        "self._segment, self._offset = segment, offset\n",
        "self._segment, self._offset, self.position = segment, offset, self.position - (offset > 0)\n",
        ROW,
    ),
    Bug(
        "a stop cuts a batch",
        "subscription.py",
        "if self._stopped and position > self._batch_end:",
        "if self._stopped:",
        ROW,
    ),
    Bug(
        "a stop cuts a batch that goes on in the next block",
        "subscription.py",
        "(not self._stopped or tail.position < self._batch_end)",
        "not self._stopped",
        f"{ITERATING}::test_a_stop_between_two_blocks_of_a_batch_delivers_all_of_it",
    ),
    Bug(
        "a subscription that was interrupted goes on where its tail is",
        "subscription.py",
        "if self._unsure or self._tail.position != self._position:",
        "if False:",
        f"{ITERATING}::test_an_interrupt_between_reading_and_noting_it_loses_nothing",
    ),
    Bug(
        "a recovery wakes nobody",
        "write_session.py",
        "        self.state.wake_followers()\n",
        "",
        f"{WAKING}::test_a_recovery_wakes_who_waits",
    ),
    Bug(
        "a sleeper whose word has changed sleeps again",
        "waking.py",
        "return error == errno.EAGAIN",
        "return False",
        f"{WAKING}::test_a_sleeper_whose_word_changes_before_it_sleeps_looks_again_and_does_not_spin",
    ),
    Bug(
        "a reader without permission to write does not see that a writer has come and gone",
        "reader.py",
        "self._cache = self._unrecovered = None",
        "self._cache = None",
        f"{FILES}::test_a_reader_without_permission_to_write_sees_what_came_between_two_looks",
    ),
]
