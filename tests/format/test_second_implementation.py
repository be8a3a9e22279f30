"""tools/second_implementation.mjs, which was made from the pages in another language, agrees with hangarlog."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ROOT, tool
from store_by_the_page import RefusedError, Store
from test_vectors import VECTORS, content, made
from test_verdicts import KINDS, damage, verdict
from test_verdicts import made as filled

from hangarlog import ANY, FileEventStore, HangarlogError, UntypedEvent
from hangarlog.filestore.erasing import Erasing
from hangarlog.filestore.stored_lines import as_stored

SCRIPT = ROOT / "tools/second_implementation.mjs"
DRIVER = """
import { readFileSync, writeSync } from 'node:fs';
const script = await import(process.argv[1]);
for (const call of JSON.parse(readFileSync(0))) {
  const [out, err] = [[], []];
  const to = (lines) => (line) => lines.push(Buffer.from(line).toString('latin1'));
  const answer = `${JSON.stringify([script.run(call, to(out), to(err)), out, err])}\\n`;
  for (let rest = Buffer.from(answer); rest.length;) rest = rest.subarray(writeSync(1, rest));
}
"""
"""Runs many commands in one process of Node."""


class Answer(NamedTuple):
    code: int
    out: list[bytes]
    err: list[bytes]


def node(calls: Iterable[tuple[str, ...]]) -> list[Answer]:
    """What `second_implementation.mjs` answers to each of the commands."""
    done = subprocess.run(
        [tool("node"), "--input-type=module", "-e", DRIVER, SCRIPT.as_uri()],
        input=json.dumps([*calls]).encode(),
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert not done.stderr, done.stderr.decode()
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [Answer(code, *([line.encode("latin1") for line in lines] for lines in texts)) for code, *texts in answers]
