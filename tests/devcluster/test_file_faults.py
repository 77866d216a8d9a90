"""Faults of disks where nothing can be mounted: they do not strike, and take back only what they did."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from launcher.devcluster.chaos import ChaosFault, ChaosTarget
from launcher.devcluster.chaos.file_faults import FillDisk, ForbidWriting
from launcher.errors import LauncherError
from launcher.run.paths import RunDir

REFUSED = "mount: permission denied."


@pytest.fixture
def target(tmp_path: Path) -> ChaosTarget:
    run = RunDir(tmp_path / "run")
    run.checkpoint(10).mkdir(parents=True)
    (run.checkpoint(10) / "model").write_text("weights")
    return cast(ChaosTarget, SimpleNamespace(run=run))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Be root of a machine on which some commands are refused; return the commands that are asked for."""

    def make(*refused: str, user: int = 0) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(argv: tuple[str, ...], **_: Any) -> "subprocess.CompletedProcess[str]":
            calls.append([*argv])
            code = 32 if any(word in " ".join(argv) for word in refused) else 0
            return subprocess.CompletedProcess(argv, code, "", REFUSED if code else "")

        monkeypatch.setattr(os, "geteuid", lambda: user)
        monkeypatch.setattr("launcher.devcluster.chaos.file_faults.subprocess.run", run)
        return calls

    return make


@pytest.mark.parametrize("fault", [FillDisk, ForbidWriting])
def test_root_without_the_right_to_mount_hears_so_before_anything_is_done(
    fault: type[ChaosFault], target: ChaosTarget, asked: Callable[..., list[list[str]]]
) -> None:
    asked("tmpfs")
    assert REFUSED in fault().why_not(target)

    asked()
    assert fault().why_not(target) == ""


def test_only_root_mounts_and_others_take_the_right_to_write_away(
    target: ChaosTarget, asked: Callable[..., list[list[str]]]
) -> None:
    calls, fault, root = asked("tmpfs", user=1000), ForbidWriting(), str(target.run.root)
    assert FillDisk().why_not(target) == "only root can mount a small disk"
    assert fault.why_not(target) == ""

    fault.inject(target, Random(0))
    fault.undo(target)
    fault.undo(target)

    assert calls == [["chmod", "-R", "a-w", root], ["chmod", "-R", "u+w", root]]


def test_a_disk_that_could_not_be_mounted_is_not_taken_away(
    target: ChaosTarget, asked: Callable[..., list[list[str]]]
) -> None:
    calls, fault = asked("tmpfs"), FillDisk()
    (target.run.root / "checkpoints-aside").mkdir()  # of a storm that was killed

    with pytest.raises(LauncherError, match="permission denied"):
        fault.inject(target, Random(0))
    fault.undo(target)

    assert [call[0] for call in calls] == ["mount"]
    assert [path.name for path in target.run.root.iterdir()] == ["checkpoints"]
    assert (target.run.checkpoint(10) / "model").read_text() == "weights"


def test_a_disk_that_did_not_take_the_checkpoints_is_taken_away_at_once(
    target: ChaosTarget, asked: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies below it is whole, and nothing of the disk is brought there."""
    calls, fault, copy = asked(), FillDisk(), shutil.copytree

    def fail_on_the_disk(*given: Any, **options: Any) -> None:
        if calls:
            raise OSError("No space left on device")
        copy(*given, **options)

    monkeypatch.setattr(shutil, "copytree", fail_on_the_disk)

    with pytest.raises(OSError, match="No space left"):
        fault.inject(target, Random(0))
    fault.undo(target)

    assert [call[0] for call in calls] == ["mount", "umount"]
    assert (target.run.checkpoint(10) / "model").read_text() == "weights"
    assert [path.name for path in target.run.root.iterdir()] == ["checkpoints"]


def test_a_disk_that_was_mounted_is_taken_away_once(target: ChaosTarget, asked: Callable[..., list[list[str]]]) -> None:
    calls, fault = asked(), FillDisk()

    fault.inject(target, Random(0))
    fault.undo(target)
    fault.undo(target)

    assert [call[0] for call in calls] == ["mount", "umount"]
    assert (target.run.checkpoint(10) / "model").read_text() == "weights"


@pytest.mark.parametrize(("refused", "commands"), [("--bind", ["mount"]), ("remount", ["mount", "mount", "umount"])])
def test_of_a_file_system_that_could_not_be_made_read_only_what_was_mounted_is_taken_back(
    target: ChaosTarget, asked: Callable[..., list[list[str]]], refused: str, commands: list[str]
) -> None:
    calls, fault = asked(refused), ForbidWriting()

    with pytest.raises(LauncherError, match="permission denied"):
        fault.inject(target, Random(0))
    fault.undo(target)

    assert [call[0] for call in calls] == commands
