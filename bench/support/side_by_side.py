"""Two programs that train at the same time, one on a core each, so that a slower moment of the machine slows both."""

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain, pairwise

from launcher.run.paths import RunDir
from tests.support.training_runs import free_port, rank_environment


def side_by_side(run: RunDir, peer: Sequence[str], number: int) -> str:
    """Carry out the first attempt of a run, on one rank, beside another command; return what that printed.

    Args:
        run: The run.
        peer: The other command.
        number: The round: the two cores swap from one to the next. On a machine that has only one they share it.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    one, other = (cores[0], cores[-1]) if number % 2 else (cores[-1], cores[0])
    command = [sys.executable, "-m", "jobs", str(run.root), "--attempt", "0"]
    run.attempt_logs(0).mkdir(parents=True)
    with (
        run.rank_log(0, 0).open("wb") as log,
        subprocess.Popen(command, env=rank_environment(0, 1, 1, free_port()), stdout=log, stderr=log) as job,
        subprocess.Popen(peer, stdout=subprocess.PIPE, text=True) as trainer,
    ):
        os.sched_setaffinity(job.pid, {one})
        os.sched_setaffinity(trainer.pid, {other})
        printed = trainer.communicate()[0]
    assert job.returncode == 0, run.rank_log(0, 0).read_text()
    assert trainer.returncode == 0, f"the peer ended with exit code {trainer.returncode}"
    return printed


def step_seconds(times: Sequence[float], skipped: int) -> list[float]:
    """Return how long each step took after the first ones, from the times when they ended."""
    return [after - before for before, after in pairwise(times[skipped:])]


def median_ratio(ours: Sequence[Sequence[float]], peer: Sequence[Sequence[float]]) -> float:
    """Return by what factor our steps are faster: the median over all steps, each beside the same one of the peer."""
    return statistics.median(
        theirs / our for our, theirs in zip(chain.from_iterable(ours), chain.from_iterable(peer), strict=True)
    )
