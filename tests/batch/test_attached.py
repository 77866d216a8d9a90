"""What a command beside a rank gets to see."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jobs.batch.attached import attached_argv, find_rank, main
from launcher.cluster import Cluster
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from tests.support.counting_runs import PROJECT, Play, write_run
from tests.support.waiting import PATIENCE

RANK = {"RANK": "1", "MASTER_ADDR": "n1", "PATH": "/image/bin", "MINE": "yes", "SECRETLY": "host only"}
OWN = {"PATH": "/host/bin", "TERM": "xterm", "SHELL": "/bin/zsh", "SRUN_MEM": "1"}


@pytest.fixture
def record(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> Callable[..., RunRecord]:
    def make(container: dict[str, Any] | None) -> RunRecord:
        run = RunDir(tmp_path / "run")
        cluster = make_cluster(container=container, environment={"MINE": "yes"})
        write_run(run, Play().recipe.model_dump(mode="json"), cluster)
        return RunRecord.read(run.record)

    return make


def test_without_a_container_it_has_the_environment_of_the_rank(record: Callable[..., RunRecord]) -> None:
    words, environ = attached_argv(record(None), ["env", "-0"], RANK, OWN)

    assert words == ["env", "-0"]
    assert environ == {**RANK, "TERM": "xterm"}


def test_in_a_container_it_has_what_the_run_added(record: Callable[..., RunRecord]) -> None:
    image = {"runtime": "apptainer", "image": "i.sif"}
    words, environ = attached_argv(record(image), [], RANK, OWN)

    assert words[:2] == ["apptainer", "exec"] and words[-4:-2] == ["i.sif", "sh"]
    assert (environ["PATH"], environ["MASTER_ADDR"], environ["MINE"]) == ("/host/bin", "n1", "yes")
    assert "SECRETLY" not in environ and "SRUN_MEM" not in environ


def test_pyxis_starts_the_container_by_a_step_of_its_own(record: Callable[..., RunRecord]) -> None:
    words, _ = attached_argv(record({"runtime": "pyxis", "image": "i"}), ["ls"], RANK, OWN)

    assert words[:2] == ["srun", "--overlap"] and "--container-image=i" in words and words[-1] == "ls"
    [passed] = [word for word in words if word.startswith("--container-env=")]
    assert {"MINE", "RANK", "LAUNCHER_RANK_PROCESS"} <= {*passed.partition("=")[2].split(",")}


@pytest.fixture
def rank(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that looks like rank 1 in attempt 2 of a run."""
    (tmp_path / "jobs.py").write_text("import time; print('ready', flush=True); time.sleep(1000)")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "SLURM_PROCID": "1", "LAUNCHER_ATTEMPT": "2"}
    argv = [sys.executable, "-u", "-m", "jobs", str(tmp_path / "run"), "--attempt", "2"]
    process = subprocess.Popen(argv, env=environ, cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.communicate()


def test_a_rank_is_found_by_its_run_attempt_and_number(rank: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    found = find_rank(run, 2, 1)

    assert found is not None and found[0] == rank.pid and found[1]["LAUNCHER_ATTEMPT"] == "2"
    assert find_rank(run, 1, 1) is find_rank(run, 2, 0) is find_rank(RunDir(tmp_path / "other"), 2, 1) is None


def test_a_rank_is_found_by_any_path_to_its_run(
    rank: "subprocess.Popen[bytes]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "run")

    for path in (tmp_path / "link" / "run", tmp_path / "run" / ".." / "run", Path("../run")):
        found = find_rank(RunDir(path), 2, 1)
        assert found is not None and found[0] == rank.pid, path
    assert find_rank(RunDir(tmp_path), 2, 1) is None


def test_a_rank_that_is_gone_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--run", str(tmp_path), "--attempt", "0", "--rank", "3", "--", "ls", "-l"]) == 2

    assert "rank 3 is not on" in capsys.readouterr().err


def test_a_shell_ends_with_the_job_and_not_with_a_request_to_stop(
    rank: "subprocess.Popen[bytes]", tmp_path: Path, make_cluster: Callable[..., Cluster]
) -> None:
    write_run(RunDir(tmp_path / "run"), Play().recipe.model_dump(mode="json"), make_cluster())
    deaf = "trap '' TERM; kill -USR2 $$ $PPID; echo here; while true; do sleep 0.1; done"
    options = ["--run", str(tmp_path / "run"), "--attempt", "2", "--rank", "1", "--", "bash", "-c", deaf]
    argv = [sys.executable, "-m", "jobs.batch.attached", str(tmp_path), *options]
    environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
    shell = subprocess.Popen(argv, stdout=subprocess.PIPE, env=environ, start_new_session=True)
    try:
        assert shell.stdout is not None and shell.stdout.readline() == b"here\n"
        shell.terminate()
        assert shell.wait(PATIENCE) == 128 + signal.SIGHUP
    finally:
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()
