"""Test adapters, each in an environment of its own: `python3 tools/dev.py integrations [--speed] [--record] [NAME…]`.

tools/integrations.toml says what is installed and what is run. `--speed` measures the adapters beside their frameworks'
own storage instead (`bench.adapters`). `--record` writes the counts, or the figures, into docs/integrations.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "tools/integrations.toml"
PAGE = ROOT / "docs/integrations.md"
AT_ONCE = 2
"""How many environments are made and tested at once."""

Table = dict[str, Any]


class Environment:
    """One table of tools/integrations.toml, and the folder with its environment."""

    def __init__(self, name: str, table: Table) -> None:
        self.name, self.table = name, table
        self.folder = ROOT / ".venv-integrations" / name
        self.python = self.folder / "bin/python"
        self.said: list[str] = []

    def run(self, *command: str | Path, cwd: Path = ROOT, **variables: str) -> int:
        """Run a command to its end, keep what it says, and return its exit code."""
        environment = {**os.environ, "TMPDIR": os.environ.get("TMPDIR", "/tmp"), **variables}
        done = subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, check=False)
        self.said.append(f"$ {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
        return done.returncode

    def pip(self, *arguments: str | Path) -> None:
        """Run pip in the environment. Raises `RuntimeError` if it fails."""
        if self.run(self.python, "-m", "pip", *arguments[:1], "--quiet", *arguments[1:]):
            raise RuntimeError(f"pip failed in the environment of {self.name}")

    def set_up(self) -> None:
        """Make the environment anew if the table or pyproject.toml has changed."""
        wanted = json.dumps(self.table) + (ROOT / "pyproject.toml").read_text()
        stamp, key = self.folder / "installed-from", hashlib.sha256(wanted.encode()).hexdigest()
        if stamp.is_file() and stamp.read_text() == key:
            return
        print(f"setting up {self.folder} …", file=sys.stderr, flush=True)
        venv.create(self.folder, with_pip=True, clear=True)
        self.pip("install", "--editable", f"{ROOT}[{self.table['extra']}]", *self.table["packages"])
        for suite in self.table["suites"]:
            if "source" in suite:
                self.unpack(**suite["source"])
        stamp.write_text(key)

    def unpack(self, requirement: str, sha256: str) -> None:
        """Download a source distribution and unpack it. pip refuses it if its hash is another one."""
        downloads, wanted = self.folder / "downloads", self.folder / "source.txt"
        wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        name = requirement.partition("==")[0]
        self.pip("download", "--no-deps", "--no-binary", name, "--require-hashes", "-r", wanted, "-d", downloads)
        (archive,) = downloads.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(self.folder / "source", filter="data")
        shutil.rmtree(downloads)

    def test(self) -> list[Table]:
        """Check the types, run the suites, and return what each counted. `failed` counts whatever went wrong."""
        self.set_up()
        types = self.table.get("types", [])
        mypy = [self.python, "-m", "mypy", "--config-file", ROOT / "tests/adapters/mypy.ini", *types]
        results: list[Table] = [{"title": "types", "failed": 1}] if types and self.run(*mypy) else []
        suites: list[Table] = []
        for suite in self.table["suites"]:
            suites.append(suite)
            if also := suite.get("also"):
                suites.append({**suite, **also, "plugins": [*also["plugins"], *suite.get("plugins", [])]})
        return results + [self.suite(number, suite) for number, suite in enumerate(suites)]

    def suite(self, number: int, suite: Table) -> Table:
        """Run one suite and return its counts."""
        described, counts = self.folder / f"suite-{number}.json", self.folder / f"counts-{number}.json"
        counts.unlink(missing_ok=True)
        described.write_text(json.dumps({"deselected": suite.get("deselected", {}), "counts": str(counts)}))
        cwd, own = ROOT, ["-c", "tests/adapters/pytest.ini", "--rootdir", "tests/adapters"]
        if "source" in suite:
            (cwd,) = (path for path in (self.folder / "source").iterdir() if path.is_dir())
            own = []
        plugins = [argument for name in ["suite_counts", *suite.get("plugins", [])] for argument in ("-p", name)]
        adapters = ROOT / "tests/adapters"
        path = os.pathsep.join(map(str, [ROOT / "tools", adapters, adapters / self.name]))
        command = [self.python, "-m", "pytest", *own, *plugins, *suite["arguments"]]
        code = self.run(*command, cwd=cwd, HANGARLOG_SUITE=str(described), PYTHONPATH=path)
        counted: Table = json.loads(counts.read_text()) if counts.is_file() else {}
        if code and not counted.get("failed"):
            counted["failed"] = 1
        return {"title": suite["title"], **counted}


def row(environment: Environment, result: Table) -> str:
    """Return a line of the table of docs/integrations.md."""
    reasons = "; ".join(f"{count}: {reason}" for reason, count in result.get("reasons", {}).items())
    versions = ", ".join(environment.table["packages"][:1]).replace("==", " ")
    return f"| {versions} | {result['title']} | {result.get('passed', 0)} | {result.get('failed', 0)} | {reasons} |\n"


def record(what: str, text: str, page: Path = PAGE) -> None:
    """Write a text between two markers of a page."""
    begin, end = (f"<!-- {what}: {edge} -->\n" for edge in ("begin", "end"))
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(before + begin + text + end + after)


def measure(environments: list[Environment]) -> str:
    """Measure the adapters that bench.adapters has a module for, one after the other, and return their tables."""
    tables = []
    for environment in environments:
        if (ROOT / f"bench/adapters/{environment.name}.py").is_file():
            environment.set_up()
            command = [str(environment.python), "-m", "bench.adapters", environment.name]
            tables.append(subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True).stdout)
            print(tables[-1], flush=True)
    return "\n".join(tables)


def main(arguments: list[str]) -> int:
    """Test the named adapters, or all. Return 1 if anything failed."""
    tables: dict[str, Table] = tomllib.loads(TABLES.read_text())
    options = {argument for argument in arguments if argument.startswith("-")}
    names = [argument for argument in arguments if argument not in options] or list(tables)
    if options - {"--record", "--speed"}:
        print("usage: python3 tools/dev.py integrations [--speed] [--record] [NAME…]", file=sys.stderr)
        return 2
    if unknown := set(names) - set(tables):
        print(f"no table in tools/integrations.toml: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    if "--record" in options and names != list(tables):
        print("--record writes the counts of all adapters: name none", file=sys.stderr)
        return 2
    environments = [Environment(name, tables[name]) for name in names]
    if "--speed" in options:
        figures = measure(environments)
        if "--record" in options:
            record("speed", figures)
        return 0
    rows, failed = [], 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for environment, future in [(each, pool.submit(each.test)) for each in environments]:
            try:
                results = future.result()
            except RuntimeError as error:
                results = [{"title": str(error), "failed": 1}]
            bad = sum(result.get("failed", 0) for result in results)
            rows += [row(environment, result) for result in results]
            print("\n".join(environment.said) if bad else "".join(rows[-len(results) :]), end="", flush=True)
            failed += bad
    passed = sum(int(each.split(" | ")[2]) for each in rows)
    if "--record" in options and not failed:
        head = "| for | suite | passed | failed | left out, and why |\n| --- | --- | --- | --- | --- |\n"
        record("counts", head + "".join(rows))
    print(f"integrations: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
