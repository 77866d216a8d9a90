"""A reward model on a real Slurm: a preempted rehearsal has the losses and scores of an uninterrupted one."""

import json
from typing import Any

import pytest

from launcher.devcluster import DevCluster
from launcher.run.paths import RunDir
from tests.slurm.site import RECIPES, Site, joined_losses, manifest, steps_by_attempt

pytestmark = pytest.mark.slurm

ON_ONE_NODE = ("resources.nodes=1", "batch.global_batch=4 sequences")


def scores(run: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.outputs / "scores.json").read_text())["splits"]["validation"]["scores"]
    return found


def test_a_preempted_reward_model_is_that_of_an_uninterrupted_run(devcluster: DevCluster) -> None:
    site = Site(devcluster)

    words = [word for setting in ON_ONE_NODE for word in ("--set", setting)]
    submission = (RECIPES / "medicalgpt_reward.yaml", "--rehearse", *words)

    [run] = site.submit(*submission)
    site.preempt(run, step=2)
    [whole] = site.submit(*submission)
    for one in (run, whole):
        site.wait_until_finished(one)

    first, second = steps_by_attempt(run).values()
    assert second[0] == first[-1] + 1
    assert sorted(joined_losses(whole)) == list(range(1, 11))
    assert joined_losses(run) == joined_losses(whole)
    assert scores(run) == scores(whole)
    assert manifest(run.outputs / "model")["kind"] == "reward"
