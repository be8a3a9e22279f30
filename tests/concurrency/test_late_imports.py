"""What most programs never need is imported late, and neither a fork nor a thread meets a half of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT, Added

import hangarlog
from hangarlog import ANY, FileEventStore

RARELY_NEEDED = (
    "hangarlog.cli",
    "hangarlog.filestore.checkpoint",
    "hangarlog.filestore.compaction",
    "hangarlog.filestore.recovery",
    "hangarlog.integrations",
    "hangarlog.maintenance",
    "hangarlog.memory",
    "hangarlog.schema",
    "hangarlog.testing",
)


def python(program: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_healthy_store_imports_nothing_that_only_others_need(store: FileEventStore) -> None:
    """Importing, opening, appending and reading."""
    store.append("a:1", [Added(1)], ANY)
    program = (
        f"import sys; from hangarlog import FileEventStore, UntypedEvent; store = FileEventStore({store.path!r}); "
        "store.append('a:1', [UntypedEvent('T', {})], 0); "
        "assert [len(block) for name in ('a:1', None) for block in store.envelopes(name)] == [2, 2]; "
        "print(*sys.modules)"
    )
    loaded = set(python(program).split())
    there = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "hangarlog").rglob("*.py")
    }
    for name in RARELY_NEEDED:
        modules = {module for module in there if module == name or module.startswith(f"{name}.")}
        assert modules, f"there is no {name} any more"
        assert not modules & loaded
    rare = {"ctypes", "hashlib", "unicodedata", "urllib.parse", "filecmp", "dataclasses", "logging", "sqlite3", "click"}
    theirs = set(python("import sys, msgspec, filelock; print(*sys.modules)").split())
    assert not (rare & loaded) - theirs


def test_every_public_name_is_there_although_some_are_imported_late() -> None:
    program = (
        "import hangarlog; from hangarlog import *; missing = set(hangarlog.__all__) - set(globals()); "
        "print(missing | (set(hangarlog.__all__) - set(dir(hangarlog))))"
    )
    assert python(program) == "set()\n"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        hangarlog.nonsense  # noqa: B018


FORKED_MEANWHILE = """
import os, sys, threading
from hangarlog.system.import_lock import importing

reached, forking = threading.Event(), threading.Event()

class Slow:
    def find_spec(self, name, path, target=None):
        if name == "hangarlog.maintenance.verify":
            reached.set()
            forking.wait()

def late():
    with importing:
        import hangarlog.maintenance.verify

os.register_at_fork(before=forking.set)  # Called before those registered earlier.
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=late)
thread.start()
reached.wait()
child = os.fork()
if not child:
    late()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_is_not_locked_out_of_what_a_thread_imported_while_it_was_forked() -> None:
    assert python(FORKED_MEANWHILE) == "7\n"
