"""What DeepSpeed sends of gradients, for real, against the plan; and that the size of its buckets changes no loss."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from launcher.plan.model_shape import read_shape
from launcher.plan.traffic import estimate_traffic
from launcher.recipe import read_recipe
from launcher.run.paths import FINISHED, RunDir
from tests.support.training_runs import ASSETS, losses, make_run, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]

NOTED = """
import json
import os
import sys
import torch
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_post_hook
import jobs.__main__ as task
from launcher.recipe import deepspeed

deepspeed.REDUCE_BUCKET = {bucket}

def note(name, size):
    if os.environ["RANK"] == "0":
        with open(sys.argv[1] + "/sent", "a") as file:
            file.write(json.dumps([name, size]) + "\\n")

def noted(name, function):
    def call(*given, **named):
        note(name, max(one.nbytes for one in (*given, *named.values()) if torch.is_tensor(one)))
        return function(*given, **named)
    return call

register_optimizer_step_post_hook(lambda *given: note("step", 0))
for name in ("all_reduce", "reduce_scatter_tensor"):
    setattr(dist, name, noted(name, getattr(dist, name)))
sys.exit(task.main())
"""
"""Notes what rank 0 reduces, in buckets of a size, and when it has taken a step."""
SMALL = 50_000
"""Much less than the 260,000 parameters of the model."""


def trained(folder: Path, stage: str, bucket: int, steps: int) -> RunDir:
    run = make_run(
        folder,
        parallel={"strategy": stage},
        precision={"dtype": "bf16"},
        batch={"micro_batch": 1},
        schedule={"length": f"{steps} steps", "warmup": "0 steps"},
        resources={"gpus_per_node": 2},
    )
    attempt = start(run, ranks=2, program=("-c", NOTED.format(bucket=bucket)))
    assert attempt.wait() == [FINISHED] * 2, attempt.log()
    return run


@pytest.mark.parametrize(
    ("stage", "function", "name", "rings"),
    [("zero2", "all_reduce", "all-reduce of gradients", 2), ("zero3", "reduce_scatter_tensor", "reduce-scatter", 1)],
)
def test_deepspeed_sends_as_many_bytes_of_gradients_as_planned(
    tmp_path: Path, stage: str, function: str, name: str, rings: int
) -> None:
    run = trained(tmp_path, stage, SMALL, steps=1)

    rows = [json.loads(line) for line in (run.root / "sent").read_text().splitlines()]
    in_step = rows[: rows.index(["step", 0])]  # what follows is for the export
    sizes = [size for what, size in in_step if what == function and size > 4000]
    recipe = read_recipe(run.recipe.read_text())
    shape = read_shape(json.loads((ASSETS / "stories260k" / "config.json").read_bytes()))
    assert recipe.trains and shape is not None
    (planned,) = (one.bytes for one in estimate_traffic(recipe, shape) if one.name.startswith(name))

    assert len(sizes) > 4 * 2  # several buckets in each of 4 micro batches
    assert planned == pytest.approx(rings * sum(sizes) / 2, rel=0.01)  # half of it on a ring of two ranks


@pytest.mark.long
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_the_size_of_buckets_changes_no_loss(tmp_path: Path, stage: str) -> None:
    small, large = (trained(tmp_path, stage, bucket, steps=4) for bucket in (SMALL, 500_000_000))

    assert losses(small) == losses(large)
    counts = [len((run.root / "sent").read_text().splitlines()) for run in (small, large)]
    assert counts[0] > counts[1]
