"""The pages are true: their examples run, their links lead somewhere, their tables say what the code does."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
import types
from pathlib import Path

import msgspec
import pytest
from conftest import DATABASE, ROOT, Command, tool

from hangarlog import (
    ANY,
    EncodedEvent,
    FileEventStore,
    StreamIdError,
    UntypedEvent,
    register_event_type,
)
from hangarlog.eventstore.stream_id import check_stream_id
from hangarlog.schema.target import Settings, read_settings
from hangarlog.testing import registered

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_retention_pages_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangarlog: Command) -> None:
    """The program, then the commands."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    (program,) = blocks(ROOT / "docs/retention.md", "python")
    exec(program, names)  # noqa: S102 - that is the test
    store = names["store"]
    assert isinstance(store, FileEventStore)
    store.close()
    (commands,) = blocks(ROOT / "docs/retention.md", "sh")
    for line in commands.splitlines():
        words = line.split()
        assert words.pop(0) == "hangarlog"
        done = hangarlog(*words)
        assert (done.returncode, json.loads(done.stdout)["first_position"]) == (0, 1)


def test_the_archive_pages_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangarlog: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands and the programs, on a store with old events; then DuckDB sees those of both."""
    monkeypatch.chdir(tmp_path)
    with FileEventStore.untyped("mystore", durability="relaxed", segment_bytes=2_000) as store:
        for number in range(60):
            old = EncodedEvent("Added", b"{}", recorded_at="2026-01-01T00:00:00.000000Z")
            store.append(f"a:{number % 3}", [old], ANY)
    move, both = blocks(ROOT / "docs/archive.md", "python")
    (query,) = blocks(ROOT / "docs/archive.md", "sql")
    names: dict[str, object] = {}
    exec(move, names)  # noqa: S102 - that is the test
    store = names["store"]
    assert isinstance(store, FileEventStore)
    first = store.archive("myarchive", before="90d").first_position
    store.close()
    assert first > 1
    capsys.readouterr()
    exec(both, {})  # noqa: S102 - that is the test
    assert [int(line.split()[0]) for line in capsys.readouterr().out.splitlines()] == [*range(1, 61)]
    duckdb = pytest.importorskip("duckdb")
    connection = duckdb.connect()
    connection.sql((ROOT / "tools/duckdb_views.sql").read_text())
    assert connection.sql(query).fetchall() == [(f"a:{number}", 20) for number in range(3)]
    for (commands,) in [blocks(ROOT / "docs/archive.md", "sh")]:
        for line in commands.splitlines():
            done = hangarlog(*line.split()[1:])
            assert done.returncode == 0, done.stderr
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 60
    with FileEventStore.untyped("mystore") as store:
        assert store.first_position == 1


def test_the_cursor_pages_programs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for program in blocks(ROOT / "docs/cursors.md", "python"):
        exec(program, names)  # noqa: S102 - that is the test
    store = names["store"]
    assert isinstance(store, FileEventStore)
    assert [(cursor.name, cursor.position, cursor.lag) for cursor in store.cursors()] == [("mailer", 1, 1)]
    store.close()


def test_the_page_of_subscribers_programs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for program in blocks(ROOT / "docs/subscribers.md", "python"):
        exec(program, names)  # noqa: S102 - that is the test
    store = names["store"]
    assert isinstance(store, FileEventStore)
    assert [(each.name, each.position, each.lag) for each in store.subscribers()] == [("mailer", 1, 0)]


PROJECTIONS = ROOT / "docs" / "projections.md"


def test_the_projection_pages_programs_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One after the other: the comments say what is printed, and another process imports real events."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copy(DATABASE, tmp_path)
    names: dict[str, object] = {}
    with registered():
        for program in blocks(PROJECTIONS, "python"):
            exec(program, names)  # noqa: S102 - that is the test
            printed = capfd.readouterr().out
            for line in re.findall(r"^ *print\(.*\)  # (.+)$", program, re.MULTILINE):
                assert line in printed
            if "mcp-hangar" in program:
                assert "math.add: 60 calls" in printed
                assert len(set(re.findall(r"^\d+", printed, re.MULTILINE))) >= 7  # It was seen to grow.
    store = names["store"]
    assert isinstance(store, FileEventStore)
    assert [(cursor.name, cursor.lag) for cursor in store.cursors()] == [("balance-table", 1), ("balances", 1)]
    store.close()


def test_the_asyncio_pages_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program, named = blocks(ROOT / "docs/asyncio.md", "python")
    exec(program, {})  # noqa: S102 - that is the test
    assert capsys.readouterr().out.count("order:1") == 2
    exec(named, {})  # noqa: S102
    assert capsys.readouterr().out.count("mail about order:1") == 2


def test_the_program_that_decides_runs() -> None:
    (program,) = blocks(ROOT / "docs/appending.md", "python")
    exec(program, {})  # noqa: S102 - that is the test


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files that a page links to, and headings where it names them."""
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text()):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


