"""DPO and GRPO on a real Slurm, preempted again and again in two epochs: nothing tells them from a whole run.

At which steps they stop depends on how soon Slurm sends its signals. tests/train/test_rl_resume.py and
tests/kinds/test_dpo.py resume from chosen steps.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launcher.devcluster import DevCluster
from launcher.run.ledger import read_attempts, read_json_lines
from launcher.run.paths import RunDir
from tests.slurm.site import RECIPES, Site, steps_by_attempt
from tests.support.waiting import wait_for

pytestmark = pytest.mark.long

TWO_RANKS = ("resources.nodes=1", "resources.gpus_per_node=2", "adapter=null", "schedule.length=2 epochs")
MOVING = "{steps: 2, share: 0.5}"
CASES = {
    "dpo": (f"reference={{sync: {MOVING}}}", "batch.global_batch=8 sequences"),
    "grpo": (
        f"algorithm={{name: grpo, generations: 4, iterations: 2, kl_weight: 0.1, sync: {MOVING}}}",
        "batch.global_batch=80 sequences",
        "output=null",
    ),
}
_OF_THE_MACHINE = ("time", "attempt", "tokens_per_second", "mfu", "memory_gib")


@pytest.mark.parametrize("kind", CASES)
def test_a_run_that_is_preempted_again_and_again_is_the_whole_one(small_cluster: DevCluster, kind: str) -> None:
    """A preemption is heard of in the step after, and obeyed at its end; so a run stops at every other step at most."""
    site = Site(small_cluster)
    words = [word for setting in (*TWO_RANKS, *CASES[kind]) for word in ("--set", setting)]

    def submit() -> RunDir:
        [run] = site.submit(RECIPES / f"medicalgpt_{kind}.yaml", "--rehearse", *words)
        return run

    whole = submit()
    site.wait_until_finished(whole)
    steps = max(rows(whole))
    assert 6 <= steps <= 10
    odd = submit()
    preempt_at_once(site, odd)
    stops = {*preempt_often(site, odd, steps)}
    even = submit()
    stops |= {*preempt_often(site, even, steps)}

    for run in (odd, even):
        assert rows(run) == rows(whole)
        ours, theirs = weights(run), weights(whole)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert len(stops) >= 4 and {stop % 2 for stop in stops} == {0, 1}, stops


def preempt_at_once(site: Site, run: RunDir) -> None:
    """Preempt a run in its first step."""
    wait_for(lambda: "parameters: " in log(run), f"the model of {run.root}")
    site.preempt(run, step=0)
    site.wait_for_attempt(run, 1)


def preempt_often(site: Site, run: RunDir, steps: int) -> list[int]:
    """Preempt a run after each first step of an attempt, as long as there is a next one; return where it stopped."""
    while (done := last_saved(run)) + 2 < steps:
        number = read_attempts(run.ledger)[-1].number
        site.preempt(run, step=done + 1)
        site.wait_for_attempt(run, number + 1)
    site.wait_until_finished(run)
    *stopped, _ = steps_by_attempt(run).values()
    return [one[-1] for one in stopped]


def last_saved(run: RunDir) -> int:
    found = steps_by_attempt(run)
    return max((step for one in found.values() for step in one), default=0)


def log(run: RunDir) -> str:
    path = run.rank_log(0, 0)
    return path.read_text(errors="replace") if path.exists() else ""


def rows(run: RunDir) -> dict[int, dict[str, object]]:
    """All that was logged of each step, but what depends on the machine; no step was done twice."""
    found = read_json_lines(run.metrics)
    assert len({row["step"] for row in found}) == len(found)
    return {row["step"]: {name: row[name] for name in row if name not in _OF_THE_MACHINE} for row in found}


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    [file] = Path(run.outputs / "model").glob("*.safetensors")
    return load_file(file)
