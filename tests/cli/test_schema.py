"""`hangarlog schema` as a build sees it: what it prints, what it exits with, where it finds things."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from conftest import DATABASE, ROOT, Command

from hangarlog import FileEventStore, UntypedEvent

APPLICATION = """
from typing import Any
import msgspec
from hangarlog import EventSerializer, UpcasterChain, event

chain = UpcasterChain()

@event
class Started(msgspec.Struct):
    provider_id: str

@event(aliases=["Ended"])
class Stopped(msgspec.Struct):
    reason: str = ""
"""
RAISED = APPLICATION.replace("@event\nclass Started", "@event(version=2)\nclass Started").replace(
    "    provider_id: str\n", "    provider_id: str\n    tags: list[str]\n"
)
STEP = """
@chain.upcaster("Started", from_version=1)
def with_tags(data):
    return {**data, "tags": []}

serializer = EventSerializer(chain)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose events are locked."""
    (tmp_path / "pyproject.toml").write_text('[tool.hangarlog]\nevents = "myapp.events"\n')
    (tmp_path / "myapp").mkdir()
    (tmp_path / "myapp/events.py").write_text(APPLICATION)
    return tmp_path


def write(project: Path, source: str) -> None:
    (project / "myapp/events.py").write_text(source)


def test_the_format_of_what_a_lock_prints_is_the_one_asked_for(hangarlog: Command, project: Path) -> None:
    """Counts are in words that fit them."""
    assert hangarlog("schema", "lock", "--format", "text").stdout.splitlines()[0].split() == [
        b"path",
        b"event-schema.json",
    ]
    assert hangarlog("schema", "lock", "--format", "json").stdout.startswith(b'{"path":')
    write(project, APPLICATION.replace("provider_id", "name"))
    hangarlog("append", "s", "a:1", "--type", "Stopped")
    text = hangarlog("schema", "check", "--format", "text", "s").stdout.decode()
    assert "Stopped v1: 1 event\n" in text
    assert "event types: 1 failure\n" in text
    assert "Stopped v1: 1 event\n" in hangarlog("schema", "show", "--format", "text", "s").stdout.decode()


def test_a_lock_is_made_and_checked_and_holds_json_schemas(hangarlog: Command, project: Path) -> None:
    done = hangarlog("schema", "lock")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"path": "event-schema.json", "types": 3, "versions": 2})
    locked = json.loads((project / "event-schema.json").read_bytes())
    schema = locked["events"]["Started"]["schemas"]["1"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"provider_id": "math"}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"provider_id": 3}, schema)
    assert locked["events"]["Ended"] == {"version": 1, "alias_of": "Stopped"}
    done = hangarlog("schema", "check")
    said = f"hangarlog: importing {project / 'myapp'} from the current folder\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"", said)
    done = hangarlog("schema", "check", "--format", "text")
    assert done.stdout == b"3 event types: all history can be read\n"


def test_a_build_fails_with_the_change_and_the_upcaster_to_write(hangarlog: Command, project: Path) -> None:
    """And passes once that is written."""
    hangarlog("schema", "lock")
    write(project, APPLICATION.replace("provider_id: str", "provider_id: str\n    tags: list[str]"))
    done = hangarlog("schema", "check")
    (finding,) = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 1
    assert (finding["fails"], finding["kind"], finding["event_type"]) == (True, "changed", "Started")
    assert finding["details"] == ["! tags: is new and has no default: events stored without it cannot be read"]
    assert '@chain.upcaster("Started", from_version=1)' in finding["code"]
    compile(finding["code"], "skeleton", "exec")
    text = hangarlog("schema", "check", "--format", "text").stdout.decode()
    assert text.startswith("FAIL Started: has changed, but not its version 1; raise it to 2")
    assert "cannot be read: event type 'Started': the stored payload does not fit" in text
    assert text.endswith("3 event types: 1 failure\n")
    write(project, RAISED)
    (finding,) = map(json.loads, hangarlog("schema", "check").stdout.splitlines())
    assert (finding["kind"], finding["version"]) == ("gap", 1)
    write(project, RAISED + STEP)
    assert hangarlog("schema", "check").returncode == 0
    assert hangarlog("schema", "lock").returncode == 0
    assert list(json.loads((project / "event-schema.json").read_bytes())["events"]["Started"]["schemas"]) == ["1", "2"]


def test_lock_refuses_what_check_fails_unless_it_is_accepted(hangarlog: Command, project: Path) -> None:
    hangarlog("schema", "lock")
    before = (project / "event-schema.json").read_bytes()
    write(project, APPLICATION.replace("provider_id", "server_id"))
    done = hangarlog("schema", "lock")
    assert done.returncode == 1
    assert b"is unchanged; --accept TYPE" in done.stderr
    assert (project / "event-schema.json").read_bytes() == before
    assert hangarlog("schema", "lock", "--accept", "Started").returncode == 0
    assert b"server_id" in (project / "event-schema.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["check", "--events", "nowhere"], 2, "no events at 'nowhere': ModuleNotFoundError"),
        (["check", "--events", "myapp.leaves"], 3, "no events at 'myapp.leaves': SystemExit: 0"),
        (["check", "--events", "myapp.events:gone"], 2, "no events at 'myapp.events:gone': AttributeError"),
        (["check", "--events", "myapp.events:Started"], 2, "it is a StructMeta, not an EventSerializer"),
        (["check"], 3, "schema lock event-schema.json: there is no such file; make it with `hangarlog schema lock`"),
        (["check", "--lock", "pyproject.toml"], 3, "schema lock pyproject.toml: it is damaged"),
        (["check", "gone.store"], 3, "gone.store"),
        (["check", "one", "--store", "two"], 2, "two stores are named"),
        (["check", "--store", ""], 2, "the store's name is empty"),
        (["lock", ""], 2, "the store's name is empty"),
        (["show"], 2, "Missing argument 'STORE'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    hangarlog: Command, project: Path, arguments: list[str], code: int, message: str
) -> None:
    (project / "myapp/leaves.py").write_text("raise SystemExit(0)\n")
    done = hangarlog("schema", *arguments)
    assert done.returncode == code
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_without_a_place_for_the_events_the_options_are_named(hangarlog: Command, tmp_path: Path) -> None:
    done = hangarlog("schema", "check")
    assert done.returncode == 2
    assert b"--events MODULE:ATTRIBUTE" in done.stderr
    (tmp_path / "pyproject.toml").write_text("[tool.hangarlog]\nevents = 3\n")
    done = hangarlog("schema", "check")
    assert done.returncode == 2
    assert b"[tool.hangarlog] cannot be read" in done.stderr


def fill(path: Path) -> None:
    with FileEventStore(path, durability="relaxed") as store:
        for version in range(300):
            events = [UntypedEvent("Started", {"provider_id": f"p{n}"}) for n in range(100)]
            store.append("a:1", events, version * 100 - 1)
        store.append("a:2", [UntypedEvent("Ended", {"reason": 3}), UntypedEvent("Started", {"x": 1}, 2)], -1)


def test_every_stored_event_is_read_and_the_first_failures_are_named(hangarlog: Command, project: Path) -> None:
    """In shares, by several processes where there are several processors."""
    fill(project / "s")
    write(project, RAISED + STEP)
    done = hangarlog("schema", "check", "--store", "s")
    assert done.returncode == 1
    assert b"there is no lock file event-schema.json" in done.stderr
    ended, first, second = map(json.loads, done.stdout.splitlines())
    assert (first["event_type"], first["version"], first["count"], first["failed"]) == ("Started", 1, 30_000, 0)
    assert (first["first_position"], first["last_position"]) == (1, 30_000)
    assert (ended["count"], ended["failed"]) == (1, 1)
    (failure,) = ended["failures"]
    assert (failure["position"], failure["stream_id"], failure["stream_version"]) == (30_001, "a:2", 0)
    assert "Expected `str`, got `int` - at `$.reason`" in failure["cause"]
    assert second["failures"][0]["position"] == 30_002
    text = hangarlog("schema", "check", "s", "--format", "text").stdout.decode()
    assert "  ok Started v1: 30,000 events\n" in text
    assert "FAIL Started v2: 1 event, 1 cannot be read\n       position 30002, a:2@1: event type 'Started'" in text


def test_upcasters_are_watched_on_what_is_stored(hangarlog: Command, project: Path) -> None:
    fill(project / "s")
    write(project, RAISED + STEP.replace('{**data, "tags": []}', '{**data, "tags": [str(__import__("time").time())]}'))
    found = {
        (stored["event_type"], stored["version"]): stored
        for stored in map(json.loads, hangarlog("schema", "check", "s").stdout.splitlines())
    }
    (cause,) = found["Started", 1]["impure"]
    assert "the upcaster from v1 (with_tags) is not pure: it calls time.time" in cause


def test_the_store_may_come_from_the_environment_and_be_left_out(
    hangarlog: Command, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(project / "s")
    hangarlog("schema", "lock")
    monkeypatch.setenv("HANGARLOG_STORE", "s")
    assert hangarlog("schema", "check").returncode == 1
    assert hangarlog("schema", "check", "--no-store").returncode == 0
    assert json.loads(hangarlog("schema", "show").stdout.splitlines()[0])["event_type"] == "Ended"


def test_show_says_what_is_there_whatever_wrote_it(hangarlog: Command) -> None:
    """Of real events."""
    assert hangarlog("import", "s", str(DATABASE)).returncode == 0
    rows = {row["event_type"]: row for row in map(json.loads, hangarlog("schema", "show", "s").stdout.splitlines())}
    assert len(rows) == 8
    assert sum(row["count"] for row in rows.values()) == 758
    started = rows["ProviderStarted"]
    assert (started["version"], started["count"], started["first_position"]) == (1, 2, 3)
    assert started["fields"]["provider_id"] == "string"
    assert started["fields"]["event_id"] == "uuid"
    assert rows["BatchCallCompleted"]["fields"]["error_type"] == "null or string"
    text = hangarlog("schema", "show", "s", "--format", "text").stdout.decode()
    assert "ProviderStarted v1: 2 events\n" in text


def test_shapes_of_versions_that_were_never_locked_are_gathered_from_a_store(hangarlog: Command, project: Path) -> None:
    with FileEventStore(project / "s", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("Started", {"provider_id": "p"}), UntypedEvent("Noise", {})], -1)
    write(project, RAISED + STEP)
    done = hangarlog("schema", "lock", "--store", "s")
    assert done.returncode == 1
    assert json.loads(done.stdout)["event_type"] == "Noise"
    assert hangarlog("schema", "lock", "--store", "s", "--accept", "Noise").returncode == 0
    locked = json.loads((project / "event-schema.json").read_bytes())["events"]["Started"]
    assert locked["inferred"] == [1]
    assert locked["schemas"]["1"]["properties"] == {"provider_id": {"type": "string"}}
    assert hangarlog("schema", "check").stdout == b""


def test_a_lock_is_not_made_of_a_store_that_a_newer_program_wrote(hangarlog: Command, project: Path) -> None:
    """The check would fail with it; a type that is passed over is not gathered."""
    with FileEventStore(project / "s", durability="relaxed") as store:
        store.append("a:1", [UntypedEvent("Started", {"provider_id": "p"}, 3)], -1)
    done = hangarlog("schema", "lock", "--store", "s")
    assert (done.returncode, json.loads(done.stdout)["kind"]) == (1, "lowered")
    assert not (project / "event-schema.json").exists()
    assert hangarlog("schema", "lock", "--store", "s", "--accept", "Started").returncode == 0
    assert hangarlog("schema", "check", "--no-store").returncode == 0


def test_the_pytest_plugin_fails_a_projects_tests_with_what_changed(hangarlog: Command, project: Path) -> None:
    """A project of its own, in a process of its own."""
    hangarlog("schema", "lock")
    (project / "test_history.py").write_text("def test_history(hangarlog_schema):\n    hangarlog_schema.check()\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(project), str(project)]
    # The installed package's entry point brings the plugin, whose modules come from this checkout.
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    write(project, APPLICATION.replace("provider_id", "server_id"))
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "stored events could not be read any more" in done.stdout
    assert "was it renamed to server_id?" in done.stdout


def test_a_lock_is_not_made_through_a_link(hangarlog: Command, project: Path) -> None:
    (project / "event-schema.json").symlink_to("elsewhere.json")
    done = hangarlog("schema", "lock")
    said = "schema lock event-schema.json: it is a symbolic link, which may lead anywhere; give the path of the file"
    assert (done.returncode, said in done.stderr.decode()) == (1, True)
    assert not (project / "elsewhere.json").exists()
    assert hangarlog("schema", "lock", "--lock", "elsewhere.json").returncode == 0
    assert hangarlog("schema", "lock").returncode == 0, "now it leads to a file of the user's"


def test_the_project_is_found_upwards_from_the_current_folder(hangarlog: Command, project: Path) -> None:
    """Its events are imported from its folder, and its lock is there."""
    assert hangarlog("schema", "lock").returncode == 0
    inner = project / "deep" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "pyproject.toml").write_text("[tool.other]\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hangarlog", "schema", *words]
        environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(command, cwd=inner, env=environment, capture_output=True, text=True, check=False)

    done = run("check", "--format", "text")
    assert (done.returncode, done.stdout) == (0, "3 event types: all history can be read\n")
    assert f"importing {project / 'myapp'} from the project's folder" in done.stderr
    write(project, APPLICATION.replace("reason: str", "reason: str = ''\n    code: int"))
    (project / "event-schema.json").unlink()
    assert run("lock").returncode == 0
    assert (project / "event-schema.json").exists()
    assert run("check").returncode == 0
    (project / "pyproject.toml").unlink()
    (inner / "events_here.py").write_text(APPLICATION)
    done = run("check", "--events", "events_here")
    assert done.returncode == 1, "the lock is found without settings too"


def test_what_cannot_be_checked_is_no_history_that_breaks(hangarlog: Command, project: Path) -> None:
    """A build may tell 3 from 1, also where the application or the check itself fails."""
    hangarlog("schema", "lock")
    write(project, "import msgspec\nraise RuntimeError('no configuration')\n")
    assert hangarlog("schema", "check").returncode == 3
    write(project, APPLICATION + "@event(version=0)\nclass Wrong(msgspec.Struct): ...\n")
    assert hangarlog("schema", "check").returncode == 3
    write(project, "import absent_module\n")
    assert hangarlog("schema", "check").returncode == 3
    write(project, APPLICATION)
    path = project / "event-schema.json"
    path.write_text("<<<<<<< HEAD\n" + path.read_text() + "=======\n>>>>>>> theirs\n")
    done = hangarlog("schema", "check")
    assert done.returncode == 3
    assert b"it has the conflict markers of a merge; take either side" in done.stderr
    path.unlink()
    assert hangarlog("schema", "lock").returncode == 0
    mistake = "import hangarlog.cli.schema as s\ndef check(*a): raise KeyError('a mistake')\ns.check = check\n"
    write(project, APPLICATION + mistake)
    done = hangarlog("schema", "check")
    assert (done.returncode, b"KeyError: 'a mistake'" in done.stderr) == (3, True)
