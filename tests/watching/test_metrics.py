"""`hangarlog metrics`: what Prometheus's own parser and linter make of it, and that the figures are true."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import ROOT, Added, Command
from watched_stores import snapshot

from hangarlog import ANY, FileEventStore
from hangarlog.watching.prometheus import MOST_SUBSCRIBERS, exposition
from hangarlog.watching.subscriber_signs import SubscriberSigns
from hangarlog.watching.vitals import read_vitals

HOSTILE = 'a"b\\c\n# HELP x \u2028{}=,\u00e9\x7f'


def parsed(text: str) -> dict[str, Any]:
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus_client is not installed")
    return {family.name: family for family in parser.text_string_to_metric_families(text)}


def value(families: dict[str, Any], name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    (only,) = found
    return float(only)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with FileEventStore(tmp_path / "s", segment_bytes=2000) as store:
        for number in range(40):
            store.append(f"a:{number % 3}", [Added(number)], ANY)
        store.cursor("mailer").advance(15)
        store.cursor('quo"te').advance(40)
    return tmp_path / "s"


def test_the_real_parser_finds_the_true_figures(path: Path, hangarlog: Command) -> None:
    done = hangarlog("metrics", path)
    assert (done.returncode, done.stderr) == (0, b"")
    families = parsed(done.stdout.decode())
    lines = sum(file.read_bytes().count(b"\n") for file in path.glob("journal*.jsonl"))
    journal = sum(file.stat().st_size for file in path.glob("journal*.jsonl"))
    streams = sum(file.stat().st_size for file in path.glob("streams/**/*.jsonl"))
    assert value(families, "hangarlog_events_total") == lines == 40
    assert value(families, "hangarlog_journal_bytes") == journal
    assert value(families, "hangarlog_journal_written_bytes_total") == journal
    assert value(families, "hangarlog_file_bytes", part="journal") == journal
    assert value(families, "hangarlog_file_bytes", part="streams") == streams
    assert value(families, "hangarlog_streams") == 3
    assert value(families, "hangarlog_store_open") == 0
    assert value(families, "hangarlog_sync_failures_total") == 0
    assert value(families, "hangarlog_sync_seconds_count") >= 40
    assert value(families, "hangarlog_subscriber_lag_events", subscriber="mailer") == 25
    assert value(families, "hangarlog_subscriber_lag_events", subscriber='quo"te') == 0
    assert value(families, "hangarlog_subscriber_owned", subscriber="mailer") == 0
    assert value(families, "hangarlog_read_problems") == 0
    assert {sample.labels["store"] for family in families.values() for sample in family.samples} == {str(path)}


def test_each_metric_has_its_type_and_help_and_its_own_name(path: Path) -> None:
    families = parsed(exposition(read_vitals(path, files=True)))
    assert len(families) > 20
    for name, family in families.items():
        assert name.startswith("hangarlog_")
        assert family.type in ("counter", "gauge", "histogram")
        assert family.documentation.endswith(".")
        assert (family.type == "counter") == any(sample.name.endswith("_total") for sample in family.samples), name
    histogram = families["hangarlog_sync_seconds"]
    buckets = [(float(s.labels["le"]), s.value) for s in histogram.samples if s.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert [bound for bound, _ in buckets[:-1]] == pytest.approx([1e-6 * 2**power for power in range(25)])
    assert [count for _, count in buckets] == sorted(count for _, count in buckets)
    assert buckets[-1] == (float("inf"), value(families, "hangarlog_sync_seconds_count"))


def test_prometheuss_own_linter_has_nothing_to_say(path: Path, hangarlog: Command) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:  # Not a tool that CI must have: it comes with all of Prometheus.
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, "check", "metrics"], input=hangarlog("metrics", path).stdout, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_names_and_paths_are_escaped(path: Path) -> None:
    """A reader of the lines finds them as they were, and nothing else."""
    vitals = read_vitals(path)
    signs = SubscriberSigns(HOSTILE, 1, 2, 3.0, True, 4)
    vitals = msgspec.structs.replace(vitals, path=HOSTILE + "\udcff", subscribers=(signs,))
    text = exposition(vitals)
    text.encode()
    families = parsed(text)
    assert value(families, "hangarlog_subscriber_position", subscriber=HOSTILE) == 1
    stores = {sample.labels["store"] for family in families.values() for sample in family.samples}
    assert stores == {HOSTILE + "\\udcff"}


def test_the_number_of_series_is_bounded(path: Path) -> None:
    vitals = read_vitals(path, files=True)
    many = tuple(
        SubscriberSigns(f"n{number:05}", 0, number, 0.0, False, None) for number in range(MOST_SUBSCRIBERS + 7)
    )
    families = parsed(exposition(msgspec.structs.replace(vitals, subscribers=many)))
    lags = families["hangarlog_subscriber_lag_events"].samples
    assert len(lags) == MOST_SUBSCRIBERS
    assert min(sample.value for sample in lags) == 7  # The others lag less.
    assert value(families, "hangarlog_subscribers") == MOST_SUBSCRIBERS + 7
    assert sum(len(family.samples) for family in families.values()) < 4 * MOST_SUBSCRIBERS + 100


def test_a_damaged_store_still_has_metrics(path: Path, hangarlog: Command) -> None:
    (path / "state").write_bytes(b"\xff" * 4096)
    (path / "hangarlog.json").write_bytes(b"\x1b[2J{")
    before = snapshot(path)
    done = hangarlog("metrics", path)
    assert done.returncode == 0
    assert done.stderr.count(b"hangarlog: warning: ") == 2
    assert b"\x1b" not in done.stderr
    families = parsed(done.stdout.decode())
    assert value(families, "hangarlog_read_problems") == 2
    assert value(families, "hangarlog_events_total") == 40
    assert "hangarlog_sync_seconds" not in families
    assert snapshot(path) == before


def test_no_store_and_no_argument_end_as_with_other_commands(tmp_path: Path, hangarlog: Command) -> None:
    assert hangarlog("metrics", tmp_path / "missing").returncode == 1
    assert hangarlog("metrics").returncode == 2


def test_without_files_their_sizes_are_left_out(path: Path, hangarlog: Command) -> None:
    families = parsed(hangarlog("metrics", path, "--no-files").stdout.decode())
    assert not {"hangarlog_file_bytes", "hangarlog_files", "hangarlog_streams"} & set(families)
    assert value(families, "hangarlog_events_total") == 40


def test_the_pages_program_serves_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    path.rename(path.parent / "mystore")
    names: dict[str, Any] = {}
    (program,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/watching.md").read_text(), re.MULTILINE | re.DOTALL
    )[:1]
    exec(program.replace("9187", "0"), names)  # noqa: S102 - that is the test
    server = names["server"]
    with server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
            families = parsed(answer.read().decode())
        thread.join()
    assert value(families, "hangarlog_events_total") == 40


def test_the_page_names_every_metric_and_no_other() -> None:
    page = (ROOT / "docs/watching.md").read_text()
    source = (ROOT / "hangarlog/watching/prometheus.py").read_text()
    named = set(re.findall(r"^\| `(hangarlog_\w+)", page, re.MULTILINE))
    made = set(re.findall(r'"(hangarlog_[a-z_]+[a-z])"', source))
    made |= {f"hangarlog_subscriber_{name}" for name in ("position", "lag_events", "lag_seconds", "owned")}
    assert named == made
