"""Runs whose jobs are held in the queue: what `resume` does about them."""

import json
from pathlib import Path

import pytest
import yaml

from launcher.run.ledger import StopRequest
from tests.support.checkouts import ROOT, typing
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.run_histories import History


@pytest.fixture
def history(tmp_path: Path, fake_slurm: FakeSlurm) -> History:
    """A run that was put back into the queue and held; Slurm's SIGTERM left a STOP file."""
    squeue = fake_slurm.bin / "squeue"
    squeue.write_text("#!/bin/sh\necho '7|PENDING|N/A|N/A||job requeued in held state'\n")
    history = History.begin(tmp_path / "runs").submit("7", at=0).start(0, "7", at=60).train(0, 0, 30, at=70)
    history.end(0, "preempted", "requeue", at=140, last_step=30)
    StopRequest("time_limit", 0).write(history.run.stop_request)
    return history


@pytest.fixture
def profile(tmp_path: Path) -> str:
    roots = {name: str(tmp_path / name) for name in ("runs", "data", "corpora", "models")}
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump({"name": "site", "roots": roots}))
    return f"--cluster={path}"


def test_status_names_the_reason_and_the_command(history: History, profile: str) -> None:
    told = json.loads(launcher("status", "abc123", profile, "--json")[0])

    assert (told["state"], told["stop_requested"]) == ("requeued", False)
    assert "requeuehold" in told["why"] and "`scontrol release 7`" in told["why"]


def test_a_script_that_resumes_a_held_run_is_told_what_to_do(
    history: History, profile: str, fake_slurm: FakeSlurm
) -> None:
    _, stderr = launcher("resume", "abc123", profile, code=2)

    assert "`scontrol release 7`" in stderr and "--yes" in stderr
    assert not fake_slurm.calls("scontrol")


def test_yes_releases_a_held_run(history: History, profile: str, fake_slurm: FakeSlurm) -> None:
    assert "released job 7" in launcher("resume", "abc123", profile, "--yes")[0]

    assert [call.argv for call in fake_slurm.calls("scontrol")] == [["release", "7"]]
    assert not fake_slurm.calls("sbatch")
    assert history.run.stop_request.exists(), "the next start may need it to tell how the attempt ended"


def test_yes_withdraws_what_a_person_asked_for(history: History, profile: str) -> None:
    StopRequest().write(history.run.stop_request)

    launcher("resume", "abc123", profile, "--yes")

    assert not history.run.stop_request.exists()


def test_a_held_run_keeps_its_number_of_nodes(history: History, profile: str, fake_slurm: FakeSlurm) -> None:
    assert "--nodes" in launcher("resume", "abc123", profile, "--yes", "--nodes=2", code=2)[1]

    assert not fake_slurm.calls("scontrol")


@pytest.mark.parametrize(("answer", "calls"), [("y", [["release", "7"]]), ("n", [])])
def test_a_person_is_asked_before_a_hold_is_undone(
    history: History, profile: str, fake_slurm: FakeSlurm, answer: str, calls: list[list[str]]
) -> None:
    with typing(ROOT, {}, "resume", "abc123", profile) as terminal:
        terminal.expect("release it")
        terminal.sendline(answer)
        terminal.expect(["released job 7", "Aborted"])

    assert [call.argv for call in fake_slurm.calls("scontrol")] == calls
