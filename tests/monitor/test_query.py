"""Asking Slurm on sites where parts of it are missing, switched off, slow or broken.

Small executables stand first on PATH in place of Slurm's commands, so argv, exit codes and timeouts are real.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from launcher.cluster import Cluster, Roots
from launcher.errors import SlurmError
from launcher.slurm import local_queue, query
from launcher.slurm.allocation import hold_allocation
from launcher.slurm.command import run_slurm
from launcher.slurm.query import find_jobs

CLUSTER = Cluster(name="site", roots=Roots(runs="r", corpora="c", models="m"))
LOCAL = Cluster(name="here", executor="local", roots=Roots(runs="r", corpora="c", models="m"))

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a command on an otherwise empty PATH; it notes its arguments beside itself."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name: str, stdout: str = "", stderr: str = "", code: int = 0, then: str = "") -> Path:
        calls = tmp_path / f"{name}.calls"
        (tmp_path / f"{name}.out").write_text(stdout)
        (tmp_path / f"{name}.err").write_text(stderr)
        script = (
            f'#!/bin/sh\necho "$@" >> {calls}\n/bin/cat {tmp_path}/{name}.out\n'
            f"/bin/cat {tmp_path}/{name}.err >&2\n{then}\nexit {code}\n"
        )
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
        return calls

    return put


def test_a_job_in_the_queue_needs_one_call(install: Install) -> None:
    squeue = install("squeue", "7_0|RUNNING|2026-11-21T04:10:59|N/A|n1|None\n7_1|PENDING|N/A|N/A||Priority\n")
    sacct = install("sacct")

    answer = find_jobs(CLUSTER, ["7_0", "7_1"])

    assert {job_id: (job.state, job.source) for job_id, job in answer.jobs.items()} == {
        "7_0": ("RUNNING", "squeue"),
        "7_1": ("PENDING", "squeue"),
    }
    assert len(squeue.read_text().splitlines()) == 1
    assert "--jobs=7" in squeue.read_text()
    assert not sacct.exists()


def test_jobs_that_left_the_queue_are_looked_up_in_one_sacct_call(install: Install) -> None:
    install("squeue", "9|RUNNING|2026-11-21T04:10:59|N/A|n1|None\n")
    sacct = install(
        "sacct", "7|NODE_FAIL|0:0|N/A|N/A|n1|None\n7|COMPLETED|0:0|N/A|N/A|n1|None\n8|FAILED|1:0|N/A|N/A|n1|x\n"
    )

    answer = find_jobs(CLUSTER, ["7", "8", "9"])

    assert answer.jobs["7"].state == "COMPLETED"
    assert answer.jobs["8"].source == "sacct"
    assert answer.jobs["9"].source == "squeue"
    assert len(sacct.read_text().splitlines()) == 1
    assert "--jobs=7,8" in sacct.read_text()
    assert answer.notes == ()


def test_a_single_job_unknown_to_squeue_is_no_failure(install: Install) -> None:
    install("squeue", stderr="slurm_load_jobs error: Invalid job id specified\n", code=1)
    install("sacct", "7|COMPLETED|0:0|N/A|N/A|n1|None\n")

    answer = find_jobs(CLUSTER, ["7"])

    assert answer.jobs["7"].source == "sacct"
    assert answer.notes == ()


def test_without_sacct_scontrol_is_asked(install: Install) -> None:
    install("squeue")
    install("scontrol", "JobId=7 JobName=x\n   JobState=COMPLETED Reason=None Dependency=(null)\n")

    answer = find_jobs(CLUSTER, ["7"])

    assert (answer.jobs["7"].state, answer.jobs["7"].source) == ("COMPLETED", "scontrol")
    assert answer.notes == ("sacct: is not on PATH; run this where Slurm's commands are installed",)


def test_a_command_that_may_not_be_executed_or_gets_too_much_is_no_bug(install: Install, tmp_path: Path) -> None:
    """The kernel refuses both: a file without the right to execute it, and a longer argument than it takes."""
    install("squeue")
    (tmp_path / "squeue").chmod(0o644)
    install("scontrol", "JobId=7 JobState=COMPLETED Reason=None Dependency=(null)\n")

    answer = find_jobs(CLUSTER, ["7"])

    assert answer.jobs["7"].source == "scontrol"
    assert answer.notes[0] == "squeue: cannot be started: Permission denied"
    with pytest.raises(SlurmError, match="`scontrol` cannot be started: Argument list too long"):
        run_slurm(["scontrol", "x" * 2**20], CLUSTER)
    install("salloc")
    with (
        pytest.raises(SlurmError, match="`salloc` cannot be started: Argument list too long"),
        hold_allocation(f"#SBATCH --comment={'x' * 2**20}", CLUSTER, 1, print),
    ):
        pass


def test_switched_off_accounting_is_one_note_and_the_job_is_gone(install: Install) -> None:
    install("squeue")
    install("sacct", stderr="Slurm accounting storage is disabled\n", code=1)
    install("scontrol", stderr="slurm_load_jobs error: Invalid job id specified\n", code=1)

    answer = find_jobs(CLUSTER, [str(number) for number in range(50)])

    assert answer.jobs == {}
    assert answer.notes == ("sacct: accounting is switched off at this site",)
    assert answer.is_gone("7")


def test_a_hanging_sacct_is_given_up(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(argv: Sequence[str], cluster: Cluster, seconds: float) -> str:
        return run_slurm(argv, cluster, 0.2 if argv[0] == "sacct" else seconds)

    monkeypatch.setattr(query, "run_slurm", ask)
    install("squeue")
    install("sacct", then="exec /bin/sleep 60")
    install("scontrol", "JobId=7 JobName=x\n   JobState=RUNNING Reason=None Dependency=(null)\n")

    answer = find_jobs(CLUSTER, ["7"])

    assert answer.jobs["7"].source == "scontrol"
    assert "did not answer" in answer.notes[0]


def test_a_job_is_not_gone_when_nobody_could_be_asked(install: Install) -> None:
    install("squeue", stderr="squeue: error: Unable to contact slurm controller (connect failure)\n", code=1)
    install("sacct", stderr="sacct: error: Problem talking to the database\n", code=1)
    scontrol = install("scontrol", stderr="Unable to contact slurm controller (connect failure)\n", code=1)

    answer = find_jobs(CLUSTER, [str(number) for number in range(50)])

    assert not answer.is_gone("7")
    assert len(answer.notes) == 2
    assert not scontrol.exists(), "slurmctld would let that wait, too"


def test_scontrol_is_asked_for_the_newest_jobs_only(install: Install) -> None:
    install("squeue")
    install("sacct")
    scontrol = install("scontrol", stderr="slurm_load_jobs error: Invalid job id specified\n", code=1)

    find_jobs(CLUSTER, [str(number) for number in range(1, 101)])

    asked = [line.split()[-1] for line in scontrol.read_text().splitlines()]
    assert asked == [str(number) for number in range(81, 101)]


@pytest.fixture(params=["jobs.batch.main", "jobs.batch.interactive", "jobs.runtime.batch", "jobs.runtime.interactive"])
def batch_process(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process called as a run's; the last two names are those of version 0.1, whose runs may still be alive."""
    argv = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", request.param]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate()


