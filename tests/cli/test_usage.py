"""What a person who types a command for the first time reads: the list of commands, and errors that help."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Command


@pytest.mark.parametrize("words", [[], ["schema"]])
def test_the_list_of_commands_cuts_no_sentence(hangarlog: Command, words: list[str]) -> None:
    done = hangarlog(*words, "--help", COLUMNS="80")
    _, _, commands = done.stdout.decode().partition("Commands:\n")
    assert len(commands.splitlines()) >= 3
    assert "..." not in commands


def test_an_option_of_the_program_behind_the_command_is_told_its_place(hangarlog: Command) -> None:
    for words in (["verify", "--lock-timeout", "3", "s"], ["schema", "check", "--lock-timeout", "3"]):
        done = hangarlog(*words)
        command = " ".join(words[: words.index("--lock-timeout")])
        expected = f"--lock-timeout belongs before the command: hangarlog --lock-timeout SECONDS {command}"
        assert (done.returncode, done.stderr.decode().splitlines()[-1]) == (2, f"hangarlog: {expected}")
    assert hangarlog("verify", "--nonsense").stderr.splitlines()[-1] == b"hangarlog: No such option '--nonsense'."


def test_the_choices_of_a_missing_argument_are_on_the_line_of_the_error(hangarlog: Command) -> None:
    done = hangarlog("completion")
    message = b"hangarlog: Missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, message)


def test_words_that_are_no_commands_are_told_what_to_do(hangarlog: Command) -> None:
    assert b"No such command 'restore'. To restore a backup, move the store away" in hangarlog("restore", "s").stderr
    assert b"No such command 'init'. Did you mean 'append'?" in hangarlog("init", "s").stderr


def test_a_bad_stream_id_creates_no_store(hangarlog: Command, tmp_path: Path) -> None:
    assert hangarlog("append", "s", "..", "--type", "T").returncode == 2
    assert not (tmp_path / "s").exists()


def test_replay_says_that_no_subscriber_has_the_name(hangarlog: Command) -> None:
    """One that exists and has parked nothing prints nothing."""
    hangarlog("append", "s", "a:1", "--type", "T")
    done = hangarlog("replay", "s", "mialer")
    message = b"hangarlog: no subscriber is named 'mialer'; list them with `hangarlog subscribers s`"
    assert (done.returncode, done.stdout, done.stderr.rstrip()) == (0, b"", message)


@pytest.mark.skipif(os.name == "nt", reason="not everybody may create links")
def test_a_link_to_nothing_is_not_called_a_file(hangarlog: Command, tmp_path: Path) -> None:
    (tmp_path / "s").symlink_to("gone")
    for words in (["read", "s"], ["append", "s", "a:1", "--type", "T"]):
        done = hangarlog(*words)
        assert (done.returncode, done.stderr.rstrip().endswith(b": it is a link to what does not exist")) == (1, True)


def test_a_backup_names_the_missing_folder_and_does_not_create_it(hangarlog: Command, tmp_path: Path) -> None:
    """It may be where a disk is mounted."""
    hangarlog("append", "s", "a:1", "--type", "T")
    done = hangarlog("backup", "s", "disk/backup")
    message = f"there is no folder {tmp_path / 'disk'}; create it, or mount its disk"
    assert (done.returncode, done.stderr.decode().rstrip().endswith(message)) == (1, True)
    assert not (tmp_path / "disk").exists()
