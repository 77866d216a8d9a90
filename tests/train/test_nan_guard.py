"""A training whose loss is not a number any more ends."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from jobs.train.nan_guard import PATIENCE_OF_FP16, FiniteLoss
from launcher.errors import RunError
from launcher.run.ledger import read_json_lines
from launcher.run.paths import NEVER_RESTART, published_steps
from tests.support.training_runs import ASSETS, make_run, train

NAN, INFINITE = float("nan"), float("inf")


def log(callback: FiniteLoss, loss: float, norm: float | None = 1.0) -> None:
    arguments = TrainingArguments(output_dir="unused", use_cpu=True)
    callback.on_log(arguments, TrainerState(global_step=7), TrainerControl(), logs={"loss": loss, "grad_norm": norm})


@pytest.mark.parametrize(
    ("loss", "norm", "what"), [(NAN, 1.0, "loss"), (INFINITE, None, "loss"), (2.0, NAN, "norm of the gradients")]
)
def test_the_first_step_that_is_no_number_is_the_last(loss: float, norm: float | None, what: str) -> None:
    callback = FiniteLoss("bf16")
    log(callback, 2.0, None)

    with pytest.raises(RunError, match=f"the {what} of step 7 is not finite"):
        log(callback, loss, norm)


def test_fp16_may_look_for_its_loss_scale() -> None:
    callback = FiniteLoss("fp16")

    for norm in [INFINITE] * (PATIENCE_OF_FP16 - 1) + [1.0] + [NAN] * (PATIENCE_OF_FP16 - 1):
        log(callback, 2.0, norm)
    with pytest.raises(RunError, match="is not finite"):
        log(callback, NAN, INFINITE)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "full_shard", "zero3"])
def test_a_training_that_is_lost_is_neither_saved_nor_taken_up_again(tmp_path: Path, strategy: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(ASSETS / "stories260k", broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    changes = {"parallel": {"strategy": strategy}, "checkpoint": {"interval": "1 steps"}}
    run = make_run(tmp_path, model={"path": "./broken"}, **changes)

    attempt = train(run, ranks=2)

    assert attempt.failure == NEVER_RESTART
    assert "of step 1 is not finite" in attempt.log()
    assert [row["step"] for row in read_json_lines(run.metrics)] == [1]
    assert published_steps(run) == []