def test_another_program_that_has_the_number_of_a_local_run_by_now_is_not_that_run() -> None:
    argv = [
        sys.executable,
        "-c",
        "import sys; print(flush=True); sys.stdin.read()",
        "launcher",
        "edit",
        "jobs/kinds/sft.py",
    ]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as editor:
        assert editor.stdout is not None
        editor.stdout.readline()
        answer = find_jobs(LOCAL, [f"local-{editor.pid}"])
        editor.communicate()

    assert answer.is_gone(f"local-{editor.pid}")


def test_what_slurm_says_in_another_encoding_is_read_all_the_same(install: Install) -> None:
    install("squeue", then="printf '7|PENDING|N/A|N/A||R\\351serv\\351\\n'")

    assert find_jobs(CLUSTER, ["7"]).jobs["7"].state == "PENDING"


def test_a_local_run_is_looked_up_among_the_processes(batch_process: int) -> None:
    alive, stranger = f"local-{batch_process}", f"local-{os.getppid()}"

    answer = find_jobs(LOCAL, [alive, stranger, "local-999999999"])

    assert [*answer.jobs] == [alive]
    assert answer.jobs[alive].phase == "running"
    assert answer.is_gone("local-999999999")


def test_a_process_between_two_programs_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the shell of a script becomes the batch process, its command line is empty."""
    monkeypatch.setattr(local_queue.Path, "read_bytes", lambda _: b"")

    assert local_queue.find_command(f"local-{os.getpid()}") == ()


def test_a_thread_of_the_kernel_is_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no command line either."""
    monkeypatch.setattr(local_queue.Path, "read_bytes", lambda _: b"")
    monkeypatch.setattr(local_queue.Path, "read_text", lambda _: "37 (kworker/3:1) I 2 0 0 0 -1 69238880 0 0 0 0 0")

    assert local_queue.find_command("local-37") is None
