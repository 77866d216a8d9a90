"""Holding an allocation in the foreground, and running commands inside it."""

import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.slurm.command import not_started, run_slurm, slurm_environment
from launcher.slurm.parse import Job, parse_allocation
from launcher.slurm.query import find_jobs

_POLL_SECONDS = 0.2
_ASK_SECONDS = 5
_RELEASE_SECONDS = 10
_SILENT = "salloc ended and printed nothing"

_BATCH_ONLY = ("--signal", "--requeue", "--no-requeue", "--export", "--chdir", "--open-mode", "--output", "--array",
               "--mail-user", "--mail-type", "--batch", "--ignore-pbs", "--input", "--propagate")  # fmt: skip
"""Options of a batch script that salloc does not take."""


@contextmanager
def hold_allocation(
    script: str, cluster: Cluster, patience: float, on_wait: Callable[[Job], None], options: Sequence[str] = ()
) -> Iterator[str]:
    """Get the allocation that a batch script asks for, and give it back at the end of a `with` block.

    salloc keeps an allocation as long as its command runs. Here that is a `cat` that reads from a pipe of this
    process: whatever ends this process, `kill -9` included, closes the pipe and so releases the nodes.

    Args:
        script: The batch script; its `#SBATCH` lines are salloc's options.
        cluster: The site.
        patience: How many seconds to wait for it.
        on_wait: Called with the waiting job whenever Slurm gives another reason or start time.
        options: Further options of salloc.

    Yields:
        The job id.

    Raises:
        SlurmError: Slurm refuses, or there is no allocation in time; with its reason and its estimate.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        argv = ["salloc", *allocation_options(script), *options, "cat"]
        salloc = _Salloc(cluster, output, _start(argv, cluster, output))
        try:
            yield salloc.wait(patience, on_wait)
        finally:
            salloc.release()


def allocation_options(script: str) -> list[str]:
    """Read the options of a batch script that ask for nodes."""
    lines = [line.removeprefix("#SBATCH ") for line in script.split("\n") if line.startswith("#SBATCH ")]
    options = [word.replace("\\\\", "\\") for line in lines for word in shlex.split(line)]
    return [option for option in options if option.partition("=")[0] not in _BATCH_ONLY]


def inside_argv(
    job_id: str, command: Sequence[str], has_terminal: bool, cpus: int | None = None, node: str | None = None
) -> list[str]:
    """Write the srun command that runs something on one node of an allocation, beside other steps.

    Args:
        job_id: Of the allocation.
        command: What to run.
        has_terminal: Whether it has the terminal of this process.
        cpus: Cores for it; None: as many as Slurm gives a step that does not say.
        node: Which node; None: the first.
    """
    pty = ["--pty"] if has_terminal else []
    cores = [f"--cpus-per-task={cpus}"] if cpus else []
    where = [f"--nodelist={node}"] if node else []
    return ["srun", f"--jobid={job_id}", "--overlap", "--nodes=1", "--ntasks=1", *where, *cores, *pty, *command]


def _start(argv: Sequence[str], cluster: Cluster, output: IO[str]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            list(argv),
            env=slurm_environment(cluster),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the program that is debugged
        )
    except OSError as error:
        raise not_started(argv[0], error) from None


@dataclass
class _Salloc:
    cluster: Cluster
    output: IO[str]
    process: "subprocess.Popen[bytes]"
    job_id: str | None = None

    def wait(self, patience: float, on_wait: Callable[[Job], None]) -> str:
        while (job_id := parse_allocation(self._read())) is None:
            self._check_alive()
            time.sleep(_POLL_SECONDS)
        self.job_id = job_id
        deadline, next_question, shown = time.monotonic() + patience, 0.0, None
        while "Granted job allocation" not in self._read():
            self._check_alive()
            if time.monotonic() > next_question:
                job = find_jobs(self.cluster, [job_id]).jobs.get(job_id)
                if job and job.phase == "queued" and job.reason and (job.reason, job.start) != shown:
                    shown = job.reason, job.start
                    on_wait(job)
                next_question = time.monotonic() + _ASK_SECONDS
            if time.monotonic() > deadline:
                raise SlurmError(f"no allocation within {patience:g} s; job {job_id} was removed from the queue")
            time.sleep(_POLL_SECONDS)
        return job_id

    def release(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.job_id is None or self.process.poll() is None:
            self.process.terminate()
        if self.job_id is not None:
            run_slurm(["scancel", "--quiet", self.job_id], self.cluster)
        try:
            self.process.wait(_RELEASE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _check_alive(self) -> None:
        if self.process.poll() is not None:
            lines = [line for line in self._read().splitlines() if "error" in line]
            raise SlurmError("; ".join(line.removeprefix("salloc: error: ") for line in lines) or _SILENT)

    def _read(self) -> str:
        self.output.seek(0)
        return self.output.read()
