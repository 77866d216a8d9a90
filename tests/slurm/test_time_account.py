"""The account of a run that was preempted and killed on a real Slurm is as long as the run was."""

import os
import re
import signal
import time
from datetime import datetime

import pytest

from launcher.devcluster import DevCluster
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from tests.slurm.site import ONE_RANK, Site, rank_processes
from tests.support.time_accounts import account_of
from tests.support.waiting import wait_for

pytestmark = pytest.mark.long
SETTINGS = (*ONE_RANK, "schedule.length=40 steps", "checkpoint.interval=10 steps")


def carry_out(site: Site) -> RunDir:
    """A run that is preempted, then loses its rank to SIGKILL, then finishes."""
    site.prepare_corpus()
    run = site.submit_rehearsal(*SETTINGS)
    site.preempt(run, step=4)
    site.wait_for_attempt(run, 1)
    site.wait_for_step(run, 15)
    for process in rank_processes(run).values():
        os.kill(process, signal.SIGKILL)
    site.wait_until_finished(run)
    return run


def end_of_job(site: Site, job_id: str) -> float:
    """When Slurm says that the job ended, to the second."""

    def ended() -> str | None:
        shown = site.slurm("scontrol", "show", "job", job_id)
        found = re.search(r"EndTime=(\S+)", shown)
        return found[1] if found and "JobState=COMPLETED" in shown else None

    return datetime.fromisoformat(wait_for(ended, f"the end of job {job_id}")).timestamp()


def test_all_seconds_are_accounted_for(small_cluster: DevCluster) -> None:
    site = Site(small_cluster)
    begin = time.time()

    run = carry_out(site)

    attempts, record, account = read_attempts(run.ledger), RunRecord.read(run.record), account_of(run)
    whole = end_of_job(site, record.submissions[-1].job_id) - record.submissions[0].time
    assert record.submissions[0].time > begin
    assert account.seconds() == pytest.approx(whole, abs=2)  # Slurm says whole seconds
    assert [attempt.reason for attempt in attempts] == ["preempted", "killed", "finished"]
    spent = account.by_kind()
    assert all(spent[kind] > 0 for kind in ("queued", "starting", "useful", "redone", "saving", "lost"))
    assert spent["idle"] == 0