def test_no_page_names_a_stream_id_that_is_refused() -> None:
    """The pages' rule for refused ids is the code's."""
    for bad in ("", " ", "x" * 1025, "/x", "\\x", "C:/x", "$x", "..", "a:..", "a/./b", "a\x1fb", ":x", "x:"):
        with pytest.raises(StreamIdError):
            check_stream_id(bad)


GLOSSARY = ROOT / "docs" / "glossary.md"
SOURCES = sorted((ROOT / "hangarlog").rglob("*.py"))
FORMER_WORDS = {"bell", "bells", "rang", "turnstile", "warm", "whoever"}
FORMER_CLASSES = {"Calls", "Kept", "LiveEnd", "Names", "Run", "Stored", "Watch"}
FORMER_MODULES = {
    *("bell", "beneath", "calls", "copies", "decoding", "filecopy", "journal_names", "kept", "late", "live_end"),
    *("naming", "run", "stored", "stream", "typed", "warm_streams", "watch", "watched_store"),
}


def glossary() -> list[str]:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", GLOSSARY.read_text(), re.MULTILINE)
    return [term for row in rows if row not in ("word", "---") for term in row.split(", ")]


def words(name: str) -> list[str]:
    """The words of an identifier."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def names_in(source: Path) -> set[str]:
    """The identifiers of a module; comments and texts are none."""
    with source.open("rb") as file:
        return {token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.NAME}


def test_every_word_of_the_glossary_is_used() -> None:
    """In the code, or on another page."""
    terms = glossary()
    assert len(terms) == len(set(terms)) > 70
    names = [" ".join(words(name)) for source in SOURCES for name in names_in(source)]
    texts = [path.read_text() for path in [*PAGES, *SOURCES] if path != GLOSSARY]
    text = " ".join("\n".join([*texts, *names]).lower().split())
    assert [term for term in terms if not re.search(rf"\b{term}(?:e?[sd]|ing)?\b", text)] == []


def test_no_name_in_the_code_is_a_former_word() -> None:
    """The glossary has the word that took its place."""
    assert not FORMER_WORDS & set(glossary())
    for source in SOURCES:
        assert source.stem not in FORMER_MODULES
        names = names_in(source)
        assert not FORMER_CLASSES & names, source
        assert not FORMER_WORDS & {word for name in names | {source.stem} for word in words(name)}, source


DESIGN = ROOT / "docs" / "design.md"


TABLES = tomllib.loads((ROOT / "tools/integrations.toml").read_text())
ADAPTERS = [path for table in TABLES.values() for path in table["types"]]
"""What needs a framework: packages and modules of `hangarlog.integrations`."""
INNER = {"filestore.recovery", "integrations.eventsourcing", "integrations.mcp_hangar"}


def test_the_design_names_every_package_and_module() -> None:
    """The floors are those that import-linter checks; the parts are the modules of each package."""
    text = DESIGN.read_text()
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    floors = [re.split(r" [:|] ", layer) for layer in linter["contracts"][0]["layers"]]
    rows = re.findall(r"^\| ([0-9]+) \| `(\w+)` \|", text, re.MULTILINE)
    assert rows == [(str(number), name) for number, names in enumerate(floors, 1) for name in names]
    parts: dict[str, list[str]] = {}
    package = ""
    for name, modules in re.findall(r"^\| (?:`([a-z_.]+)`)? ?\| (`[^|]+`) \|", text, re.MULTILINE):
        package = name or package
        parts.setdefault(package, []).extend(re.findall(r"`(\w+)`", modules))
    for package, named in parts.items():
        found = (ROOT / "hangarlog" / package.replace(".", "/")).glob("*.py")
        assert sorted(named) == sorted(path.stem for path in found if path.stem != "__init__"), package
    packages = {name for names in floors for name in names}
    assert {*parts, "cli", "testing", "opening", "memory", "aggregates", "errors"} == packages | INNER


def test_no_page_names_a_module_that_is_gone() -> None:
    """As `package/module.py` or `hangarlog.package.module`; what follows a module is one of its names."""
    for page in PAGES:
        text = page.read_text()
        for path in re.findall(r"`((?:hangarlog|bench|tests|tools|eventstore|log|schema)/[\w/]+\.py)`", text):
            assert (ROOT / path).exists() or (ROOT / "hangarlog" / path).exists(), (page.name, path)
        if page.name == "CHANGELOG.md":
            continue  # It names former places, too.
        for dotted in re.findall(r"\b(hangarlog(?:\.[A-Za-z_]\w*)+)", text):
            adapter = re.match(r"hangarlog\.integrations\.\w+", dotted)
            if adapter and any(path.startswith(adapter[0].replace(".", "/")) for path in ADAPTERS):
                continue  # Its framework is not installed here. tests/adapters runs what the page shows.
            if not dotted.startswith("hangarlog.json"):
                assert pkgutil.resolve_name(dotted) is not None, (page.name, dotted)


def test_the_reading_pages_programs_run() -> None:
    """One after the other."""
    names: dict[str, object] = {}
    programs = blocks(ROOT / "docs" / "reading.md", "python")
    assert len(programs) == 3
    for program in programs:
        exec(program, names)  # noqa: S102 - that is the test


EVOLUTION = ROOT / "docs" / "schema-evolution.md"


@pytest.mark.parametrize("number", range(len(blocks(EVOLUTION, "python"))))
def test_every_recipe_of_schema_evolution_runs(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself; a class is found by its module while its fields are looked at."""
    module = types.ModuleType("recipe")
    monkeypatch.setitem(sys.modules, "recipe", module)
    with registered():
        exec(blocks(EVOLUTION, "python")[number], module.__dict__)  # noqa: S102 - that is the test


