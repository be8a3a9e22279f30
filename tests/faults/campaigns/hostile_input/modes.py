"""The modes of files that are made without a umask."""

from __future__ import annotations

import os
import stat

from hangarlog import ANY, UntypedEvent
from hangarlog.integrations.mcp_hangar_sqlite import export_database

from .part import Part, command, make_base, use


def modes(part: Part) -> None:
    """With no umask at all, what is made is the owner's alone."""
    os.umask(0)
    with part.case("umask 0"):
        make_base(part.path)
        (part.path / "state").unlink()
        use(part)
        with part.store(durability="always") as store:
            store.append("new:1", [UntypedEvent("T", {})], ANY)
            export_database(store, str(part.folder / "export.db"))
        assert command("export", part.path, part.folder / "export.jsonl").returncode == 0
        assert command("append", part.path, "cli:1", "--type", "T", "--data", "{}").returncode == 0
        exported = [part.folder / "export.db", part.folder / "export.jsonl"]
        for path in [part.path, *part.path.rglob("*"), *exported]:
            mode = stat.S_IMODE(path.lstat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), f"{path.relative_to(part.folder)} has {mode:o}"
        part.figures["modes"] = sum(1 for _ in part.path.rglob("*"))
