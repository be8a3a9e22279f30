"""The processor in structlog's chains: it keeps each event, passes it on, and never stops the program."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from hangarlog import FileEventStore, MemoryEventStore, UntypedEvent
from hangarlog.integrations.logging import HangarlogHandler
from hangarlog.integrations.structlog import HangarlogProcessor

PAGE = Path(__file__).parents[3] / "docs/logging.md"


@pytest.fixture
def store() -> MemoryEventStore[UntypedEvent]:
    return MemoryEventStore.untyped()


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def logger(*processors: Any, **values: Any) -> Any:
    structlog.configure(processors=processors, logger_factory=structlog.testing.CapturingLoggerFactory())
    return structlog.get_logger().bind(**values)


def stored(store: Any, stream_id: str = "log:shop") -> list[dict[str, Any]]:
    return [event.data for event in store.read_stream(stream_id)]


def test_an_event_keeps_its_keys_and_goes_on(store: Any) -> None:
    factory = structlog.testing.CapturingLoggerFactory()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            HangarlogProcessor(store),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=factory,
    )
    with structlog.contextvars.bound_contextvars(request="r1"):
        structlog.get_logger().bind(logger="shop").warning("low", left=3, path=Path("/x"))
    (record,) = store.records("log:shop")
    data = dict(record.event.data)
    assert data.pop("timestamp") == record.recorded_at.isoformat().replace("+00:00", "Z")
    assert data == {
        "event": "low",
        "left": 3,
        "level": "warning",
        "logger": "shop",
        "path": "PosixPath('/x')",
        "request": "r1",
    }
    (call,) = factory.logger.calls
    assert json.loads(call.args[0])["left"] == 3


@pytest.mark.parametrize("given", ["true", "error", "tuple"])
def test_an_exception_is_structured(store: Any, given: str) -> None:
    log = logger(HangarlogProcessor(store), logger="shop")
    try:
        raise KeyError("tea")
    except KeyError as error:
        log.error("failed", exc_info={"true": True, "error": error, "tuple": sys.exc_info()}[given])
    log.error("fine", exc_info=True)
    failed, fine = stored(store)
    assert (failed["exception"]["type"], failed["exception"]["message"]) == ("KeyError", "'tea'")
    assert failed["exception"]["frames"][0]["function"] == "test_an_exception_is_structured"
    assert (fine["exception"], fine["level"]) == (None, "error")


def test_as_the_last_it_ends_the_chain(store: Any) -> None:
    factory = structlog.testing.CapturingLoggerFactory()
    structlog.configure(processors=[HangarlogProcessor(store, last=True)], logger_factory=factory)
    structlog.get_logger().bind(logger="shop").info("kept")
    assert stored(store)[0]["event"] == "kept"
    assert factory.logger.calls == []


def test_a_store_that_fails_is_told_and_the_program_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A closed store; and a stream that is none. `on_error` is told instead, if it is given."""
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        processor = HangarlogProcessor(store)
    told: list[Any] = []
    log = logger(processor, HangarlogProcessor(store, stream="..", on_error=told.append), logger="shop")
    log.info("lost")
    error = capsys.readouterr().err
    assert "hangarlog could not store 'lost'" in error
    assert "it was closed" in error
    assert [event["event"] for event in told] == ["lost"]


def test_standard_loggers_may_come_through_either(store: Any) -> None:
    """What is rendered for `logging` ends in the handler; the processor knows the names of standard loggers."""
    structlog.configure(
        processors=[structlog.stdlib.add_logger_name, structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    target = logging.getLogger("shop")
    handler = HangarlogHandler(store)
    target.addHandler(handler)
    target.setLevel(logging.INFO)
    try:
        structlog.stdlib.get_logger("shop").info("low", left=3)
    finally:
        target.removeHandler(handler)
    (data,) = stored(store)
    assert (data["message"], data["extra"]["left"]) == ("low", 3)
    structlog.configure(processors=[HangarlogProcessor(store, last=True)])
    structlog.stdlib.get_logger("shop").info("named")
    assert stored(store)[1]["event"] == "named"


def burst(log: Any) -> None:
    for number in range(50):
        log.info("x", n=number)


def test_threads_write_each_event_once(tmp_path: Path) -> None:
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        for linger in (0.0, 0.01):
            processor = HangarlogProcessor(store, linger=linger)
            log = logger(processor, logger="shop")
            threads = [threading.Thread(target=burst, args=(log.bind(thread=name),)) for name in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            processor.flush()
        numbers = [(data["thread"], data["n"]) for data in stored(store)]
        assert sorted(numbers) == sorted([(name, n) for name in range(8) for n in range(50)] * 2)


def test_the_pages_program_runs(tmp_path: Path) -> None:
    programs = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (program,) = (each for each in programs if "structlog" in each)
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=tmp_path, check=True)
    with FileEventStore.untyped(tmp_path / "logs") as store:
        assert stored(store)[0] == {"logger": "shop", "left": 3, "event": "low", "level": "warning"}
