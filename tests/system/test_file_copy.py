"""Copies of single files."""

from __future__ import annotations

import os
from pathlib import Path

from store_files import hole

from hangarlog.system.file_copy import copy_file
from hangarlog.system.filesystem import FileSystem


def test_a_copy_keeps_the_holes_of_a_file(tmp_path: Path) -> None:
    path = hole(tmp_path / "x", b"before", b"after")
    copy_file(FileSystem(), str(path), str(tmp_path / "y"))
    assert (tmp_path / "y").stat().st_size == path.stat().st_size
    assert (tmp_path / "y").stat().st_blocks < 100
    assert FileSystem().begin_alike(str(path), str(tmp_path / "y"))
    with open(tmp_path / "y", "r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"x")
    assert not FileSystem().begin_alike(str(path), str(tmp_path / "y"))
