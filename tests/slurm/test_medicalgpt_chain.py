"""MedicalGPT's four stages on a real Slurm, all queued at once, each behind what makes what it reads."""

import json

import pytest

from launcher.devcluster import DevCluster
from launcher.run.ledger import read_json_lines
from launcher.run.paths import RunDir
from tests.slurm.site import RECIPES, Site, joined_losses, manifest, record, steps_by_attempt

pytestmark = pytest.mark.long

MERGED = "medicalgpt-sft-merged-rehearsal"
ALONE = ("resources.nodes=1", "resources.gpus_per_node=1")
SMALL = (*ALONE, "batch.global_batch=4 sequences", "checkpoint.interval=2 steps")
REWARD = "rewards=[{type: model, path: " + MERGED + ", adapter: medicalgpt-reward-rehearsal}]"


class Chain:
    """Stages that were queued, by the name of their recipe."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.runs: dict[str, RunDir] = {}

    def queue(self, stage: str, after: tuple[str, ...] = (), settings: tuple[str, ...] = ()) -> None:
        waits = [word for one in after for word in ("--after", record(self.runs[one]).id)]
        words = [word for setting in settings for word in ("--set", setting)]
        [self.runs[stage]] = self.site.submit(RECIPES / f"{stage}.yaml", "--rehearse", *words, *waits)


def test_from_text_to_a_policy_that_a_reward_model_has_taught(small_cluster: DevCluster) -> None:
    chain = Chain(Site(small_cluster))
    chain.queue("medicalgpt_vocabulary")
    chain.queue("prepare_medicalgpt", ("medicalgpt_vocabulary",))
    chain.queue("medicalgpt_pt", ("medicalgpt_vocabulary", "prepare_medicalgpt"), (*SMALL, "schedule.length=4 steps"))
    chain.queue("medicalgpt_merge", ("medicalgpt_pt",))
    first = ("model.path=medicalgpt-rehearsal", "schedule.length=4 steps")
    chain.queue("medicalgpt_sft", ("medicalgpt_merge",), (*SMALL, *first))
    chain.queue("medicalgpt_merge_sft", ("medicalgpt_merge", "medicalgpt_sft"), ("base_model=medicalgpt-rehearsal",))
    second = f"model.path={MERGED}"
    chain.queue("medicalgpt_reward", ("medicalgpt_merge_sft",), (*SMALL, second, "schedule.length=6 steps"))
    taught = (*ALONE, second, REWARD, "schedule.length=4 steps")
    chain.queue("medicalgpt_ppo", ("medicalgpt_merge_sft", "medicalgpt_reward"), taught)

    chain.site.preempt(chain.runs["medicalgpt_reward"], step=2)
    for run in chain.runs.values():
        chain.site.wait_until_finished(run)

    assert len(steps_by_attempt(chain.runs["medicalgpt_reward"])) == 2, "what waits survives a requeue"
    models = small_cluster.layout.folder / "models"
    vocabulary = json.loads((models / MERGED / "config.json").read_text())["vocab_size"]
    assert vocabulary == json.loads((models / "medicalgpt-rehearsal" / "config.json").read_text())["vocab_size"] > 512
    for stage, base in (
        ("medicalgpt_sft", "medicalgpt-rehearsal"),
        ("medicalgpt_reward", MERGED),
        ("medicalgpt_ppo", MERGED),
    ):
        assert manifest(chain.runs[stage].outputs / "model")["base_model"] == base
    ppo = chain.runs["medicalgpt_ppo"]
    assert sorted(joined_losses(ppo)) == [1, 2, 3, 4]
    rewards = [row["reward"] for row in read_json_lines(ppo.metrics) if "reward" in row]
    assert rewards and all(reward == row for reward, row in zip(rewards, judged(ppo), strict=True))
    assert any(reward != 0 for reward in rewards)


def judged(run: RunDir) -> list[float]:
    """What the reward model alone gave, which has the weight 1."""
    return [row["reward/model"] for row in read_json_lines(run.metrics) if "reward/model" in row]
