"""The handler does what any handler does, and each record is in the store once when the call returns."""

from __future__ import annotations

import errno
import json
import logging
import logging.config
import logging.handlers
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from hangarlog import FileEventStore, StoreBusyError, StoreOpenError, UntypedEvent
from hangarlog.integrations.logging import HangarlogHandler
from hangarlog.memory import MemoryEventStore
from hangarlog.system.filesystem import FileSystem


@pytest.fixture
def store() -> MemoryEventStore[UntypedEvent]:
    return MemoryEventStore.untyped()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger whose handlers are closed after the test."""
    logger = logging.getLogger("shop.orders")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    for handler in [*logger.handlers]:
        logger.removeHandler(handler)
        handler.close()


def stored(store: Any, stream_id: str = "log:shop.orders") -> list[dict[str, Any]]:
    return [event.data for event in store.read_stream(stream_id)]


def test_a_record_keeps_what_it_has(store: Any, logger: logging.Logger) -> None:
    """Message, template, args, place, thread, `extra`; its time is the event's."""
    logger.addHandler(HangarlogHandler(store))
    logger.warning("%s of %d left", "tea", 3, extra={"order": 7, "who": {"name": "Ada"}})
    (data,) = stored(store)
    assert data["message"] == "tea of 3 left"
    assert (data["template"], data["args"]) == ("%s of %d left", ["tea", 3])
    assert (data["logger"], data["level"], data["levelno"]) == ("shop.orders", "WARNING", 30)
    assert data["extra"] == {"order": 7, "who": {"name": "Ada"}}
    assert (data["pathname"], data["funcName"]) == (__file__, "test_a_record_keeps_what_it_has")
    assert (data["process"], data["thread"]) == (os.getpid(), threading.get_ident())
    assert "exception" not in data
    assert "text" not in data
    record = logging.LogRecord("a", 10, "", 1, "x", (), None)
    record.created = 1_700_000_000.25
    logger.handle(record)
    (stored_record,) = store.records("log:a")
    assert stored_record.recorded_at.isoformat() == "2023-11-14T22:13:20.250000+00:00"


def test_an_exception_is_structured(store: Any, logger: logging.Logger) -> None:
    """With frames, notes, causes and the members of groups; a stack, too."""
    logger.addHandler(HangarlogHandler(store))

    def fail() -> None:
        try:
            raise KeyError("tea")
        except KeyError as error:
            error.add_note("it was here yesterday")
            raise ExceptionGroup("two", [ValueError("x"), TypeError("y")]) from error

    try:
        fail()
    except ExceptionGroup:
        logger.exception("failed", stack_info=True)
    (data,) = stored(store)
    raised = data["exception"]
    assert (raised["type"], raised["module"], raised["message"]) == (
        "ExceptionGroup",
        "builtins",
        "two (2 sub-exceptions)",
    )
    assert raised["frames"][-1]["function"] == "fail"
    assert raised["frames"][-1]["text"].startswith("raise ExceptionGroup")
    assert raised["cause"]["notes"] == ["it was here yesterday"]
    assert [each["type"] for each in raised["exceptions"]] == ["ValueError", "TypeError"]
    assert "test_an_exception_is_structured" in data["stack"]


class Hostile:
    """A value whose every method fails."""

    def __repr__(self) -> str:
        raise RuntimeError

    __str__ = __repr__


def test_values_that_json_does_not_have_become_text(store: Any, logger: logging.Logger) -> None:
    """Of any size and depth; the application goes on, and everything else of the record is kept."""
    logger.addHandler(HangarlogHandler(store))
    loop: list[Any] = []
    loop += [loop] * 10
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    values = {
        "bytes": b"\xff",
        "set": {1},
        "nan": float("nan"),
        "big": 1 << 70,
        "half": "\ud800",
        "path": Path("/x"),
        "keys": {(1, 2): 3, None: 4},
        "hostile": Hostile(),
        "kind": Hostile,
        "error": ValueError("x"),
        "loop": loop,
        "deep": deep,
        "many": [*range(20_000)],
    }
    logger.info("%r", Path("/x"), extra=values)
    extra = stored(store)[0]["extra"]
    assert extra.pop("loop")
    assert extra.pop("deep")
    assert extra == {
        "bytes": "b'\\xff'",
        "set": [1],
        "nan": "nan",
        "big": str(1 << 70),
        "half": "\\ud800",
        "path": "PosixPath('/x')",
        "keys": {"(1, 2)": 3, "None": 4},
        "hostile": "<Hostile: its repr() raised RuntimeError>",
        "kind": f"<class '{Hostile.__module__}.Hostile'>",
        "error": "x",
        "many": "<list of 20000>",
    }


