"""Where 16 bits compute, gradients are summed in fp32, over micro batches and over ranks: DeepSpeed, for real."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from launcher.run.paths import FINISHED
from tests.support.training_runs import make_run, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]

GRADIENTS = """
import sys
import torch
from safetensors.torch import save_file
from transformers import TrainerCallback
import jobs.__main__ as task
from jobs.train import run as training

class Gradients(TrainerCallback):
    def on_step_end(self, args, state, control, model, optimizer, **others):
        zero = getattr(optimizer, "optimizer", None)
        if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):  # done after the first group of parameters, for all
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()
        tensors = {name: self.moment(optimizer, one).contiguous() for name, one in model.named_parameters()}
        if torch.distributed.get_rank() == 0:
            save_file(tensors, f"{sys.argv[1]}/gradients")

    def moment(self, optimizer, parameter):
        if hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id"):
            from deepspeed.utils import safe_get_full_optimizer_state
            return safe_get_full_optimizer_state(parameter, "exp_avg").clone()
        return optimizer.state[parameter]["exp_avg"]

callbacks = training.adapter_callbacks
training.adapter_callbacks = lambda model: [*callbacks(model), Gradients()]
sys.exit(task.main())
"""
"""Saves AdamW's first moment after the first step, which without momentum is the gradient."""


def gradients(
    folder: Path, strategy: str, micro_batch: int, offload: str = "none", dtype: str = "bf16"
) -> dict[str, Tensor]:
    run = make_run(
        folder,
        parallel={"strategy": strategy, "offload": offload},
        precision={"dtype": dtype},
        batch={"micro_batch": micro_batch},
        optim={"betas": [0, 0], "clip_norm": None},
        schedule={"length": "1 steps", "warmup": "0 steps"},
    )
    attempt = start(run, ranks=2, program=("-c", GRADIENTS))
    assert attempt.wait() == [FINISHED] * 2, attempt.log()
    return load_file(run.root / "gradients")


def error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Return how far gradients are from others, relative to their length."""
    assert found.keys() == exact.keys()
    both = [torch.cat([one[name].flatten() for name in sorted(exact)]) for one in (found, exact)]
    return ((both[0] - both[1]).norm() / both[1].norm()).item()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precision")


@pytest.fixture(scope="module")
def exact(folder: Path) -> dict[str, Tensor]:
    """Two ranks, nothing sharded, no 16 bits."""
    return gradients(folder, "ddp", 4, dtype="fp32")


@pytest.mark.parametrize(
    ("strategy", "offload", "micro_batch"),
    [
        ("zero2", "none", 4),
        ("zero2", "none", 1),
        ("zero2", "optimizer", 1),
        ("zero3", "none", 4),
        ("zero3", "none", 1),
        ("zero3", "all", 1),
    ],
)
def test_sums_over_ranks_and_micro_batches_have_more_than_16_bits(
    folder: Path, exact: dict[str, Tensor], strategy: str, offload: str, micro_batch: int
) -> None:
    found = gradients(folder, strategy, micro_batch, offload)

    rounded = [(one.bfloat16().float() == one).float().mean().item() for one in found.values()]
    assert sum(rounded) / len(rounded) < 0.5
    assert error(found, exact) < 0.02, error(found, exact)