def test_the_settings_on_the_page_are_settings(tmp_path: Path) -> None:
    (table,) = blocks(EVOLUTION, "toml")
    (tmp_path / "pyproject.toml").write_text(table)
    assert read_settings(str(tmp_path / "pyproject.toml")) == Settings("myapp.events:serializer", "event-schema.json")


README = ROOT / "README.md"


def test_the_readmes_programs_and_shell_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as somebody who tries them would."""
    monkeypatch.chdir(tmp_path)
    first, second = blocks(README, "python")
    (shell,) = blocks(README, "sh")
    with registered():
        exec(first, {})  # noqa: S102 - that is the test
        command = tmp_path / "bin" / "hangarlog"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m hangarlog "$@"\n')
        command.chmod(0o755)
        environment = {**os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
        for line in shell.splitlines():
            tool(line.split()[0] if not line.startswith("hangarlog") else "sh")
            done = subprocess.run(["sh", "-c", line], capture_output=True, env=environment, check=False)
            assert (done.returncode, done.stderr) == (0, b""), line
            assert done.stdout.strip(), line
        names = {"msgspec": msgspec, "register_event_type": register_event_type, "FileEventStore": FileEventStore}
        exec(second, names)  # noqa: S102 - that is the test


def test_the_readme_shows_what_the_demo_leaves(hangarlog: Command, tmp_path: Path) -> None:
    """Each line after a `$` is run, and prints the lines below it."""
    assert hangarlog("demo", "demo-store").returncode == 0
    tool("jq")
    (block,) = blocks(README, "console")
    for entry in block.removeprefix("$ ").split("\n$ "):
        line, _, shown = entry.strip().partition("\n")
        environment = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, env=environment, check=True)
        assert done.stdout.decode() == shown + "\n", line


BACKUP = ROOT / "docs" / "backup.md"


def test_the_backup_pages_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, on a store; a restored one has what was backed up."""
    monkeypatch.chdir(tmp_path)
    with FileEventStore("mystore", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("Noted", {"number": number}) for number in range(10)], ANY)
    command = tmp_path / "bin" / "hangarlog"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m hangarlog "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    lines = "".join(blocks(BACKUP, "sh")).splitlines()
    assert len(lines) == 5
    for line in lines:
        done = subprocess.run(["sh", "-c", line], capture_output=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, b""), line
    for path in ("mystore", "mystore-before", "backup", "copy"):
        with FileEventStore(path, create=False) as store:
            assert store.get_event_count() == 10


def test_the_readmes_two_commands_are_tools_dev(tmp_path: Path) -> None:
    """`.ci/run` calls the second."""
    text = README.read_text()
    assert "    python3 tools/dev.py demo\n" in text
    assert "    python3 tools/dev.py test\n" in text
    assert "python3 tools/dev.py test" in (ROOT / ".ci/run").read_text()
    done = subprocess.run([sys.executable, str(ROOT / "tools/dev.py"), "nonsense"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"demo|test|check|python" in done.stderr


@pytest.mark.skipif(not shutil.which("jq"), reason="jq is not installed")
def test_the_recording_shows_what_the_commands_print() -> None:
    """`python tools/record_demo.py > docs/demo.svg` records it again."""
    command = [sys.executable, ROOT / "tools/record_demo.py"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True)
    assert done.stdout.decode() == (ROOT / "docs/demo.svg").read_text()


def test_a_page_that_says_what_to_install_installs_the_command_it_shows() -> None:
    """`hangarlog tail` needs the extra `cli`."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        before, shown, _ = page.read_text().partition("\nhangarlog ")
        installed = re.findall(r"pip install 'hangarlog\[([^\]]+)\]'", before)
        if shown and installed:
            assert any("cli" in extras.split(",") for extras in installed), page.name
