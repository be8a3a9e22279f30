"""Files that are not what they were, and files of others."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from hangarlog import ANY, UntypedEvent
from hangarlog.maintenance.verify import verify

from .part import Part, make_base, sealed, use


def swaps(part: Part) -> None:
    """Every file and folder of a store is put in place of by what it should not be."""
    base = part.folder / "base"
    make_base(base)
    swap(part, base, sorted(str(path.relative_to(base)) for path in base.rglob("*")))


def swap(part: Part, base: Path, names: list[str]) -> None:
    """These files and folders of copies of a store, in turn, are put in place of by all kinds of things."""
    other = part.outside / "other"

    def same_of_another(name: str) -> Path:
        return other / name if (other / name).exists() else other / "journal.jsonl"

    kinds: dict[str, Callable[[Path, str], object]] = {
        "symlink to another store's": lambda path, name: path.symlink_to(same_of_another(name)),
        "symlink to its own content outside": lambda path, name: path.symlink_to(copied(part, base / name)),
        "symlink to notes": lambda path, name: path.symlink_to(part.outside / "notes"),
        "symlink to nowhere": lambda path, name: path.symlink_to(part.outside / "nothing"),
        "symlink to a folder": lambda path, name: path.symlink_to(part.outside),
        "symlink to itself": lambda path, name: path.symlink_to(path),
        "symlink to zeros": lambda path, name: path.symlink_to("/dev/zero"),
        "FIFO": lambda path, name: os.mkfifo(path),
        "socket": lambda path, name: bound(path),
        "folder": lambda path, name: path.mkdir(),
        "folder that is not empty": lambda path, name: (path.mkdir(), (path / "x").touch()),
        "empty file": lambda path, name: path.touch(),
        "notes": lambda path, name: path.write_text("somebody's notes\n"),
        "hard link to its own content outside": lambda path, name: hard_linked(path, copied(part, base / name)),
        "hard link to notes": lambda path, name: path.hardlink_to(part.outside / "notes"),
        "hard link to an empty file": lambda path, name: path.hardlink_to(part.outside / "empty"),
        "nothing": lambda path, name: None,
    }
    for name in names:
        for kind, put in kinds.items():
            for lost in part.states():
                part.made_anew(base, lost=lost)
                path = part.path / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                put(path, name)
                with part.case(f"{name}: {kind}{', state lost' if lost else ''}"):
                    use(part)
                shutil.rmtree(part.outside / "copy", ignore_errors=True)


def copied(part: Part, source: Path) -> Path:
    target = part.outside / "copy" / "it"
    target.parent.mkdir(exist_ok=True)
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return target


def hard_linked(path: Path, target: Path) -> None:
    """A second name for `target`; for a folder, one with second names for what is in it."""
    shutil.copytree(target, path, copy_function=os.link) if target.is_dir() else path.hardlink_to(target)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(path.parent)  # Names of sockets must be short.
        one.bind(path.name)
        os.chdir(here)


def foreign(part: Part) -> None:
    """Files of others in the store's folders: no event comes or goes, and they stay as they are."""
    base = part.folder / "base"
    make_base(base)
    # fmt: off
    names = [
        *(b".hidden", b".1.jsonl.swp", b"1.jsonl~", b"4913", b"A.jsonl", b"a b.jsonl", b"%2e%2e.jsonl", b"%.jsonl"),
        *(
            b"\xff\xfe.jsonl", b"\xff", b"a\nb.jsonl", b"x.1.jsonl", b".jsonl", b"..jsonl", b"a%2fb.jsonl",
            b"\x1b[2J.jsonl",
        ),
        *(b"x.00000000000000000000.jsonl", b"x.99999999999999999999.jsonl", b"x~" + b"0" * 64 + b".jsonl", b"~.jsonl"),
    ]
    # fmt: on
    for folder in ("", "streams", "streams/a", "snapshots", "snapshots/a", "locks"):
        for content in (b"", b"somebody's\n", sealed('{"position":1,"stream_id":"a:1"') + b"\n"):
            for lost in (False, True):
                part.made_anew(base, lost=lost)
                here = os.fsencode(part.path / folder)
                for name in names:
                    with open(os.path.join(here, name), "wb") as file:
                        file.write(content)
                    os.mkdir(os.path.join(here, name + b".d"))
                with part.case(f"files of others in {folder!r}, {content[:9]!r}, state lost: {lost}", refusable=False):
                    with part.store() as store:
                        assert store.list_streams() == ["a:1", "b:1", "plain"], store.list_streams()
                        assert len(list(store.records())) == 91
                        assert list(verify(store)) == []
                    use(part)
                    changed = [name for name in names if content_of(os.path.join(here, name)) != content]
                    assert not changed, f"deleted or changed: {changed}"


def content_of(path: bytes) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def names(part: Part) -> None:
    """Names in the digits of every script, and numbers beyond all: files of others, which stay as they are."""
    base = part.folder / "base"
    make_base(base)
    digits = [c for c in map(chr, range(0x80, sys.maxunicode)) if c.isdigit() or c.isdecimal() or c.isnumeric()]
    chosen = digits if part.size >= 1000 else part.rng.sample(digits, 40)
    part.made_anew(base, lost=False)
    for number, digit in enumerate(chosen):
        made = [f"{digit * 20}", f"{'0' * 19}{digit}", f"{digit}{'0' * 18}1", "9" * 20, f"{2**53:020d}", "+" + "1" * 19]
        paths = [
            part.path / f"{place}.{name}.jsonl" for place in ("journal", "streams/a/1", "streams/x") for name in made
        ]
        for path in paths:
            path.write_bytes(b"" if number % 2 else b"somebody's\n")
        with part.case(f"a name with the digit {ord(digit):x}", refusable=False):
            if number % 8 == 0:
                (part.path / "state").unlink()
            with part.store() as store:
                assert store.list_streams() == ["a:1", "b:1", "plain"]
                assert len(list(store.records())) == 91 + number
                assert list(verify(store)) == []
                store.append("b:1", [UntypedEvent("T", {})], ANY)
            assert all(path.read_bytes() == (b"" if number % 2 else b"somebody's\n") for path in paths)
        for path in paths:
            path.unlink()
