"""No process of hangarlog's imports from the current folder, which may be a store that somebody else has made."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from conftest import DATABASE, ROOT

import hangarlog
from hangarlog import ANY, FileEventStore, UntypedEvent
from hangarlog.cli.app import hangarlog as command_group

EVENTS = 60_000
"""So many are read by several processes."""

APPLICATION = """
from hangarlog import EventRegistry
from hangarlog.projections import Projection

registry = EventRegistry()
registry.drop("T", reason="gone")
totals = Projection("totals", lambda state, record: state)


def handler(record):
    pass
"""
COMMANDS = [
    ["--help"],
    ["--version"],
    ["append", "{out}/new", "b:1", "--type", "T", "--data", "{}"],
    ["backup", ".", "{out}/backup"],
    ["archive", ".", "{out}/archive", "--before", "1"],
    ["bench", "{out}", "--seconds", "0.1", "--processes", "2"],
    ["completion", "bash"],
    ["compress", ".", "--seal"],
    ["copy", ".", "{out}/copy"],
    ["copy", ".", "{out}/copy", "--follow", "--until-idle", "0.05"],
    ["demo", "{out}/demo"],
    ["doctor", ".", "--ignore", "file-system-in-memory"],
    ["export", ".", "{out}/events.db"],
    ["export", ".", "{out}/events.jsonl"],
    ["export", ".", "{out}/events.json", "--format", "cloudevents"],
    ["import", "{out}/imported", str(DATABASE)],
    ["metrics", "."],
    ["project", ".", "application:totals", "--events", "application:registry", "--once"],
    ["read", ".", "--limit", "3"],
    ["read", ".", "gone"],
    ["repair", "."],
    ["replay", ".", "mailer"],
    ["replay", ".", "mailer", "--handler", "application:handler"],
    ["retain", ".", "--max-events", "1"],
    ["schema", "lock", "--events", "application:registry", "--lock", "{out}/lock.json", "--no-store"],
    ["schema", "check", ".", "--events", "application:registry", "--lock", "{out}/lock.json"],
    ["schema", "show", "."],
    ["stats", "."],
    ["stats", ".", "--html", "{out}/page.html"],
    ["stats", ".", "--plot"],
    ["streams", "."],
    ["subscribers", "."],
    ["tail", "."],
    ["verify", "."],
    ["verify", ".", "--read-only"],
]


def names() -> set[str]:
    """What Python, hangarlog and whatever they bring along may import: each would be found in the folder."""
    found = {*sys.stdlib_module_names, *(name.partition(".")[0] for name in sys.modules)}
    found |= {module.name for module in pkgutil.iter_modules()}
    found |= {"sitecustomize", "usercustomize", "isal", "backports"}
    return {name for name in found if name.isidentifier()}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store full of modules that say that they ran, and an application beside it."""
    folder = tmp_path_factory.mktemp("hostile")
    with FileEventStore(folder / "store", durability="relaxed") as store:
        events = [UntypedEvent("T", {"number": number}) for number in range(EVENTS)]
        store.append("a:1", events, ANY)
    for name in names():
        (folder / "store" / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'a').write({name!r} + ' ')\n")
    (folder / "application").mkdir()
    (folder / "application/application.py").write_text(APPLICATION)
    (folder / "script").mkdir()
    (folder / "script/hangarlog").write_text("from hangarlog.cli import run\nrun()\n")
    return folder