def test_causes_in_a_circle_and_groups_of_groups_are_bounded(store: Any) -> None:
    handler = HangarlogHandler(store)
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    group: Exception = one
    for _ in range(20):
        group = ExceptionGroup("many", [group] * 20)
    for error in (one, group):
        handler.handle(logging.LogRecord("shop.orders", 40, "", 1, "failed", (), (type(error), error, None)))
    circle, many = stored(store)
    assert circle["exception"]["cause"]["cause"]["message"] == "one"
    assert len(json.dumps(many)) < 100_000


def test_recursion_leaves_an_exception_of_bounded_size(store: Any, logger: logging.Logger) -> None:
    logger.addHandler(HangarlogHandler(store))

    def recur() -> None:
        recur()

    try:
        recur()
    except RecursionError:
        logger.exception("deep")
    raised = stored(store)[0]["exception"]
    assert len(raised["frames"]) == 100
    assert raised["frames_omitted"] > 100


def test_a_formatter_a_filter_and_a_level_count(store: Any, logger: logging.Logger) -> None:
    """The formatted text is kept beside the message."""
    handler = HangarlogHandler(store, logging.INFO)
    handler.setFormatter(logging.Formatter("{levelname}: {message}", style="{"))
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    logger.addHandler(handler)
    logger.debug("no")
    logger.info("a secret")
    logger.error("yes")
    (data,) = stored(store)
    assert (data["message"], data["text"]) == ("yes", "ERROR: yes")


