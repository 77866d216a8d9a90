"""The demo on a machine without Slurm."""

import json
import os
from pathlib import Path

import pytest

from launcher.cli import demo
from launcher.errors import LauncherError
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir

SLURM = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sacct", "sinfo", "salloc", "sacctmgr", "sattach", "sbcast")


@pytest.fixture(autouse=True)
def _no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH where Slurm's commands are missing."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in reversed(os.environ["PATH"].split(os.pathsep)):
        for program in Path(folder).glob("*"):
            (programs / program.name).unlink(missing_ok=True)
            if program.name not in SLURM:
                (programs / program.name).symlink_to(program)
    monkeypatch.setenv("PATH", str(programs))
    for name in ("LAUNCHER_CLUSTER", "HF_HUB_OFFLINE"):  # which it sets
        monkeypatch.setenv(name, "")


@pytest.mark.slow
def test_without_slurm_the_demo_tells_its_story_with_processes_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    smaller = ("schedule.length=8 steps", "resources.nodes=1", "resources.gpus_per_node=1")
    overrides = [word for setting in smaller for word in ("--set", setting)]
    monkeypatch.setattr(demo, "TRAINING", (*demo.TRAINING, *overrides))
    monkeypatch.setattr(demo, "INTERRUPT_AT_STEP", 2)

    demo.demo(tmp_path / "demo")

    said = capfd.readouterr().out
    [run] = map(RunDir, (tmp_path / "demo" / "runs").glob("biomed-llama-cpt-*"))
    attempts = read_attempts(run.ledger)
    assert [(attempt.reason, attempt.action) for attempt in attempts] == [("stopped", "stop"), ("finished", "done")]
    assert attempts[1].first_step == attempts[0].last_step
    assert attempts[1].last_step == 8
    assert "# Slurm is not installed here (sbatch missing); the same story with ordinary processes." in said
    assert f"$ launcher stop {run.root.name}" in said
    assert f"$ launcher resume {run.root.name}" in said
    assert "loss by step" in said
    table = said[said.index("$ launcher status\n") :]
    assert all(folder.name.rpartition("-")[2] in table for folder in run.root.parent.glob("*-rehearsal-*"))


def test_a_cluster_that_does_not_start_is_no_machine_without_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launcher.devcluster.machine.missing_programs", lambda **_: [])
    (tmp_path / "demo").write_text("in the way of the folder")

    with pytest.raises(LauncherError, match="the dev cluster did not start; the reason is above"):
        demo.demo(tmp_path / "demo")

    assert "in the way" in (tmp_path / "demo").read_text()
    assert "same story" not in capfd.readouterr().out


def test_packages_that_the_demo_needs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("torch", "wandb") else "spec")

    with pytest.raises(LauncherError, match=r"needs torch, wandb; install them .*`pip install -e '\.\[data,train\]'`"):
        demo.demo(tmp_path / "demo")

    assert not (tmp_path / "demo").exists()


def test_a_command_that_fails_ends_the_demo_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LauncherError, match=r"^`launcher submit nosuch\.yaml --wait` failed; the reason is above$"):
        demo.submit("nosuch.yaml", "--wait")
    with pytest.raises(LauncherError, match=r"^`launcher status nosuch` failed; the reason is above$"):
        demo.launcher("status", "nosuch")

    assert capfd.readouterr().err


def test_a_run_that_did_not_finish_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = json.dumps({"runs": [{"id": "abc123", "job": "7", "folder": "/runs/abc123"}]})
    monkeypatch.setattr(
        demo.subprocess, "run", lambda argv, **_: demo.subprocess.CompletedProcess(argv, 1, stdout=printed)
    )

    with pytest.raises(LauncherError, match=r"failed; the reason is above; its run directory is /runs/abc123$"):
        demo.submit("x.yaml", "--wait")
