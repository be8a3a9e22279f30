"""`hangarlog stats --html`: true figures on a page that a real browser shows, and on which nothing of a store acts."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import Command, tool
from watched_stores import snapshot

from hangarlog import ANY, EncodedEvent, FileEventStore, UntypedEvent
from hangarlog.filestore import checkpointing
from hangarlog.watching.page import OPENING, page
from hangarlog.watching.page_file import store_around, write_page
from hangarlog.watching.survey import survey
from hangarlog.watching.svg import clean
from hangarlog.watching.vitals import read_vitals

EVIL = "</script></title><img src=x onerror=\"document.title='hacked'\"><svg onload=alert(1)>&lt;'`"
ELEMENTS = set(
    re.findall(
        r"\w+",
        "html head meta title style body main h1 h2 p div b span ul li figure figcaption svg line text polygon "
        "polyline rect table thead tbody tr th td i footer",
    )
)
ATTRIBUTES = set(
    re.findall(
        r"[\w-]+",
        "lang charset http-equiv content name class viewbox role aria-label aria-hidden preserveaspectratio x x1 x2 y "
        "y1 y2 text-anchor points width height scope",
    )
)


def made(path: Path, events: int = 300, evil: bool = False) -> Path:
    with FileEventStore.untyped(path, segment_bytes=20_000) as store:
        for number in range(0, events, 50):
            batch = [
                EncodedEvent(
                    EVIL if evil and not each % 7 else f"Type{each % 4}",
                    b'{"x":"%b"}' % (b"y" * (each % 40)),
                    recorded_at=f"2026-11-{1 + each * 20 // events:02}T03:04:05.000000Z",
                )
                for each in range(number, number + 50)
            ]
            store.append(f"a:{EVIL}" if evil else "a:1", batch, ANY)
            store.append("b:\u202e\u2028 caf\u00e9", [UntypedEvent("\x1b[2J\u2028\ud7ff", {})], ANY) if evil else None
        store.cursor(EVIL[:90] if evil else "mailer").advance(3)
    return path


class Markup(HTMLParser):
    """Collects the elements, the attributes and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.attributes, self.text = set[str](), set[str](), ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def evil_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("evil") / "s<b>&'\""
    made(path, evil=True)
    vitals = read_vitals(path, files=True, largest=5)
    return page(vitals, survey(vitals.path, vitals.first, vitals.committed or 0))


def test_nothing_of_a_store_becomes_markup(evil_page: str) -> None:
    found = Markup(evil_page)
    assert found.elements <= ELEMENTS
    assert found.attributes <= ATTRIBUTES
    assert found.text.count(EVIL) >= 3  # The stream, and the type twice.
    assert EVIL[:90] in found.text
    assert "s<b>&'\"" in found.text
    assert "\\u001b[2J\\u2028" in found.text
    assert "\\u202e\\u2028 café" in found.text
    markup = evil_page.replace(clean(EVIL), "").replace(clean(EVIL[:90]), "")
    assert not re.search(r"https?:|url\(|@import|src=|href=|javascript:", markup)


def browser(*options: str) -> subprocess.CompletedProcess[bytes]:
    command = [
        tool("chromium"),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
    ]
    return subprocess.run([*command, *options], capture_output=True, check=True)


MEASURE = """<script>
const sticksOut = element => element.getBoundingClientRect().right > innerWidth + 1;
const count = (what, test) => [...document.querySelectorAll(what)].filter(test).length;
document.title = JSON.stringify([
  document.documentElement.scrollWidth - innerWidth, count("main *", sticksOut), count("figure", () => true),
  count("rect.bar", bar => bar.getBoundingClientRect().height > 0),
  +/\\d+/.exec(getComputedStyle(document.body).backgroundColor)[0]]);
</script></body>"""