def test_what_cannot_be_formatted_is_told_as_by_any_handler(
    store: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = HangarlogHandler(store)
    wrong, right = (logging.LogRecord("shop.orders", 40, "", 1, "%d", (value,), None) for value in ("x", 3))
    handler.handle(wrong)
    handler.handle(right)
    assert [data["message"] for data in stored(store)] == ["3"]
    assert "--- Logging error ---" in capsys.readouterr().err
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler.handle(wrong)
    assert capsys.readouterr().err == ""


def test_streams_are_one_for_each_logger_or_as_asked(store: Any) -> None:
    """Whatever a logger is called."""
    one = HangarlogHandler(store, stream="log:all")
    own = HangarlogHandler(store, stream=lambda record: f"thread:{record.thread}")
    each = HangarlogHandler(store)
    names = ["root", "", "a.b", "..", "a:b", "a/../b", "\x00\n", "$x", "\ud800", "x" * 5000, "Übung"]
    for name in names:
        for handler in (one, own, each):
            handler.handle(logging.LogRecord(name, 20, "", 1, "hello", (), None))
    assert len(stored(store, "log:all")) == len(stored(store, f"thread:{threading.get_ident()}")) == len(names)
    assert len(store.list_streams("log:")) == len(names) + 1


def test_it_works_behind_a_queue_and_a_memory_handler(store: Any, logger: logging.Logger) -> None:
    """As the library's own do: a record that was prepared for pickling has its message and its exception as text."""
    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    sender, target = logging.handlers.QueueHandler(records), HangarlogHandler(store)
    listener = logging.handlers.QueueListener(records, target, respect_handler_level=True)
    memory = logging.handlers.MemoryHandler(10, target=target)
    logger.addHandler(sender)
    listener.start()
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        logger.exception("%s failed", Hostile)
    listener.stop()
    logger.removeHandler(sender)
    logger.addHandler(memory)
    logger.info("kept")
    assert len(stored(store)) == 1
    memory.flush()
    behind, kept = stored(store)
    assert "Hostile" in behind["message"]
    assert "failed" in behind["message"]
    assert "ZeroDivisionError" in json.dumps(behind)
    assert kept["message"] == "kept"


def test_it_can_be_configured_by_a_dictionary_and_opens_again(tmp_path: Path) -> None:
    """A path is opened at once, so that a mistake is seen; a record after `close` opens it again."""
    options = {"class": "hangarlog.integrations.logging.HangarlogHandler", "store": str(tmp_path / "logs")}
    config = {"version": 1, "disable_existing_loggers": False, "handlers": {"events": options}}
    logging.config.dictConfig({**config, "loggers": {"shop.config": {"handlers": ["events"], "level": "INFO"}}})
    logger = logging.getLogger("shop.config")
    handler = logger.handlers[0]
    logger.info("one")
    handler.close()
    logger.info("two")
    handler.close()
    handler.close()
    logger.removeHandler(handler)
    with FileEventStore.untyped(tmp_path / "logs") as store:
        assert [data["message"] for data in stored(store, "log:shop.config")] == ["one", "two"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreOpenError):
        HangarlogHandler(tmp_path / "file")


def test_a_folder_that_was_moved_or_deleted_is_made_anew(tmp_path: Path, logger: logging.Logger) -> None:
    """As for any log. What was logged before is where the folder is."""
    logs = tmp_path / "logs"
    logger.addHandler(HangarlogHandler(logs))
    logger.info("one")
    logs.rename(tmp_path / "logs.1")
    for message in ("two", "three"):
        while not logs.exists():  # A store notices it within a millisecond.
            logger.info(message)
        if message == "two":
            shutil.rmtree(logs)
    with FileEventStore.untyped(tmp_path / "logs.1") as store:
        assert stored(store)[0]["message"] == "one"
    with FileEventStore.untyped(logs) as store:
        assert stored(store)[-1]["message"] == "three"


class Odd(FileSystem):
    """A file system that does something when the store writes."""

    def __init__(self) -> None:
        self.acts: list[Any] = []

    def write(self, fd: int, data: bytes) -> None:
        if self.acts:
            self.acts.pop(0)()
        super().write(fd, data)


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_store_that_fails_does_not_stop_the_application(
    tmp_path: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each record that is not stored is told; once there is room again, the next is stored."""
    disk = Odd()
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed", filesystem=disk) as store:
        logger.addHandler(HangarlogHandler(store))
        logger.info("one")
        disk.acts = [full] * 2
        for name in ("two", "three"):
            logger.info(name)
            told = capsys.readouterr().err
            assert told.count("--- Logging error ---") == 1
            assert "No space left on device" in told
            assert f"Message: '{name}'" in told
        logger.info("four")
        assert [data["message"] for data in stored(store)] == ["one", "four"]
        assert capsys.readouterr().err == ""


def test_a_store_that_is_busy_is_waited_for_once(
    tmp_path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each record of a batch. Each is told, and the next is stored."""
    monkeypatch.setattr("hangarlog.integrations.log_writer.LOCK_TIMEOUT", 0.2)
    told = []

    class Telling(HangarlogHandler):
        def handleError(self, record: logging.LogRecord) -> None:
            told.append((record.getMessage(), sys.exc_info()[0]))

    handler = Telling(tmp_path / "s", stream="log:all")
    logger.addHandler(handler)
    calls: list[int] = []
    real = FileEventStore._commit
    monkeypatch.setattr(
        FileEventStore, "_commit", lambda self, *given: calls.append(len(given[0])) or real(self, *given)
    )
    with FileEventStore.untyped(tmp_path / "s", exclusive=True), handler._writer._writing:
        threads = [threading.Thread(target=logger.info, args=(str(number),)) for number in range(5)]
        for thread in threads:
            thread.start()
        while len(handler._writer._waiting) < 5:
            pass
        handler.flush()
    for thread in threads:
        thread.join()
    assert sorted(told) == [(str(number), StoreBusyError) for number in range(5)]
    assert len(calls) == 1
    logger.info("after")
    with FileEventStore.untyped(tmp_path / "s") as store:
        assert [data["message"] for data in stored(store, "log:all")] == ["after"]


def test_a_record_that_is_too_large_does_not_take_others_with_it(
    tmp_path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hangarlog.record.batch.MAX_LINE_BYTES", 10_000)
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        handler = HangarlogHandler(store)
        logger.addHandler(handler)
        with handler._writer._writing:  # As if another thread wrote meanwhile.
            threads = [threading.Thread(target=logger.info, args=("x" * size,)) for size in (1, 20_000, 2)]
            for thread in threads:
                thread.start()
            while len(handler._writer._waiting) < 3:
                pass
        for thread in threads:
            thread.join()
        assert sorted(data["message"] for data in stored(store)) == ["x", "xx"]
        assert capsys.readouterr().err.count("--- Logging error ---") == 1


def test_what_the_store_itself_warns_of_is_logged_afterwards(tmp_path: Path, logger: logging.Logger) -> None:
    """The thread holds the store's locks then, in an append of the handler or of the application."""
    disk = Odd()
    warned = logging.getLogger("py.warnings")
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed", filesystem=disk) as store:
        handler = HangarlogHandler(store)
        for each in (logger, warned):
            each.addHandler(handler)
        logging.captureWarnings(True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                disk.acts = [lambda: warnings.warn("from within", stacklevel=1)]
                logger.info("one")
                assert len(stored(store, "log:py.warnings")) == 1
                disk.acts = [lambda: warnings.warn("from yours", stacklevel=1)]
                store.append_at_end("a:1", [UntypedEvent("T", {})])
                while len(stored(store, "log:py.warnings")) < 2:
                    pass  # A thread writes it a moment later.
                logger.info("two")
                assert len(stored(store, "log:py.warnings")) == 2
                disk.acts = [lambda: warnings.warn("again", stacklevel=1)] * 9
                logger.info("three")
                handler.flush()
        finally:
            logging.captureWarnings(False)
            warned.removeHandler(handler)
        assert [data["message"] for data in stored(store)] == ["one", "two", "three"]


def test_ctrl_c_within_an_append_loses_and_doubles_nothing(tmp_path: Path, logger: logging.Logger) -> None:
    """Whether it came before or after the write, the next record takes it along."""
    disk = Odd()

    def interrupt() -> None:
        raise KeyboardInterrupt

    def turns() -> None:
        for _ in range(9):
            logger.info("turn")

    with FileEventStore.untyped(tmp_path / "s", durability="relaxed", filesystem=disk) as store:
        handler = HangarlogHandler(store)
        logger.addHandler(handler)
        for turn in range(4):
            disk.acts = [lambda: None] * turn + [interrupt]
            with pytest.raises(KeyboardInterrupt):
                turns()
        disk.acts = []
        logger.info("last")
        assert not handler._writer._waiting
        ids = [record.event_id for record in store.records("log:shop.orders")]
        assert len(ids) == len(set(ids))
        assert len(ids) >= 5


def test_a_signals_handler_may_log(store: Any, logger: logging.Logger) -> None:
    """At any moment of a record's way into the store."""
    logger.addHandler(HangarlogHandler(store))
    caught = []

    def log(number: int, frame: object) -> None:
        caught.append(number)
        logger.info("signal")

    before = signal.signal(signal.SIGALRM, log)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        count = 0
        while len(caught) < 100:
            logger.info("plain")
            count += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    logger.info("plain")
    messages = Counter(data["message"] for data in stored(store))
    assert messages == {"signal": len(caught), "plain": count + 1}


def test_records_linger_to_be_written_together(tmp_path: Path, logger: logging.Logger) -> None:
    """An error does not, and takes along what waits; so does a full batch, and `flush`."""
    with FileEventStore.untyped(tmp_path / "s") as store:
        handler = HangarlogHandler(store, linger=60)
        logger.addHandler(handler)
        for number in range(3):
            logger.info(number)
        assert store.get_event_count() == 0
        logger.error("bad")
        assert [data["message"] for data in stored(store)] == ["0", "1", "2", "bad"]
        assert len({next(iter(block)).batch_end for block in store.envelopes()}) == 1
        for number in range(1000):
            logger.info(number)
        assert store.get_event_count() == 1004
        logger.info("one more")
        handler.flush()
        assert store.get_event_count() == 1005
        handler._writer._linger = 0.01
        logger.info("alone")
        while store.get_event_count() < 1006:
            pass
    for linger in (-1, 61, float("nan")):
        with pytest.raises(ValueError, match="linger must be"):
            HangarlogHandler(tmp_path / "s", linger=linger)


def test_the_pages_programs_run(tmp_path: Path) -> None:
    """Each as a program of its own; structlog's is run where structlog is."""
    programs = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/logging.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(programs) == 4
    for program in programs:
        if "structlog" not in program:
            command = [sys.executable, "-W", "error", "-c", program]
            subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    with FileEventStore.untyped(tmp_path / "logs") as store:
        assert stored(store, "log:shop")[0]["message"] == "3 left"
