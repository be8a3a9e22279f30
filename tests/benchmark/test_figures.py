"""The arithmetic of a benchmark, with samples that are written down."""

from __future__ import annotations

import msgspec
import pytest

from hangarlog.benchmark.figures import histogram, percentile, spread, typical_wait
from hangarlog.benchmark.results import FORMAT, Machine, Payload, Result, Results
from hangarlog.benchmark.turn import Turn
from hangarlog.benchmark.verdict import rounded, verdict, warnings
from hangarlog.cli.bench_report import WIDTH, histogram_lines, report, split


def test_percentiles_are_samples_and_need_enough_of_them() -> None:
    """A p99 of ten calls would be the slowest call."""
    assert [percentile(range(1, 1001), part) for part in (0.5, 0.99, 0.999)] == [500, 990, 999]
    assert [percentile(range(1, 100), part) for part in (0.5, 0.99, 0.999)] == [50, None, None]
    assert percentile([7], 0.5) == 7
    assert percentile([], 0.5) is None


def test_percentiles_are_of_all_samples_not_of_rounds() -> None:
    """One slow round among ten counts by its calls."""
    turns = [Turn([10] * 1000), Turn([1000] * 5)]
    ordered = sorted(sample for turn in turns for sample in turn.samples)
    assert (percentile(ordered, 0.99), percentile(ordered, 0.999)) == (10, 1000)


def test_the_share_of_the_disk_is_that_of_typical_calls() -> None:
    """Slow calls, whose time is all sync, and quick ones do not decide it."""
    slow, quick, typical = ([1_000_000] * 5, [1] * 5, [200] * 90)
    waits = [1_000_000] * 5 + [0] * 5 + [150] * 90
    assert typical_wait([Turn(slow + quick + typical, waits)]) == 0.75
    assert typical_wait([Turn([200], [150])]) == 0.75
    assert typical_wait([Turn([100] * 50, [50] * 50), Turn([300] * 50, [150] * 50)]) == 0.5


@pytest.mark.parametrize(
    ("total", "disk", "shown"),
    [
        (186.4, 170.6, ("186 µs", "171 µs", "15 µs")),
        (10.5, 10.4, ("10 µs", "10 µs", "0 µs")),
        (12_345.0, 12_049.0, ("12.3 ms", "12.0 ms", "0.3 ms")),
    ],
)
def test_the_parts_of_a_time_add_up_as_they_are_shown(total: float, disk: float, shown: tuple[str, str, str]) -> None:
    assert split(total, disk) == shown


def test_rounds_that_differ_have_a_spread() -> None:
    assert spread([Turn(events=100, begin=0, end=10), Turn(events=100, begin=5, end=25)]) == 2
    assert spread([Turn(events=100, end=10)]) is None


def test_a_histogram_has_every_sample_once() -> None:
    samples = [999, 1000, 1499, 1500, 1_000_000, 0]
    buckets = histogram(samples)
    assert sum(count for _, _, count in buckets) == len(samples)
    assert (1000, 1500, 2) in buckets
    assert [high for _, high, _ in buckets[:-1]] == [low for low, _, _ in buckets[1:]]
    assert histogram([]) == []


def test_a_histogram_is_drawn_with_blocks_or_with_signs() -> None:
    columns = [[(100.0, 150.0, 500), (150.0, 200.0, 250), (200.0, 300.0, 0), (300.0, 400.0, 1)], [(100.0, 150.0, 4)]]
    drawn = histogram_lines(columns, unicode=True)
    assert "100 µs - 150 µs" in drawn[0]
    assert "█" * 20 in drawn[0]
    assert "66.6%" in drawn[0]
    assert "100.0%" in drawn[0]
    assert "0.1%" in drawn[-1]
    assert "over" in drawn[-1]
    plain = histogram_lines(columns, unicode=False)
    assert "#" * 13 + " " in plain[0]
    assert not set("█▏▎▍▌▋▊▉") & set("".join(plain))


def test_numbers_are_rounded_to_what_counts() -> None:
    assert [rounded(number) for number in (0.4, 12.6, 999.4, 5253, 1_234_567)] == [0, 13, 999, 5250, 1_230_000]


