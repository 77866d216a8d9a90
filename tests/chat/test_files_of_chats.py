"""The tests of chats look for files in folders where others write as well: what is theirs is left alone."""

import os
from pathlib import Path

import pytest

from tests.support import chat_programs
from tests.support.chat_programs import ChatHome

TEXT = "a patient's words"


def test_of_folders_that_others_use_only_new_files_of_this_user_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, home = tmp_path / "shared", ChatHome(tmp_path / "home")
    for folder in (shared / "folder", home.folder):
        folder.mkdir(parents=True)
        (folder / "new").write_text(TEXT)
    for name in ("old", "of another user"):
        (shared / name).write_text(TEXT)
    os.utime(shared / "old", (1, 1))
    (shared / "gone").symlink_to(shared / "missing")
    os.mkfifo(shared / "pipe")
    single = tmp_path / "history"
    single.write_text(TEXT)
    monkeypatch.setattr(chat_programs, "_ELSEWHERE", (str(shared), str(single), str(tmp_path / "missing")))
    stat = Path.stat

    def of_whom(path: Path) -> os.stat_result:
        found = stat(path)
        if path.name != "of another user":
            return found
        return os.stat_result([*found[:4], os.geteuid() + 1, *found[5:10]])

    monkeypatch.setattr(Path, "stat", lambda path, **_: of_whom(path))

    assert home.files_with(TEXT) == [home.folder / "new", shared / "folder" / "new", single]


def test_what_may_not_be_read_is_left_alone(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (stranger / "file", stranger / "folder"):
        path.mkdir() if path.name == "folder" else path.write_text(TEXT)
        path.chmod(0)
    monkeypatch.setattr(chat_programs, "_ELSEWHERE", (str(stranger),))

    assert ChatHome(stranger / "home").files_with(TEXT) == []
