"""An allocation for as long as a person needs it, and commands inside it."""

import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.slurm.command import run_slurm, slurm_environment
from launcher.slurm.parse import Job, parse_allocation
from launcher.slurm.query import find_jobs

_POLL_SECONDS = 0.2
_ASK_SECONDS = 5
_RELEASE_SECONDS = 10

_BATCH_ONLY = ("--signal", "--requeue", "--no-requeue", "--export", "--chdir", "--open-mode", "--output", "--array",
               "--mail-user", "--mail-type")  # fmt: skip
"""Options of a batch script that mean nothing to salloc."""


@contextmanager
def hold_allocation(script: str, cluster: Cluster, patience: float, tell: Callable[[Job], None]) -> Iterator[str]:
    """Get the allocation that a batch script asks for, and give it back at the end of a `with` block.

    salloc keeps an allocation as long as its command runs. Here that is a `cat` that reads from a pipe of this
    process: whatever ends this process, `kill -9` included, closes the pipe and so releases the nodes.

    Args:
        script: The batch script; its `#SBATCH` lines are salloc's options.
        cluster: The site.
        patience: How many seconds to wait for it.
        tell: Called with the waiting job when Slurm has something new to say about it.

    Yields:
        The job id.

    Raises:
        SlurmError: Slurm refuses, or there is no allocation in time; with its reason and its estimate.
    """
    argv = ["salloc", *allocation_options(script), "cat"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        salloc = _start(argv, cluster, said)
        job_id = None
        try:
            job_id = _wait_for_id(salloc, said)
            _wait_for_start(salloc, said, job_id, cluster, patience, tell)
            yield job_id
        finally:
            _release(salloc, job_id, cluster)


def allocation_options(script: str) -> list[str]:
    """Read the options of a batch script that ask for nodes."""
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    options = [word.replace("\\\\", "\\") for line in lines for word in shlex.split(line)]
    return [option for option in options if option.partition("=")[0] not in _BATCH_ONLY]


def inside_argv(job_id: str, command: Sequence[str], has_terminal: bool) -> list[str]:
    """Write the srun command that runs something on the first node of an allocation, beside other steps."""
    pty = ["--pty"] if has_terminal else []
    return ["srun", f"--jobid={job_id}", "--overlap", "--nodes=1", "--ntasks=1", *pty, *command]


def _start(argv: Sequence[str], cluster: Cluster, said: IO[str]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            list(argv),
            env=slurm_environment(cluster),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # Ctrl-C is for the program that is debugged
        )
    except FileNotFoundError:
        raise SlurmError("`salloc` is not on PATH; run this where Slurm's commands are installed") from None


def _wait_for_id(salloc: "subprocess.Popen[bytes]", said: IO[str]) -> str:
    while (job_id := parse_allocation(_read(said))) is None:
        _check_alive(salloc, said)
        time.sleep(_POLL_SECONDS)
    return job_id


def _wait_for_start(
    salloc: "subprocess.Popen[bytes]",
    said: IO[str],
    job_id: str,
    cluster: Cluster,
    patience: float,
    tell: Callable[[Job], None],
) -> None:
    deadline, next_question, told = time.monotonic() + patience, 0.0, None
    while "Granted job allocation" not in _read(said):
        _check_alive(salloc, said)
        if time.monotonic() > next_question:
            job = find_jobs(cluster, [job_id]).jobs.get(job_id)
            if job and job.phase == "queued" and job.reason and (job.reason, job.start) != told:
                told = job.reason, job.start
                tell(job)
            next_question = time.monotonic() + _ASK_SECONDS
        if time.monotonic() > deadline:
            raise SlurmError(f"no allocation within {patience:g} s; job {job_id} is taken out of the queue")
        time.sleep(_POLL_SECONDS)


def _check_alive(salloc: "subprocess.Popen[bytes]", said: IO[str]) -> None:
    if salloc.poll() is not None:
        lines = [line for line in _read(said).splitlines() if "error" in line] or ["salloc ended without a word"]
        raise SlurmError("; ".join(line.removeprefix("salloc: error: ") for line in lines))


def _release(salloc: "subprocess.Popen[bytes]", job_id: str | None, cluster: Cluster) -> None:
    assert salloc.stdin is not None
    salloc.stdin.close()
    if job_id is None or salloc.poll() is None:
        salloc.terminate()
    if job_id is not None:
        run_slurm(["scancel", "--quiet", job_id], cluster)
    try:
        salloc.wait(_RELEASE_SECONDS)
    except subprocess.TimeoutExpired:
        salloc.kill()
        salloc.wait()


def _read(said: IO[str]) -> str:
    said.seek(0)
    return said.read()
