"""A colleague of the same group and somebody else's run on a real Slurm: what they can do, and what they cannot.

This process is root, who owns the runs, and becomes the colleague where `as_colleague` says so.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from launcher.cli import run as run_command
from launcher.devcluster import DevCluster, Shape
from launcher.run.ledger import StopRequest
from launcher.run.paths import RunDir
from tests.run.test_two_users import all_is_imported
from tests.slurm.conftest import running_cluster
from tests.support.other_users import as_user
from tests.support.run_histories import History
from tests.support.waiting import wait_for

__all__ = ["all_is_imported"]
COLLEAGUE, GROUP = 65534, 65533
SLEEPS = ("--parsable", "--wrap", "sleep 3600", "--output=/dev/null")

Ask = Callable[[str, RunDir], tuple[int, str]]

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(os.getuid() != 0, reason="needs two users: run it as root")]


def as_colleague() -> AbstractContextManager[None]:
    """Be another user, who is in the group that the folder of runs belongs to."""
    return as_user(COLLEAGUE, [GROUP])


@pytest.fixture(scope="module")
def cluster() -> Iterator[DevCluster]:
    with running_cluster(Shape(nodes=1, gpus=1)) as cluster:
        cluster.layout.folder.chmod(0o755)
        runs = cluster.layout.folder / "runs"
        os.chown(runs, 0, GROUP)
        runs.chmod(0o2775)
        yield cluster


def begin(cluster: DevCluster, run_id: str, mode: int, *options: str) -> tuple[RunDir, str]:
    """Make a run of ours with a job; `--hold` keeps it in the queue."""
    job = cluster.slurm("sbatch", *options, *SLEEPS).strip()
    umask = os.umask(0o002 if mode & 0o020 else 0o022)
    try:
        history = History.begin(cluster.layout.folder / "runs", run_id).submit(job, at=0)
        if "--hold" not in options:
            wait_for(lambda: "RUNNING" in queue(cluster, job), "the job to run")
            history.start(0, job, at=1)
    finally:
        os.umask(umask)
    history.run.root.chmod(0o2000 | mode)
    return history.run, job


def queue(cluster: DevCluster, job: str) -> str:
    return cluster.slurm("squeue", "--noheader", "--format=%T", f"--jobs={job}").strip()


def contents(run: RunDir) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()}


@pytest.fixture
def asked(
    cluster: DevCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], all_is_imported: None
) -> Ask:
    """Types a command about a run as the colleague."""

    def ask(command: str, run: RunDir) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["launcher", command, run.root.name, "--cluster", str(cluster.profile)])
        capsys.readouterr()
        with as_colleague():
            code = run_command()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out + said.err

    return ask


def test_a_run_that_only_its_owner_may_write_is_read_and_not_touched(cluster: DevCluster, asked: Ask) -> None:
    run, job = begin(cluster, "aaa111", 0o755)
    before = contents(run)

    assert asked("status", run)[0] == 0
    for command in ("stop", "cancel", "save"):
        code, said = asked(command, run)
        assert (code, said.count("\n")) == (2, 1)
        assert "is a run of `root`, and you may not write into its folder" in said

    assert contents(run) == before and queue(cluster, job) == "RUNNING"


def test_a_run_whose_folder_the_group_may_write_is_stopped(cluster: DevCluster, asked: Ask) -> None:
    run, job = begin(cluster, "bbb222", 0o775)

    code, said = asked("stop", run)

    assert code == 0 and "asked to save and stop" in said
    request = StopRequest.read(run.stop_request)
    assert request is not None and request.reason == "user"
    assert run.stop_request.stat().st_uid == COLLEAGUE
    assert asked("save", run)[0] == 0 and run.save_request.exists()
    assert queue(cluster, job) == "RUNNING"  # its ranks save and stop; nobody cancels the job
    StopRequest.withdraw(run.stop_request)  # as `launcher resume` of the owner does
    assert not run.stop_request.exists()


@pytest.mark.parametrize(("command", "options"), [("cancel", ()), ("stop", ("--hold",)), ("cancel", ("--hold",))])
def test_slurm_ends_no_job_for_a_colleague_and_the_run_is_asked_to_stop(
    cluster: DevCluster, asked: Ask, command: str, options: tuple[str, ...]
) -> None:
    run, job = begin(cluster, f"c{len(command)}{len(options)}333", 0o775, *options)
    ledger = run.ledger.read_bytes() if run.ledger.exists() else b""

    code, said = asked(command, run)

    assert (code, said.count("\n")) == (1, 1)
    assert "whose job Slurm ends for nobody else" in said and "denied" in said and "asked to stop" in said
    assert queue(cluster, job) == ("PENDING" if options else "RUNNING")
    assert run.stop_request.exists()
    assert (run.ledger.read_bytes() if run.ledger.exists() else b"") == ledger  # nothing is said to have ended


def test_who_may_write_into_the_folder_may_do_more_than_stop_the_run(cluster: DevCluster) -> None:
    """Files have no right to stop and nothing else: this is why such a group has to trust each other."""
    run, _ = begin(cluster, "ddd444", 0o775)

    with as_colleague():
        run.recipe.write_text("{}")
        run.record.unlink()

    assert run.recipe.read_text() == "{}" and not run.record.exists()
