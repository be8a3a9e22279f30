"""node-event-storage, driven by `node_driver.js`; npm installs it at its first use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.harness.engine import Engine, Figures, Run
from bench.harness.instruments import disk_bytes

_PACKAGE = "event-storage"
_DRIVER = Path(__file__).with_name("node_driver.js")


def _home() -> Path:
    """Return the folder that npm installs into: in the virtual environment, or in the user's cache."""
    inside = sys.prefix != sys.base_prefix
    return (Path(sys.prefix) if inside else Path.home() / ".cache") / "hangarlog-bench-node"


_NPM_TIMEOUT_SECONDS = 300


class _Node(Engine):
    title = "node-event-storage"
    settings = "Node.js; awaits each commit; syncOnFlush if durable, default buffers"
    notes = (
        "Node.js, not Python; events are plain JSON objects",
        "one process only; no checksums; the version is the stream's length",
        "a kill leaves a lock that the next process must be told to reclaim; here it is told",
    )
    unsupported = dict.fromkeys(("W6a", "W6b"), "one writer only")

    def missing(self) -> str | None:
        if not shutil.which("node"):
            return "not installed: node not found"
        if self._module().is_dir():
            return None
        npm = shutil.which("npm")
        if npm is None:
            return "not installed: npm not found"
        print(f"npm installs {_PACKAGE} into {_home()}", file=sys.stderr)
        _home().mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--no-fund", "--no-audit", "--prefix", str(_home()), _PACKAGE]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_NPM_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            return f"not installed: npm timed out after {_NPM_TIMEOUT_SECONDS} s"
        return "not installed: npm failed" if done.returncode else None

    def _module(self) -> Path:
        return _home() / "node_modules" / _PACKAGE

    def version(self) -> str:
        package = json.loads((self._module() / "package.json").read_text())["version"]
        node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        return f"{package} (Node.js {node})"

    def drive(self, task: str, run: Run) -> Figures | None:
        if task in ("W8 clean", "W8 killed"):
            return None  # Their measure calls `drive` again, with `open`.
        order = {
            "task": task,
            "folder": run.folder,
            "durable": run.durable,
            "sizes": run.task.sizes,
            "seconds": run.seconds,
            "number": run.task.number,
            "reclaim": run.task.workload == "W8 killed" and task == "open",
        }
        command = ["node", str(_DRIVER), json.dumps(order)]
        endless = task == "append until killed"
        done = subprocess.run(
            command,
            stdout=None if endless else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "EVENT_STORAGE": str(self._module())},
            check=False,
        )
        if done.returncode:
            raise RuntimeError(next((line for line in done.stderr.splitlines() if "Error" in line), "node failed"))
        figures: Figures = json.loads(done.stdout)
        if task == "W7":
            files, space = disk_bytes(run.folder)
            figures |= {"files": files / figures["streams"], "kilobytes": space / figures["streams"] / 1024}
        return figures


ENGINE = _Node()