def measured(text: str, folder: Path, scheme: int, width: int) -> list[int]:
    """What a script finds on a page that is shown dark (0) or light (1), in a window of this width."""
    (folder / "measured.html").write_text(text.replace("</body>", MEASURE))
    options = [f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={width},900", "--dump-dom"]
    dom = browser(*options, f"file://{folder}/measured.html").stdout.decode()
    title = re.search(r"<title>\[([-\d,]+)\]</title>", dom)
    assert title, "something of the store's ran, or the test's script did not"
    return [int(number) for number in title[1].split(",")]


def test_a_real_browser_shows_it_light_and_dark_on_a_phone_too_and_runs_nothing(evil_page: str, tmp_path: Path) -> None:
    """The browser parses what was escaped; a script of the test measures a copy without the page's policy."""
    (tmp_path / "page.html").write_text(evil_page)
    shown = browser("--dump-dom", f"file://{tmp_path}/page.html").stdout.decode()
    assert "hacked" not in shown.partition("</title>")[0]
    assert Markup(shown).elements <= ELEMENTS
    assert EVIL in Markup(shown).text
    unguarded = re.sub(r"<meta http-equiv[^>]*>", "", evil_page)
    assert unguarded != evil_page
    for scheme, width in ((0, 360), (1, 1200)):
        too_wide, sticking_out, figures, drawn, red = measured(unguarded, tmp_path, scheme, width)
        assert too_wide <= 0
        assert sticking_out == 0
        assert figures >= 7
        assert drawn > 30
        assert red > 200 if scheme else red < 50


def test_the_figures_are_true(tmp_path: Path) -> None:
    path = made(tmp_path / "s")
    vitals = read_vitals(path, files=True, largest=5)
    found = survey(vitals.path, vitals.first, vitals.committed or 0)
    assert (found.events, found.looked_at, found.is_exact, found.problem) == (300, 300, True, None)
    assert {each.name: each.events for each in found.types} == {f"Type{number}": 75 for number in range(4)}
    assert sum(each.bytes for each in found.types) == sum(8 + each % 40 for each in range(300))
    assert sum(found.payload_sizes.values()) == 300
    assert sum(found.events_by_time([found.times[0], found.times[-1]])) == 300
    text = Markup(page(vitals, found)).text
    for word in ("300", "All events were counted.", "mailer", "Growth", "Events per 6 hours", "Type0", "25\u202f%"):
        assert word in text


def test_a_large_store_is_sampled_evenly(tmp_path: Path) -> None:
    path = made(tmp_path / "s", 3000)
    found = survey(str(path), 1, 3000, most_events=400, most_places=40)
    assert (found.events, found.looked_at, found.is_exact) == (3000, 400, False)
    assert sum(each.events for each in found.types) == pytest.approx(3000)
    bounds = [found.times[0] + (found.times[-1] - found.times[0]) * part / 4 for part in range(5)]
    for count in found.events_by_time(bounds):
        assert count == pytest.approx(750, rel=0.25)
    vitals = read_vitals(path)
    assert "estimates from 400 of 3,000 events" in page(vitals, found)


@pytest.mark.parametrize("events", [0, 1, 2])
def test_a_store_with_hardly_an_event_has_a_page(tmp_path: Path, events: int) -> None:
    with FileEventStore.untyped(tmp_path / "s", durability="relaxed") as store:
        for _ in range(events):
            store.append("a:1", [EncodedEvent("T", b"{}", recorded_at="2026-01-01T00:00:00.000000Z")], ANY)
    vitals = read_vitals(tmp_path / "s", files=True, largest=5)
    found = Markup(page(vitals, survey(vitals.path, vitals.first, vitals.committed or 0)))
    assert found.elements <= ELEMENTS
    assert "Growth" not in found.text  # All at one time.


@pytest.mark.filterwarnings("ignore::hangarlog.CorruptionWarning")
@pytest.mark.parametrize("settled", [True, False])
def test_damage_and_gaps_are_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: bool) -> None:
    """After a checkpoint the damage is passed over; without one only a recovery can tell what is committed."""
    monkeypatch.setattr(checkpointing, "_REPLAYED_AT_ONCE_BYTES", 0 if settled else 1 << 30)
    monkeypatch.setattr(checkpointing.Checkpointing, "begin", lambda _: None)
    path = made(tmp_path / "s")
    sealed = sorted(path.glob("journal.0*.jsonl"))
    assert len(sealed) >= 2
    sealed[1].unlink()
    os.truncate(sealed[0], 5000)
    before = snapshot(path)
    vitals = read_vitals(path, files=True)
    found = survey(vitals.path, vitals.first, vitals.committed or 0)
    assert (found.looked_at > 0, found.problem is None) == (settled, settled)
    shown = Markup(page(vitals, found))
    assert shown.elements <= ELEMENTS
    assert settled or "open it once with permission to write" in shown.text
    assert snapshot(path) == before


