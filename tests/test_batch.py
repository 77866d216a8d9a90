"""The batch process in local mode: real processes, real signals, tasks that only count."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.ledger import StopRequest, append_event, read_attempts
from launcher.paths import RunDir, published_steps
from tests.plays import Play, last_attempt, run_batch, seen, stage, start_batch, summary
from tests.waiting import wait_for


@pytest.fixture
def local_cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster(executor="local", gpus={"device": "cpu"})


def test_a_run_that_works_finishes_in_one_attempt(tmp_path: Path, local_cluster: Cluster) -> None:
    submission, [run] = stage(tmp_path, local_cluster, [Play(nodes=2)])

    code, said = run_batch(submission)

    assert (code, summary(run)) == (0, [("finished", "done")]), said
    attempt = last_attempt(run)
    assert (attempt.first_step, attempt.last_step, attempt.world_size, attempt.exit_code) == (0, 4, 4, 0)
    assert [seen(run, 0, rank)["ranks"] for rank in range(4)] == [[r, 4, r % 2, 2, r // 2] for r in range(4)]
    assert run.rank_log(0, 3).read_text().splitlines() == [f"step {n}" for n in range(1, 5)]
