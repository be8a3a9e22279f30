"""`hangarlog.integrations.opentelemetry`: what the SDK's own reader finds."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Added

from hangarlog import ANY, FileEventStore

sdk = pytest.importorskip("opentelemetry.sdk.metrics", reason="the OpenTelemetry SDK is not installed")

from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402

from hangarlog.integrations.opentelemetry import STORE, SUBSCRIBER, observe  # noqa: E402

CLOCK = itertools.count(1)
time_of_export = 0.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes between two exports only."""
    monkeypatch.setattr("hangarlog.integrations.opentelemetry.monotonic", lambda: time_of_export)


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader: InMemoryMetricReader) -> Any:
    made = sdk.MeterProvider([reader], shutdown_on_exit=False)
    yield made
    made.shutdown()


def exported(reader: InMemoryMetricReader) -> dict[str, Any]:
    global time_of_export
    time_of_export = float(next(CLOCK))
    data = reader.get_metrics_data()
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
    return {metric.name: metric for scope in scopes for metric in scope.metrics}


def value(metrics: dict[str, Any], name: str, **attributes: str) -> float:
    points = metrics[name].data.data_points
    (found,) = [point.value for point in points if attributes.items() <= dict(point.attributes).items()]
    return float(found)


def test_the_sdks_reader_finds_the_true_figures(tmp_path: Path, provider: Any, reader: InMemoryMetricReader) -> None:
    path = tmp_path / "s"
    with FileEventStore(path) as store:
        for number in range(10):
            store.append("a:1", [Added(number)], ANY)
        store.cursor("mailer").advance(4)
        observed = observe(path, meter_provider=provider, files=True)
        metrics = exported(reader)
        assert value(metrics, "hangarlog.events") == 10
        assert value(metrics, "hangarlog.open") == 1
        assert value(metrics, "hangarlog.unsynced") == 0
        assert value(metrics, "hangarlog.sync.count") >= 10
        assert value(metrics, "hangarlog.sync.time") > 0
        p50, p99 = (value(metrics, "hangarlog.sync.duration", quantile=each) for each in ("0.5", "0.99"))
        assert 0 < p50 <= p99
        size = (path / "journal.jsonl").stat().st_size
        assert value(metrics, "hangarlog.journal.size") == value(metrics, "hangarlog.journal.written") == size
        assert value(metrics, "hangarlog.file.size", part="journal") == size
        assert value(metrics, "hangarlog.streams") == 1
        assert value(metrics, "hangarlog.subscriber.lag", **{SUBSCRIBER: "mailer"}) == 6
        assert value(metrics, "hangarlog.problems") == 0
        store.append("a:1", [Added(10)], ANY)
        assert value(exported(reader), "hangarlog.events") == 11
    for metric in metrics.values():
        assert metric.unit
        assert metric.description
        assert {dict(point.attributes)[STORE] for point in metric.data.data_points} == {str(path)}
    monotonic = {name for name, metric in metrics.items() if getattr(metric.data, "is_monotonic", False)}
    assert monotonic == {
        f"hangarlog.{name}" for name in ("events", "journal.written", "sync.count", "sync.time", "sync.failures")
    }
    observed.close()
    observed.close()
    assert not exported(reader)


def test_several_stores_share_the_instruments_and_one_that_is_gone_is_a_problem(
    tmp_path: Path, provider: Any, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    for name, events in (("one", 1), ("two", 2)):
        with FileEventStore(tmp_path / name, durability="relaxed") as store:
            store.append("a:1", [Added(number) for number in range(events)], ANY)
        observe(tmp_path / name, meter_provider=provider)
    observe(tmp_path / "missing", meter_provider=provider)
    metrics = exported(reader)
    for name, events in (("one", 1), ("two", 2)):
        assert value(metrics, "hangarlog.events", **{STORE: str(tmp_path / name)}) == events
    assert len(metrics["hangarlog.events"].data.data_points) == 2
    assert value(metrics, "hangarlog.problems", **{STORE: str(tmp_path / "missing")}) == 1
    assert "hangarlog.file.size" not in metrics
    (tmp_path / "one").rename(tmp_path / "gone")
    assert len(exported(reader)["hangarlog.events"].data.data_points) == 1
    (tmp_path / "gone").rename(tmp_path / "one")
    assert len(exported(reader)["hangarlog.events"].data.data_points) == 2
    assert caplog.records == []  # The SDK warns of an instrument that is made twice.


def test_nothing_is_imported_before_it_is_used() -> None:
    program = (
        "import sys, hangarlog, hangarlog.integrations, hangarlog.watching.vitals; "
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]; "
        "sys.modules['opentelemetry'] = None\n"
        "try:\n    import hangarlog.integrations.opentelemetry\n"
        "except ModuleNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pip install 'hangarlog[opentelemetry]'" in done.stdout


def test_the_pages_program_runs_and_its_names_are_the_instruments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: Any, reader: InMemoryMetricReader
) -> None:
    page = (ROOT / "docs/watching.md").read_text().partition("## OpenTelemetry")[2]
    (program,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(program, {})  # noqa: S102 - that is the test
    with FileEventStore(tmp_path / "mystore") as store:
        for number in range(2):
            store.append("a:1", [Added(number)], ANY)
        store.cursor("mailer").advance(1)
        observe("mystore", meter_provider=provider, files=True)
        named = set(re.findall(r"`(\.[a-z._]+)`", page))
        assert {name.removeprefix("hangarlog") for name in exported(reader)} == named
