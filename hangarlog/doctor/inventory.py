"""Checks of all files of a store in one walk: rights, links, leftovers, foreign files, files from the future."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from hangarlog.doctor.finding import Finding, Severity, command, counted, duration, found, size
from hangarlog.doctor.look import Look
from hangarlog.doctor.walk import Seen, walk
from hangarlog.log.index import STRIDE_BYTES
from hangarlog.log.segment_name import CACHES, COMPRESSED, INDEX, TEXT, first_of

_MOST_NAMED = 5
"""The most files that one finding names."""
_OLD_SECONDS = 3600
_AHEAD_SECONDS = 60
_WRITE = 0o022
_ANY_OF = "/" if sys.platform == "linux" else "+"
"""Before some bits, it lets `find` look for files with any of them."""


class _Some:
    """Some files of one kind: how many, how large, and the first ones by name."""

    def __init__(self) -> None:
        self.count = self.bytes = 0
        self.paths: list[str] = []

    def add(self, seen: Seen) -> None:
        """Count a file."""
        self.count += 1
        self.bytes += seen.status.st_size
        if len(self.paths) < _MOST_NAMED:
            self.paths.append(seen.path)

    def finding(self, kind: str, severity: Severity, what: str, text: str = "", *, each: Sequence[str] = ()) -> Finding:
        """Return a finding about these files. `text` is what to do; else `each` is the command for the named files."""
        more = f", {self.count - len(self.paths)} more" if self.count > len(self.paths) else ""
        shown = "; ".join(os.path.basename(path) for path in self.paths)
        said = f"{counted(self.count, 'file')} with {size(self.bytes)} {what}: {shown}{more}"
        if each:
            text = command(*each, *self.paths) + ("  # and so on, until the doctor finds no more" if more else "")
        return found(kind, severity, said, self.paths[0], text, count=self.count, bytes=self.bytes)


class _Inventory:
    """What the walk has seen."""

    def __init__(self, look: Look) -> None:
        self._look = look
        status = os.stat(look.path)
        self._owner, self._group = status.st_uid, status.st_gid
        mode = look.meta.mode if look.meta else None
        self._mode = int(mode, 8) if mode else 0o600
        self.some: defaultdict[str, _Some] = defaultdict(_Some)
        # A folder that was there before the store keeps its rights. Who may write in it may replace everything.
        self.open_bits = status.st_mode & _WRITE & ~self._wanted(is_folder=True, lock=False)

    def _wanted(self, *, is_folder: bool, lock: bool) -> int:
        mode = (0o660 if self._mode & 0o020 else 0o600) if lock else self._mode
        return mode | (mode & 0o444) >> 2 if is_folder else mode

    def add(self, entries: list[Seen]) -> None:
        """Look at the entries of one folder."""
        for seen in entries:
            self._sort(seen)
            if seen.ours or seen.spare:
                self._judge_rights(seen)
            if seen.status.st_mtime > self._look.now + _AHEAD_SECONDS:
                self.some["ahead"].add(seen)
        self._match_links(entries)
        self._match_caches(entries)

    def _match_links(self, entries: list[Seen]) -> None:
        """Find active segments with a second name that is not that of a sealed one, as after an interrupted roll."""
        linked = [seen for seen in entries if seen.is_file and seen.status.st_nlink > 1 and seen.top in ("", "streams")]
        names = Counter(seen.status.st_ino for seen in linked)
        for seen in linked:
            if _is_active(seen.name) and seen.status.st_nlink > names[seen.status.st_ino]:
                self.some["linked"].add(seen)

    def _sort(self, seen: Seen) -> None:
        if seen.spare == "damaged":
            self.some["damaged"].add(seen)
        elif seen.spare:
            old = self._look.now - seen.status.st_mtime > _OLD_SECONDS
            if seen.spare == "rebuilt" or old:
                self.some[seen.spare].add(seen)
        elif not seen.ours or not (seen.is_file or seen.is_folder):
            self.some["foreign"].add(seen)

    def _judge_rights(self, seen: Seen) -> None:
        mode, lock = stat.S_IMODE(seen.status.st_mode), seen.top == "locks" or seen.name == "locks"
        extra = mode & 0o077 & ~self._wanted(is_folder=seen.is_folder, lock=lock)
        if stat.S_ISLNK(seen.status.st_mode):
            return
        if extra:
            self.open_bits |= extra
            self.some["writable" if extra & _WRITE else "readable"].add(seen)
        needed = 0o700 if seen.is_folder else 0o600
        if seen.status.st_uid == self._owner:
            if mode & needed != needed:
                self.some["locked"].add(seen)
        elif not (seen.status.st_gid == self._group and mode >> 3 & 0o6 == 0o6):
            self.some["others'"].add(seen)

    def _match_caches(self, entries: list[Seen]) -> None:
        """Find caches without a segment, and long sealed segments without an index."""
        names = {seen.name for seen in entries}
        for seen in entries:
            if seen.name.endswith(CACHES) and seen.ours and seen.top in ("", "streams"):
                base = seen.name.rpartition(".")[0].removesuffix(".sealed")
                active = base.partition(".")[0] + TEXT
                gone = not names & {base + TEXT, base + COMPRESSED}
                if gone and (seen.name.endswith(INDEX) or active not in names) and not self._has_segment(seen.path):
                    self.some["stray"].add(seen)
            elif seen.name.endswith(TEXT) and seen.is_file and seen.status.st_size >= STRIDE_BYTES:
                sealed = first_of(seen.name, seen.name.partition(".")[0]) is not None
                index = seen.path.removesuffix(TEXT) + INDEX
                if sealed and os.path.basename(index) not in names and not self._look.filesystem.is_there(index):
                    self.some["unindexed"].add(seen)

    def _has_segment(self, path: str) -> bool:
        """True if a cache has its segment after all: not all files were listed, or it was sealed meanwhile."""
        base = path.rpartition(".")[0].removesuffix(".sealed")
        return any(map(self._look.filesystem.is_there, (base + TEXT, base + COMPRESSED)))

    def findings(self) -> Iterator[Finding]:
        """Yield what was found."""
        yield from self._rights()
        yield from self._leftovers()

    def _rights(self) -> Iterator[Finding]:
        look, some, bits = self._look, self.some, self.open_bits
        if bits:
            severity: Severity = "problem" if bits & _WRITE else "warning"
            files, may = some["writable" if bits & _WRITE else "readable"], "change" if bits & _WRITE else "read"
            said = f"other users may {may} {counted(files.count, 'file')}" if files.count else "others may write in it"
            letters = ",".join(filter(None, (_letters("g", bits >> 3), _letters("o", bits))))
            text = _on_each(look.path, ["-perm", f"{_ANY_OF}{bits:03o}"], "chmod", letters)
            yield found("rights-too-open", severity, said, (files.paths or [look.path])[0], text, count=files.count)
        if "locked" in some:
            text = _on_each(look.path, ["!", "-perm", "-600"], "chmod", "u+rwX")
            yield some["locked"].finding("rights-keep-owner-out", "warning", "lack the rights of their owner", text)
        if "others'" in some:
            text = _on_each(look.path, ["!", "-user", str(self._owner)], "chown", f"{self._owner}:{self._group}")
            text = f"sudo {text}"
            yield some["others'"].finding("rights-keep-owner-out", "warning", "belong to other users", text)
        if not (bits or "locked" in some or "others'" in some):
            yield found("rights", "ok", f"files have at most the rights {self._mode:04o}", look.path)
        if any(map(self._has_name_elsewhere, some["linked"].paths)):
            text = command("hangarlog", "repair", look.path)
            yield some["linked"].finding("linked-files", "warning", "have a second name (a hard link)", text)

    def _has_name_elsewhere(self, path: str) -> bool:
        """True if an active segment has a name in another folder. A roll gives it a second one here for a moment."""
        filesystem = self._look.filesystem
        inode = filesystem.identity_at(path)
        if not filesystem.has_other_names(path) or filesystem.identity_at(path) != inode:
            return False
        links = list[int]()  # What a roll has named by now is listed; once it has ended, the file has one name less.
        for entry in filesystem.entries(os.path.dirname(path)):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                if status.st_ino == inode:
                    links.append(status.st_nlink)
        return bool(links) and min(links) > len(links)

    def _leftovers(self) -> Iterator[Finding]:
        look, some = self._look, self.some
        delete = ("rm", "-r", "--")
        away = ("sh", "-c", 'mkdir -p "$0" && mv --backup=numbered -- "$@" "$0"', f"{look.path}-foreign")
        if "damaged" in some:
            yield some["damaged"].finding("damaged-kept", "note", "were kept by repairs", each=delete)
        if "new" in some:
            said = f"were to replace others, more than {duration(_OLD_SECONDS)} ago"
            yield some["new"].finding("unfinished", "note", said, each=delete)
        if "rebuilt" in some:
            text = command("hangarlog", "repair", look.path)
            yield some["rebuilt"].finding("unfinished", "warning", "wait for the end of a repair", text)
        if "foreign" in some:
            yield some["foreign"].finding("foreign-files", "note", "are not the store's", each=away)
        if "stray" in some and not all(map(self._has_segment, some["stray"].paths)):  # A roll renames the index first.
            said = "belong to segments that are gone"
            yield some["stray"].finding("cache-without-segment", "note", said, each=delete)
        if "unindexed" in some:
            export, take = command("hangarlog", "export", look.path, "-"), command("hangarlog", "import", "COPY", "-")
            yield some["unindexed"].finding("segment-without-index", "note", "have no index", f"{export} | {take}")
        if "ahead" in some:
            said = "were written in the future"
            yield some["ahead"].finding("clock-ahead", "warning", said, "date -u; timedatectl")


def _on_each(folder: str, which: list[str], *change: str) -> str:
    """Return a command that changes only the files that need it: the others keep the time of their last change.

    It follows no link.
    """
    return command("find", folder, "!", "-type", "l", *which, "-exec", *change, "{}", "+")


def _letters(who: str, bits: int) -> str:
    rights = "".join(letter for letter, bit in (("r", 4), ("w", 2), ("x", 1)) if bits & bit)
    return f"{who}-{rights}" if rights else ""


def _is_active(name: str) -> bool:
    return name.endswith(TEXT) and "." not in name.removesuffix(TEXT)


def check_files(look: Look) -> Iterator[Finding]:
    """Yield what is wrong with the files of the store, whatever is in them."""
    if not (look.is_folder and look.meta):
        return
    inventory = _Inventory(look)
    for entries in walk(look):
        inventory.add(entries)
    yield from inventory.findings()
