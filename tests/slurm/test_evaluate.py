"""kind: evaluate on a real Slurm: an array whose elements are preempted and killed ends with the scores of one run."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from launcher.artifacts.scores import ITEMS, read_scores
from launcher.devcluster import DevCluster
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir, list_shares
from tests.slurm.site import RECIPES, Site, paused, rank_processes, record
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slurm

SMALL_BATCHES = "tokens_per_batch=600"


@pytest.fixture(scope="module")
def site(devcluster: DevCluster) -> Site:
    return Site(devcluster)


def submit(site: Site, *settings: str) -> RunDir:
    words = [word for setting in (SMALL_BATCHES, *settings) for word in ("--set", setting)]
    [run] = site.submit(RECIPES / "biomed_llama_eval.yaml", "--rehearse", *words)
    return run


def result(run: RunDir) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    scores = read_scores(run.root).model_dump() | {"run": ""}
    return scores, pyarrow.parquet.read_table(run.outputs / ITEMS).to_pylist()


def batches_of(run: RunDir) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.batches.rglob("[0-9]*.jsonl")}


def test_an_array_that_is_preempted_ends_with_the_scores_of_one_run(site: Site) -> None:
    alone, run = submit(site, "array_size=1"), submit(site, "array_size=3")
    preempted, killed, _ = list_shares(run)

    wait_for(lambda: batches_of(run) and rank_processes(preempted), "the first element to be at work")
    with paused(preempted):
        before = batches_of(run)
        site.slurm("scontrol", "requeue", record(preempted).submissions[-1].job_id)
    wait_for(lambda: rank_processes(killed) or read_attempts(killed.ledger), "the second element to be at work")
    for process in rank_processes(killed).values():
        os.kill(process, signal.SIGKILL)
    site.wait_until_finished(alone)
    site.wait_until_finished(run)

    reasons = [attempt.reason for attempt in read_attempts(preempted.ledger)]
    assert reasons[-1] == "finished"
    assert len(reasons) == 2 or reasons == ["finished"]  # it may have been through just before
    assert before.items() <= batches_of(run).items(), "finished batches are never made again"
    assert result(run) == result(alone)
    told = json.loads(site.launcher("status", run.root, "--json"))
    assert (told["state"], told["step"], told["total_steps"]) == ("finished", 197, 197)