# The file


def test_the_file_is_private_and_replaces_only_its_like(tmp_path: Path, hangarlog: Command) -> None:
    path = made(tmp_path / "s", 50)
    before = snapshot(path)
    target = tmp_path / "page.html"
    done = hangarlog("stats", path, "--html", target)
    assert (done.returncode, done.stdout) == (0, b'{"page":"%b","events":50,"events_read":50}\n' % os.fsencode(target))
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    inode = target.stat().st_ino
    assert hangarlog("stats", path, "--html", target).returncode == 0
    assert target.stat().st_ino != inode
    target.write_text("my own")
    done = hangarlog("stats", path, "--html", target)
    assert (done.returncode, target.read_text()) == (1, "my own")
    assert b"--force" in done.stderr
    assert hangarlog("stats", path, "--html", target, "--force").returncode == 0
    assert target.read_text().startswith(OPENING)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["page.html", "s"]
    assert snapshot(path) == before


def test_links_folders_and_stores_are_left_alone(tmp_path: Path, hangarlog: Command) -> None:
    path = made(tmp_path / "s", 50)
    (tmp_path / "mine").write_text(OPENING)
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "folder").mkdir()
    before = snapshot(path)
    for target in ("link", "folder", "no/such"):
        with pytest.raises(OSError):
            write_page(str(tmp_path / target), OPENING)
    with pytest.raises(IsADirectoryError):
        write_page(str(tmp_path / "folder"), OPENING, force=True)
    assert hangarlog("stats", path, "--html", path / "journal.jsonl", "--force").returncode == 2
    for inside in ("journal.jsonl", "streams/a/1.jsonl", "locks/new"):
        assert store_around(str(path / inside)) == str(path)
    assert store_around(str(tmp_path / "page.html")) is None
    assert snapshot(path) == before
    write_page(str(tmp_path / "link"), OPENING + "new", force=True)
    assert (tmp_path / "mine").read_text() == OPENING
    assert not (tmp_path / "link").is_symlink()


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "page.html"
    write_page(str(target), OPENING + "old")

    def fail(self: object, fd: int) -> None:
        raise OSError(28, "no room")

    monkeypatch.setattr("hangarlog.system.filesystem.FileSystem.sync_data", fail)
    with pytest.raises(OSError, match="no room"):
        write_page(str(target), OPENING + "new")
    assert target.read_text() == OPENING + "old"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_it_goes_to_standard_output_too(tmp_path: Path, hangarlog: Command) -> None:
    path = made(tmp_path / "s", 50)
    done = hangarlog("stats", path, "--html", "-")
    assert done.returncode == 0
    assert done.stdout.decode().startswith(OPENING)
    assert done.stdout.decode().endswith("</html>\n")


@pytest.mark.parametrize("words", [["--force"], ["--watch", "--html", "x"]])
def test_options_that_do_not_go_together(tmp_path: Path, hangarlog: Command, words: list[str]) -> None:
    assert hangarlog("stats", tmp_path, *words).returncode == 2