def result(name: str, rate: float = 1000.0, **more: object) -> Result:
    fields = {"title": name, "group": "g", "beside": None, "processes": 1, "batch": 1, "calls": 1000, "events": 1000}
    return msgspec.convert(
        {"name": name, "seconds": 1.0, "bytes_per_second": rate, "events_per_second": rate, **fields, **more}, Result
    )


def results(*measures: Result, file_system: str = "ext4", load: float = 0.0, rounds: int = 5) -> Results:
    machine = Machine("Linux", "CPython 3", 2, load, "/data", None, file_system)
    return Results(FORMAT, "1", machine, Payload("sample", 1, 1, 200, 400), rounds, 60.0, None, list(measures))


QUIET = result("durable", p50_us=200.0, disk_us=180.0, hangarlog_us=20.0, spread=1.1)


def test_a_quiet_run_on_a_disk_has_no_warnings() -> None:
    assert warnings(results(QUIET, result("bare_synced", p50_us=190.0), result("bare", p50_us=2.0))) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (results(QUIET, file_system="tmpfs"), "this is memory, not a disk"),
        (results(result("bare_synced", p50_us=8.0)), "quicker than flash is written"),
        (results(result("bare_synced", p50_us=50.0), result("bare", p50_us=40.0)), "seems to do nothing"),
        (results(QUIET, load=1.7), "busy before the run (load 1.7 on 2 cores)"),
        (results(result("durable", spread=2.34)), "'g: durable' (2.3 times)"),
        (results(QUIET, rounds=1), "a single round"),
    ],
)
def test_what_makes_figures_doubtful_is_said(found: Results, said: str) -> None:
    (warning,) = warnings(found)
    assert said in warning


def test_a_spread_of_few_calls_is_no_noise() -> None:
    assert warnings(results(result("durable", spread=3.0, calls=10))) == []


@pytest.mark.parametrize(
    ("disk_us", "said"),
    [
        (180.0, "The disk bounds durable appends: the sync takes 90%"),
        (100.0, "The disk and the processor both count: the sync takes 50%"),
        (20.0, "The processor bounds durable appends: the sync takes only 10%"),
    ],
)
def test_the_verdict_says_what_bounds_durable_appends(disk_us: float, said: str) -> None:
    (sentence,) = verdict(results(result("durable", p50_us=200.0, disk_us=disk_us)))
    assert said in sentence
    assert sentence.endswith("One process appends 1,000 events/s.")


def test_the_verdict_names_the_smallest_batch_that_does_nearly_as_well() -> None:
    batches = [result(f"durable_{size}", rate, batch=size) for size, rate in ((10, 9e3), (100, 85e3), (1000, 1e5))]
    assert "100 events in one append make 85,000 durable events/s, 85 times" in verdict(results(QUIET, *batches))[1]
    assert "Batches help little here." in verdict(results(QUIET, result("durable_10", 1100.0, batch=10)))


def test_the_verdict_says_what_several_processes_do_and_nothing_that_was_not_measured() -> None:
    own, one = (result(f"processes_{name}", rate, processes=4) for name, rate in (("own", 2500.0), ("one", 1500.0)))
    said = verdict(results(QUIET, own, one, result("follow", p50_us=65.0, p99_us=1100.0)))
    assert "4 processes together append 2,500 durable events/s to streams of their own (2.5 times" in said[1]
    assert said[2].endswith("65 µs after its append returned, 1 in 100 takes over 1.1 ms.")
    assert verdict(results(result("follow", p50_us=0.0)))[0].endswith("has an event before its append returned.")
    assert verdict(results()) == []


def test_a_report_fits_the_terminal_and_may_be_ascii() -> None:
    buckets = [(100.0, 150.0, 900), (150.0, 200.0, 100)]
    durable = result("durable", p50_us=186.0, p99_us=9_999.0, p999_us=1e6, max_us=2e6, disk_us=171.0, histogram=buckets)
    found = results(durable, result("follow", title="append returned → event", p50_us=0.5, max_us=1e5, spread=9.0))
    found.warnings, found.verdict = warnings(found), verdict(found)
    lines = [line for line, _ in report(found, unicode=True)]
    assert max(map(len, lines[4:])) <= WIDTH
    assert "186 µs = 171 µs disk + 15 µs hangarlog" in "\n".join(lines)
    assert "".join(line for line, _ in report(found, unicode=False)).isascii()
