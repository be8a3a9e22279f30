"""What a pyproject.toml names is imported only where nobody but the user could have put it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

SETTINGS = "[tool.hangarlog]\nevents = 'shop.events'\n"
MODULE = "open('ran', 'w').close()\nfrom hangarlog import EventSerializer\nserializer = EventSerializer()\n"
OTHER = 12345


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one's own, in a folder of one's own."""
    folder = tmp_path / "parent/project"
    (folder / "shop").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(SETTINGS)
    (folder / "shop/events.py").write_text(MODULE)
    return folder


def lock(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hangarlog", "schema", "lock", "--no-store", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def link_settings(project: Path) -> None:
    """As somebody does who has no file of the user's but links to one."""
    (project / "pyproject.toml").rename(project.parent / "mine.toml")
    (project / "pyproject.toml").symlink_to("../mine.toml")


def link_to_nowhere(project: Path) -> None:
    (project / "pyproject.toml").unlink()
    (project / "pyproject.toml").symlink_to("nowhere")


def link_package(project: Path) -> None:
    (project / "shop").rename(project.parent / "theirs")
    (project / "shop").symlink_to("../theirs")
    (project.parent / "theirs").chmod(0o777)


WRITABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "the file is a link": (link_settings, "it is a symbolic link"),
    "the file is a link to nowhere": (link_to_nowhere, "it is a symbolic link"),
    "its folder": (lambda project: project.chmod(0o777), "others may write to the folder {project}"),
    "its folder, as /tmp": (lambda project: project.chmod(0o1777), "others may write to the folder {project}"),
    "the folder above": (lambda project: project.parent.chmod(0o777), "others may write to the folder {parent}"),
    "the package": (lambda project: (project / "shop").chmod(0o777), "others may write to the folder {project}/shop"),
    "the package that is linked": (link_package, "others may write to the folder {parent}/theirs"),
}


@pytest.mark.parametrize("who", WRITABLE)
def test_what_others_may_write_to_names_no_code(project: Path, who: str) -> None:
    change, said = WRITABLE[who]
    change(project)
    said = said.format(project=project, parent=project.parent)
    done = lock(project)
    assert done.returncode == 2
    assert f"pyproject.toml is ignored because {said}; give --events MODULE and --lock PATH" in done.stderr
    assert not (project / "ran").exists()
    assert lock(project, "--events", "shop.events", "--lock", "lock.json").returncode == 0, "the advice works"
    assert (project / "ran").exists()


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777])
def test_a_project_of_ones_own_is_followed_wherever_nobody_replaces_it(project: Path, mode: int) -> None:
    project.parent.chmod(mode)
    assert lock(project).returncode == 0
    assert (project / "ran").exists()


@pytest.mark.parametrize("package", [True, False])
def test_a_package_is_followed_with_and_without_a_file_of_its_own(project: Path, package: bool) -> None:
    if package:
        (project / "shop/__init__.py").touch()
    assert lock(project).returncode == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make files of others")
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("pyproject.toml", "it is another user's"),
        (".", "the folder {project} is another user's"),
        ("..", "the folder {parent} is another user's"),
        ("shop", "the folder {project}/shop is another user's"),
        ("shop/events.py", "{project}/shop/events.py is another user's"),
    ],
)
def test_what_is_another_users_names_no_code(project: Path, path: str, said: str) -> None:
    (project / "shop/__init__.py").touch()
    os.chown(project / path, OTHER, OTHER)
    done = lock(project)
    assert done.returncode == 2
    assert f"because {said.format(project=project, parent=project.parent)}; give --events" in done.stderr
    assert not (project / "ran").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no groups")
@pytest.mark.parametrize(
    ("name", "members", "trusted"),
    [("me", [], True), ("me", ["me"], True), ("me", ["me", "you"], False), ("team", [], False)],
)
def test_a_group_that_is_the_users_alone_is_nobody_else(
    project: Path, name: str, members: list[str], trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A umask of 002 lets it write."""
    import grp
    import pwd

    from hangarlog.schema import target

    user = os.geteuid() or OTHER
    for path in (project.parent, project, project / "pyproject.toml"):
        os.chown(path, user, -1)
    project.chmod(0o775)
    monkeypatch.chdir(project)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(("me", "x", uid, 1, "", "/", "/")))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group((name, "x", gid, members)))
    why = None if trusted else f"others may write to the folder {project}"
    assert target.vetted_settings() == (target.Settings("shop.events"), why)


def test_settings_and_their_owner_are_of_one_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is put in the place of the one that was read does not vouch for it."""
    from hangarlog.schema import target
    from hangarlog.system.filesystem import FileSystem

    monkeypatch.chdir(project)
    read = FileSystem.read

    def swapped(self: FileSystem, fd: int, size: int, offset: int) -> bytes:
        data = read(self, fd, size, offset)
        (project / "pyproject.toml").unlink()
        (project / "pyproject.toml").symlink_to("nowhere")
        return data

    monkeypatch.setattr(FileSystem, "read", swapped)
    assert target.vetted_settings() == (target.Settings("shop.events"), None)
