"""Findings about where a store is: real mounts in a namespace of their own, and skipped where those are not allowed."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from campaigns.disks import no_loop_mounts
from conftest import tool
from examined import HARMLESS, Watched, examined, has, made, mounted, of_kind, only

from hangarlog.doctor.examination import examine
from hangarlog.doctor.quota import Quota, quota_of

APPEND = "$h append s a:1 --type T > appended"


def loop(kind: str, options: str = "", size: str = "64M", make: str = "") -> str:
    """A script that makes an image of a file system, mounts it on `m`, and goes there."""
    if reason := no_loop_mounts(kind):
        pytest.skip(reason)
    make = f"truncate -s {size} image && mkfs.{kind} {make} image > made 2>&1"
    return f"{make} && mkdir m && mount -o loop{options} image m && cd m"


def test_a_store_on_a_local_disk_is_healthy() -> None:
    """And nothing is above a note: not on the machine, not of the files."""
    for place in (None, "/var/tmp", str(Path(__file__).parent)):
        folder = Path(tempfile.mkdtemp(dir=place))
        try:
            if not has(made(folder / "s"), "file-system-in-memory"):
                findings = examined(folder / "s")
                assert [finding for finding in findings if finding.severity not in HARMLESS] == []
                assert {finding.kind for finding in findings} >= {"space", "rights", "segments", "followers", "clock"}
                return
        finally:
            shutil.rmtree(folder)
    pytest.skip("all folders here are in memory")


def test_a_file_system_that_goes_with_the_machine_or_the_container(tmp_path: Path) -> None:
    where = "mkdir m && mount -t tmpfs none m && cd m"
    findings = mounted(tmp_path, f"{where} && {APPEND} && $d s")
    finding = of_kind(findings, "file-system-in-memory")
    assert (finding.severity, finding.facts) == ("warning", {})
    assert "tmpfs (none at" in finding.what
    layers = "mkdir m l u w o && mount -t tmpfs none m && mkdir m/l m/u m/w && mount -t overlay overlay -o "
    layers += "lowerdir=m/l,upperdir=m/u,workdir=m/w o && cd o"
    (tmp_path / "m").rmdir()
    findings = mounted(tmp_path, f"{layers} && {APPEND} && $d s")
    assert of_kind(findings, "file-system-in-container").severity == "note"


def test_a_file_system_that_is_read_only(tmp_path: Path) -> None:
    """The advice makes it writable."""
    made(tmp_path / "s")
    ro = "mount --bind s s && mount -o remount,bind,ro s"
    finding = of_kind(mounted(tmp_path, f"{ro} && $d s"), "file-system-read-only")
    assert finding.severity == "warning"
    findings = mounted(tmp_path, f"{ro} && {finding.next.removeprefix('sudo ').replace('rw', 'bind,rw')} && $d s")
    assert not [found for found in findings if found.kind == finding.kind]


def test_a_file_system_without_barriers(tmp_path: Path) -> None:
    finding = of_kind(mounted(tmp_path, f"{loop('ext4', ',nobarrier')} && {APPEND} && $d s"), "file-system-no-barriers")
    assert finding.severity == "warning"
    assert finding.next == f"sudo mount -o remount,barrier {tmp_path}/m"


def test_a_file_system_without_two_names_or_cases(tmp_path: Path) -> None:
    findings = mounted(tmp_path, f"{loop('vfat')} && {APPEND} && $d s")
    assert of_kind(findings, "file-system-no-links").severity == "note"
    assert of_kind(findings, "file-system-folds-case").severity == "note"


def test_a_fuse_file_system(tmp_path: Path) -> None:
    """It is a warning once it is accepted."""
    tool("bindfs")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse may not be used here")
    made(tmp_path / "real/s")
    (tmp_path / "m").mkdir()
    script = "bindfs real m && $d m/s; status=$?; umount m; exit $status"
    finding = of_kind(mounted(tmp_path, script), "file-system-unsafe")
    assert (finding.severity, "fuse" in finding.what) == ("problem", True)
    finding = of_kind(mounted(tmp_path, script, HANGARLOG_UNSAFE_FILE_SYSTEM="fuse"), "file-system-unsafe")
    assert finding.severity == "warning"


def test_little_room(tmp_path: Path) -> None:
    """Space and inodes, each a warning and a problem."""
    few = "mkdir m && mount -t tmpfs -o size=40m,nr_inodes={} none m && cd m && {} && $d s"
    findings = mounted(tmp_path, few.format(60, APPEND))
    assert of_kind(findings, "space").severity == "problem"
    assert of_kind(findings, "space").facts["free_bytes"] < 40 << 20
    assert of_kind(findings, "inodes").severity == "problem"
    (tmp_path / "m").rmdir()
    findings = mounted(tmp_path, few.format(500, APPEND))
    assert of_kind(findings, "inodes").severity == "warning"
    (tmp_path / "m").rmdir()
    findings = mounted(tmp_path, f"{loop('ext4', size='6G')} && fallocate -l 5200M full && {APPEND} && $d s")
    assert of_kind(findings, "space").severity == "warning"
    assert of_kind(findings, "inodes").severity == "ok"


SET_QUOTA = 0x800008 << 8


def test_a_quota_that_is_nearly_used_up(tmp_path: Path) -> None:
    """Set by the call that `setquota` makes."""
    program = tmp_path / "set.py"
    program.write_text(
        "import ctypes, os, struct, sys\n"
        "quota = struct.pack('=8QI4x', int(sys.argv[1]), 0, 0, 0, 0, 0, 0, 0, 1)\n"
        f"sys.exit(ctypes.CDLL(None).syscall(443, os.open('.', 0), {SET_QUOTA}, 12345, quota) and 77)\n"
    )
    fill = (
        "mkdir s && chown 12345 s && dd if=/dev/zero of=full bs=1k count=950 2> /dev/null && chown 12345 full && sync"
    )
    script = loop("ext4", ",usrquota", make="-O quota")
    if subprocess.run(
        ["unshare", "-m", "sh", "-ec", script], cwd=tmp_path, check=False, capture_output=True
    ).returncode:
        pytest.skip("the kernel has no quotas")
    for limit, severity in ((10_000, "ok"), (1000, "warning"), (955, "problem")):
        shutil.rmtree(tmp_path / "m")
        findings = mounted(tmp_path, f"{script} && {fill} && {sys.executable} {program} {limit} && $d s")
        assert of_kind(findings, "quota").severity == severity


def test_a_quota_in_the_form_of_the_kernel(tmp_path: Path) -> None:
    """As `struct if_dqblk` has it: limits in blocks of 1 KiB, what is used in bytes; the lower limit counts."""

    def asked(hard: int, soft: int, used: int, inodes: int = 0, refused: bool = False) -> Quota | None:
        def ask(fd: int, user: int, answer: Any) -> int:
            assert (os.path.isdir(f"/proc/self/fd/{fd}"), user) == (True, 7)
            struct.pack_into("=8QI", answer, 0, hard, soft, used, 0, inodes, 3, 0, 0, 63)
            return -refused

        return quota_of(str(tmp_path), 7, ask)

    assert asked(100, 0, 5) == (102_400, 5, 0, 3)
    assert asked(100, 50, 5, 9) == (51_200, 5, 9, 3)
    assert asked(0, 0, 5) is None
    assert asked(100, 50, 5, refused=True) is None


def test_a_type_without_two_names_and_folded_cases(tmp_path: Path) -> None:
    """Where no such file system can be mounted: by the table of mounts, and by a second name in capitals."""

    class Mounted(Watched):
        def mount_table(self) -> bytes:
            below = b"8 7 0:9 / %b/streams rw - nfs4 host:/x rw\n" % os.fsencode(path)
            return b"7 1 8:1 / / rw,relatime shared:1 - vfat /dev/sd\\040a1 rw,barrier=0\n" + below

        def mount(self, folder: str) -> tuple[int, str]:
            return 7, folder

    path = made(tmp_path / "s")
    os.link(path / "hangarlog.json", path / "HANGARLOG.JSON")
    findings = {finding.kind: finding for finding in examine(path, filesystem=Mounted())}
    assert findings["file-system-no-links"].what.startswith("vfat (/dev/sd a1 at /)")
    assert findings["file-system-folds-case"].severity == "note"
    assert findings["file-system-no-barriers"].severity == "warning"
    unsafe = findings["file-system-unsafe"]
    assert (unsafe.severity, unsafe.where) == ("problem", f"{path}/streams")


def test_a_file_system_that_nothing_is_wrong_with(tmp_path: Path) -> None:
    findings = examined(made(tmp_path / "s"))
    assert any(finding.kind.startswith("file-system") for finding in findings)
    assert only(tmp_path / "s", "rights").severity == "ok"
