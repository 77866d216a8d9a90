"""DPO and GRPO on a real Slurm, preempted at every step of two epochs in turn: nothing tells them from a whole run.

tests/train/test_rl_resume.py and tests/kinds/test_dpo.py resume from checkpoints of such runs, without Slurm.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launcher.devcluster import DevCluster
from launcher.errors import LauncherError
from launcher.run.ledger import Attempt, read_attempts, read_json_lines
from launcher.run.paths import RunDir
from tests.slurm.site import RECIPES, Site, logs_text, preempt_mode, rank_processes, record, steps_by_attempt
from tests.support.waiting import wait_for

pytestmark = pytest.mark.long

TWO_RANKS = ("resources.nodes=1", "resources.gpus_per_node=2", "adapter=null", "schedule.length=2 epochs")
MOVING = "{steps: 2, share: 0.5}"
CASES = {
    "dpo": (f"reference={{sync: {MOVING}}}", "data.validation=0", "batch.global_batch=16 sequences"),
    "grpo": (
        f"algorithm={{name: grpo, generations: 4, iterations: 2, kl_weight: 0.1, sync: {MOVING}}}",
        "batch.global_batch=80 sequences",
        "output=null",
    ),
}
GRACE = 120
"""Seconds that a step and a save may take, however busy this machine is."""
ROUNDS = 3
"""Runs in which each step has to be stopped at: a busy machine can let a first step end before this test holds it."""
_OF_THE_MACHINE = ("time", "attempt", "tokens_per_second", "mfu", "memory_gib", "slowest_rank", "slowest_speed")


@pytest.mark.parametrize("kind", CASES)
def test_a_run_that_is_preempted_at_every_step_is_the_whole_one(small_cluster: DevCluster, kind: str) -> None:
    site = Site(small_cluster)
    words = [word for setting in (*TWO_RANKS, *CASES[kind]) for word in ("--set", setting)]

    def submit() -> RunDir:
        [run] = site.submit(RECIPES / f"medicalgpt_{kind}.yaml", "--rehearse", *words)
        return run

    whole = submit()
    site.wait_until_finished(whole)
    steps = [*rows(whole)]
    assert len(steps) >= 6 and len(steps_by_attempt(whole)) == 1
    stops: set[int] = set()
    with preempt_mode(small_cluster, "REQUEUE", GRACE):
        for _ in range(ROUNDS):
            run = submit()
            stops |= preempted_in_each_first_step(site, run)

            assert rows(run) == rows(whole)
            ours, theirs = weights(run), weights(whole)
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
            if stops == {*steps[:-1]}:
                break
    assert stops == {*steps[:-1]}


def preempted_in_each_first_step(site: Site, run: RunDir) -> set[int]:
    """Preempt each attempt while it does its first step, until one begins with the last; return where they stopped.

    The ranks are held while Slurm takes its time; it wakes up what it preempts.
    """
    attempt, ranks = begun(run, 0)
    while not begins_with_the_last_step(attempt):
        with suppress(ProcessLookupError, LauncherError):  # it has ended, which the last preemption can do so late
            for process in ranks:
                os.kill(process, signal.SIGSTOP)
            site.cluster.preempt(record(run).submissions[-1].job_id, seconds=1)
        attempt, ranks = begun(run, attempt.number + 1)
    *others, last = site.wait_until_finished(run)
    trained = steps_by_attempt(run)
    assert {one.reason for one in others if one.number in trained} == {"preempted"}
    return {steps[-1] for number, steps in trained.items() if number != last.number}


def begun(run: RunDir, number: int) -> tuple[Attempt, list[int]]:
    """Wait until an attempt has begun with its first step, the `number`-th or a later one; return it and its ranks."""
    loading = wait_for(lambda: find_attempt(run, number, "first_step"), f"attempt {number} of {run.root}")
    ranks = [*rank_processes(run).values()]
    what = f"the first step of attempt {loading.number} of {run.root}"
    return wait_for(lambda: find_attempt(run, loading.number, "began"), what, pause=0.01), ranks


def find_attempt(run: RunDir, number: int, event: str) -> Attempt | None:
    """Return the last attempt if it is the `number`-th or a later one of which this event is known."""
    attempts = read_attempts(run.ledger)
    assert not attempts or attempts[-1].action not in ("done", "stop"), f"{attempts[-1]}\n{logs_text(run)}"
    return next((one for one in attempts[-1:] if one.number >= number and getattr(one, event) is not None), None)


def begins_with_the_last_step(attempt: Attempt) -> bool:
    assert attempt.first_step is not None and attempt.total_steps is not None
    return attempt.first_step + 1 == attempt.total_steps


def rows(run: RunDir) -> dict[int, dict[str, object]]:
    """All that was logged of each step, but what depends on the machine; no step was done twice."""
    found = read_json_lines(run.metrics)
    assert len({row["step"] for row in found}) == len(found)
    return {row["step"]: {name: row[name] for name in row if name not in _OF_THE_MACHINE} for row in found}


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    [file] = Path(run.outputs / "model").glob("*.safetensors")
    return load_file(file)
