"""Every seeded bug can be seeded: its text is in its file, once."""

from __future__ import annotations

from pathlib import Path

from campaigns.seeded_bugs.campaign import BUGS

import hangarlog


def test_the_text_of_every_seeded_bug_is_there_once() -> None:
    texts: dict[str, str] = {}
    for file in Path(hangarlog.__file__).parent.rglob("*.py"):
        texts[file.name] = texts.get(file.name, "") + file.read_text()
    counts = {bug.name: texts[Path(bug.file).name].count(bug.text) for bug in BUGS}
    assert {name: count for name, count in counts.items() if count != 1} == {}
