"""What a recipe becomes in Trainer's terms; what needs a GPU to run is looked at here."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.models.parallel import fsdp_mixed_precision, lay_out, strategy_arguments
from jobs.rank.ranks import Ranks
from jobs.train.arguments import refuse_impossible
from launcher.errors import LauncherError
from launcher.recipe import CptRecipe
from launcher.recipe.sections.common import Parallel, Precision
from tests.support.forked_ranks import Forked
from tests.support.training_runs import cpt_recipe
from tests.support.waiting import PATIENCE

FP16 = Precision(dtype="fp16")
CUDA = torch.device("cuda")

# Trainer's arguments want a process group, and leave variables and singletons behind.
WRITE_ARGUMENTS = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist
from jobs.train.arguments import training_arguments
from jobs.models.parallel import lay_out
from jobs.rank.ranks import Ranks
from launcher.recipe import CptRecipe

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
recipe = CptRecipe.model_validate_json(sys.argv[1])
layout = lay_out(recipe.parallel, Ranks(0, 1, 0, 1, 0), torch.device("cpu"))
folder = Path(sys.argv[2])
(folder / "arguments.json").write_text(training_arguments(recipe, layout, 20, folder).to_json_string())
dist.destroy_process_group()
"""


def arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    argv = ["-c", WRITE_ARGUMENTS, json.dumps(cpt_recipe(**changes)), str(folder)]
    process = Forked(argv, os.environ, folder / "log")
    process.wait(PATIENCE)
    assert process.returncode == 0, (folder / "log").read_text()
    found: dict[str, Any] = json.loads((folder / "arguments.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "bf16", "fp16"), [("bf16", True, False), ("fp16", False, True), ("fp32", False, False)]
)
def test_trainer_is_told_the_format(tmp_path: Path, dtype: str, bf16: bool, fp16: bool) -> None:
    found = arguments(tmp_path, precision={"dtype": dtype}, optim={"clip_norm": None})

    assert (found["bf16"], found["fp16"], found["max_grad_norm"]) == (bf16, fp16, 0.0)


def test_fsdp_computes_in_fp16_and_sums_gradients_in_fp32() -> None:
    policy = fsdp_mixed_precision(FP16)

    assert (policy.param_dtype, policy.reduce_dtype) == (torch.float16, torch.float32)


def test_deepspeed_is_told_one_format() -> None:
    layout = lay_out(Parallel(strategy="zero2"), Ranks(0, 4, 0, 4, 0), CUDA)
    recipe = CptRecipe.model_validate_json(
        json.dumps(cpt_recipe(precision={"dtype": "fp16"}, batch={"micro_batch": 1}))
    )
    config = strategy_arguments(layout, recipe.model_copy(update={"parallel": layout.parallel}))["deepspeed"]

    assert (config["fp16"], config["bf16"]) == ({"enabled": True}, {"enabled": False})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"precision": {"dtype": "fp16"}}, "write `bf16` or `fp32`"),
        ({"precision": {"dtype": "bf16"}, "model": {"path": "stories260k", "attention": "flash"}}, "write `sdpa`"),
        ({"model": {"path": "stories260k", "attention": "flex"}}, "`flex` needs GPUs.*write `sdpa`"),
    ],
)
def test_what_needs_gpus_is_refused_on_cpus_alone(changes: dict[str, Any], told: str) -> None:
    recipe = CptRecipe.model_validate_json(json.dumps(cpt_recipe(**changes)))

    refuse_impossible(recipe, CUDA)
    with pytest.raises(LauncherError, match=told):
        refuse_impossible(recipe, torch.device("cpu"))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_missing_compiler_is_refused_where_layers_are_compiled(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.setenv(name, "no-such-compiler")
    monkeypatch.setattr("jobs.models.compiled_layers.find_spec", lambda _: object())
    recipe = CptRecipe.model_validate_json(json.dumps(cpt_recipe(model={"compile": True})))

    with pytest.raises(LauncherError, match=r"model\.compile: there is no `no-such-compiler` on this node"):
        refuse_impossible(recipe, torch.device(kind))