def run(hostile: Path, python: list[str], arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """A program run in the store; fails if it ran anything of it."""
    paths = os.pathsep.join([str(ROOT), str(hostile / "application")])
    done = subprocess.run(
        [sys.executable, *python, *arguments],
        cwd=hostile / "store",
        env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    ran = hostile / "ran"
    assert not ran.exists(), (arguments, ran.read_text(), ran.unlink())
    assert "Traceback" not in done.stderr, done.stderr
    return done


def run_all(hostile: Path, python: list[str], out: Path) -> None:
    for arguments in COMMANDS:
        done = run(hostile, python, [word.replace("{out}", str(out)) for word in arguments])
        assert done.returncode == (1 if "gone" in arguments else 0), (arguments, done.stderr)


def test_every_command_is_tried() -> None:
    context = click.Context(command_group)
    assert {*command_group.list_commands(context)} == {words[0] for words in COMMANDS if words[0][0] != "-"}


def test_the_console_script_runs_nothing_of_the_current_folder(hostile: Path, tmp_path: Path) -> None:
    run_all(hostile, [str(hostile / "script/hangarlog")], tmp_path)


def test_python_m_with_a_safe_path_runs_nothing_of_the_current_folder(hostile: Path, tmp_path: Path) -> None:
    run_all(hostile, ["-P", "-m", "hangarlog"], tmp_path)


def test_python_m_runs_nothing_of_the_current_folder_once_hangarlog_begins(hostile: Path, tmp_path: Path) -> None:
    """What Python itself needs to find it is imported before: as of any program that is run so."""
    (tmp_path / "probe.py").write_text("import sys\nprint(*sys.modules)\n")
    probe = subprocess.run([sys.executable, "-m", "probe"], cwd=tmp_path, capture_output=True, text=True, check=True)
    before = {"hangarlog", *(name.partition(".")[0] for name in probe.stdout.split())}
    assert len(before) < 60
    files = {name: hostile / "store" / f"{name}.py" for name in before}
    kept = {path: path.read_text() for path in files.values() if path.exists()}
    for path in kept:
        path.unlink()
    try:
        run_all(hostile, ["-m", "hangarlog"], tmp_path)
    finally:
        for path, text in kept.items():
            path.write_text(text)


def test_a_completion_script_is_made_without_the_current_folder(hostile: Path) -> None:
    done = run(hostile, [str(hostile / "script/hangarlog")], [], _HANGARLOG_COMPLETE="zsh_source")
    assert "compdef" in done.stdout


def test_words_are_completed_without_the_current_folder(hostile: Path) -> None:
    """Which is a store, from which a person completes."""
    script = [str(hostile / "script/hangarlog")]
    for words in ("hangarlog read . ", "hangarlog read . --type ", "hangarlog replay . ", "hangarlog ver"):
        done = run(hostile, script, [words, ":="], _HANGARLOG_COMPLETE="bash_complete")
        assert done.stdout != "\n" or "replay" in words


@pytest.mark.parametrize("entry", ["", "."])
def test_processes_that_a_library_call_starts_do_not_import_from_it(hostile: Path, tmp_path: Path, entry: str) -> None:
    """Not even where the calling program does, by an entry of its path or of PYTHONPATH."""
    (tmp_path / "program.py").write_text(
        "import os, sys\n"
        "import hangarlog.schema.workers, concurrent.futures.thread\n"
        "from hangarlog.schema import history\n"
        "history._processors = lambda: 2\n"
        "before = set(sys.modules)\n"
        f"os.environ['PYTHONPATH'] = {entry!r} + os.pathsep + os.environ['PYTHONPATH']\n"
        f"sys.path.append({entry!r})\n"
        "(stored,) = history.show_history('.')\n"
        f"assert stored.count == {EVENTS}, stored\n"
    )
    run(hostile, [str(tmp_path / "program.py")], [])


def test_several_processes_answer_as_one_does(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hangarlog.schema import history

    read: list[history.Share] = []
    monkeypatch.setattr(
        history, "read_share", lambda share, read_share=history.read_share: (read.append(share), read_share(share))[1]
    )
    monkeypatch.setattr(history, "_processors", lambda: 2)
    several = history.show_history(str(hostile / "store"))
    assert read == []
    monkeypatch.setattr(history, "_processors", lambda: 1)
    assert history.show_history(str(hostile / "store")) == several
    assert len(read) == 3


def test_a_share_that_no_other_process_can_read_is_read_here(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hangarlog.schema import history, workers

    monkeypatch.setattr(history, "_processors", lambda: 2)
    monkeypatch.setattr(workers, "_PROGRAM", "import sys; sys.exit(1)")
    (stored,) = history.show_history(str(hostile / "store"))
    assert stored.count == EVENTS


def test_what_events_names_may_be_in_the_current_folder_and_that_is_said(hostile: Path, tmp_path: Path) -> None:
    """What is named is imported from there only if it is nowhere else."""
    script = [sys.executable, str(hostile / "script/hangarlog")]
    (tmp_path / "mine.py").write_text(APPLICATION)
    (tmp_path / "struct.py").write_text("raise SystemExit('not this one')\n")
    (tmp_path / "application.py").write_text("raise SystemExit('not this one')\n")
    paths = os.pathsep.join([str(ROOT), str(hostile / "application")])
    for module, said in (
        ("mine", f"hangarlog: importing {tmp_path / 'mine.py'} from the current folder\n"),
        ("application", ""),
    ):
        done = subprocess.run(
            [*script, "schema", "check", str(hostile / "store"), "--events", f"{module}:registry", "--format", "json"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == said + "hangarlog: there is no lock file event-schema.json: only the store is checked\n"
        assert json.loads(done.stdout)["count"] == EVENTS


SETTINGS = "[tool.hangarlog]\nevents = 'evil'\nschema_lock = '../lock.json'\n"


def test_settings_in_a_store_are_passed_over(hostile: Path) -> None:
    """They would name what is imported, and which file is written."""
    (hostile / "store/pyproject.toml").write_text(SETTINGS)
    (hostile / "store/evil.py").write_text((hostile / "store/struct.py").read_text())
    try:
        for words in (["check"], ["lock"], ["check", "--events", "application:registry"], ["check", "."]):
            done = run(hostile, [str(hostile / "script/hangarlog")], ["schema", *words])
            assert done.returncode == 2
            assert f"pyproject.toml is ignored because {hostile / 'store'} is a store" in done.stderr
    finally:
        (hostile / "store/pyproject.toml").unlink()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make files of others")
def test_settings_of_another_user_are_passed_over(hostile: Path, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(SETTINGS)
    (tmp_path / "evil.py").write_text((hostile / "store/struct.py").read_text())
    os.chown(tmp_path / "pyproject.toml", 12345, 12345)
    done = subprocess.run(
        [sys.executable, str(hostile / "script/hangarlog"), "schema", "check"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "it is another user's" in done.stderr) == (2, True)
    assert not (hostile / "ran").exists()


@pytest.mark.parametrize("option", [["-m", "hangarlog"], ["-mhangarlog"], ["-Bm", "hangarlog"], ["-Bmhangarlog"]])
def test_the_current_folder_is_forgotten_however_the_option_is_written(tmp_path: Path, option: list[str]) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('not this one')\n")
    command = [sys.executable, *option, "--version"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_of_somebody_elses_keeps_its_path(tmp_path: Path) -> None:
    """Only `python -m hangarlog` is a program of ours."""
    (tmp_path / "my_hangarlog").mkdir()
    (tmp_path / "my_hangarlog/__init__.py").write_text("import hangarlog, mine\n")
    (tmp_path / "my_hangarlog/__main__.py").write_text("print('it runs')\n")
    (tmp_path / "mine.py").touch()
    command = [sys.executable, "-m", "my_hangarlog"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "it runs\n"


def test_hangarlog_itself_may_be_in_the_current_folder() -> None:
    """As where its sources are run: it is run already."""
    for python in (["-m", "hangarlog"], ["-c", "from hangarlog.cli import run; run()"]):
        done = subprocess.run(
            [sys.executable, *python, "--version"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout == f"hangarlog, version {hangarlog.__version__}\n"
