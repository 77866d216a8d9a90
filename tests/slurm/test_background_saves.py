"""Checkpoints that are written while training goes on, on a real Slurm: a preemption and a killed rank lose nothing."""

import os
import signal

import pytest

from launcher.devcluster import DevCluster
from launcher.run.ledger import read_attempts
from launcher.run.paths import published_steps
from tests.slurm.site import ONE_RANK_A_NODE, Site, joined_losses, last_step, rank_processes

pytestmark = [pytest.mark.slurm, pytest.mark.long]

SETTINGS = (*ONE_RANK_A_NODE, "schedule.length=24 steps")
DDP = ("parallel.strategy=ddp", "parallel.reshard_after_forward=true")
IN_BACKGROUND = ("checkpoint.async=true", "checkpoint.interval=3 steps")


@pytest.mark.parametrize("sharing", [(), DDP], ids=["full_shard", "ddp"])
def test_a_preempted_and_killed_run_has_the_losses_of_one_that_waits_for_its_saves(
    small_cluster: DevCluster, sharing: tuple[str, ...]
) -> None:
    site, settings = Site(small_cluster), (*SETTINGS, *sharing)
    site.prepare_corpus()
    whole = site.submit_rehearsal(*settings)
    site.wait_until_finished(whole)

    run = site.submit_rehearsal(*settings, *IN_BACKGROUND)
    site.preempt(run, step=7)
    site.wait_for_attempt(run, 1)
    site.wait_for_step(run, last_step(run) + 4)
    os.kill(rank_processes(run)[1], signal.SIGKILL)
    attempts = site.wait_until_finished(run)

    assert [one.reason for one in attempts] == ["preempted", "killed", "finished"]
    assert joined_losses(run) == joined_losses(whole)
    assert published_steps(run)[-1] == 24
    assert "training waited" in run.rank_log(0, 0).read_text()
    assert read_attempts(run.ledger)[1].first_step == attempts[0].last_step
