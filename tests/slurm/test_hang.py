"""Attempts that hang on a real Slurm: they are ended with evidence, and the run goes on."""

import os
import signal

import pytest

from launcher.devcluster import DevCluster
from tests.slurm.site import Site, joined_losses, logs_text, rank_processes, steps_by_attempt

pytestmark = pytest.mark.slurm


def test_a_rank_that_is_stopped_is_named_and_the_run_goes_on(devcluster: DevCluster) -> None:
    site = Site(devcluster)
    site.prepare_corpus()
    run = site.submit_rehearsal("limits.hang=90s", "schedule.length=30 steps")
    site.wait_for_step(run, 11)

    os.kill(rank_processes(run)[3], signal.SIGSTOP)

    attempts = site.wait_until_finished(run)
    assert [attempt.reason for attempt in attempts] == ["hang", "finished"], logs_text(run)
    assert f"but none of rank 3 on {attempts[0].nodes[1]}" in attempts[0].message
    assert all("Timeout (0:0" in run.rank_log(0, rank).read_text() for rank in range(3))
    assert steps_by_attempt(run)[1][0] in (11, 21)  # as many steps as may be done before the signal comes
    assert sorted(joined_losses(run)) == list(range(1, 31))
    assert "hung" in site.launcher("status", run.root)
