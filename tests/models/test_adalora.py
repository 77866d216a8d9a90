"""AdaLoRA: its penalty is peft's, and counts once in a step, whatever the step is cut into."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from jobs.models.adapters.auxiliary_loss import auxiliary_losses
from jobs.models.adapters.build import adapted, peft_config
from launcher.recipe.sections.adapter import Adapter
from launcher.run.ledger import read_json_lines
from launcher.run.paths import FINISHED, RunDir
from tests.support.labelled_runs import make_classify_run
from tests.support.training_runs import ASSETS, losses, make_run, train

STORIES = ASSETS / "stories260k"
ADALORA = {"method": "adalora", "init_r": 6, "target_r": 2, "orth_reg_weight": 0.7}
SHORT: dict[str, Any] = {
    "schedule": {"length": "3 steps", "warmup": "0 steps"},
    "checkpoint": {"interval": "100 steps"},
}


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def test_the_penalty_is_the_one_that_peft_computes() -> None:
    section: Adapter = TypeAdapter(Adapter).validate_python(ADALORA)
    ours = adapted(AutoModelForCausalLM.from_pretrained(STORIES), section, 1, "CAUSAL_LM", steps=20).train()
    theirs = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(STORIES), peft_config(section, "CAUSAL_LM", "stories260k", steps=20)
    ).train()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    theirs.load_state_dict(ours.state_dict())
    ids = torch.arange(48).reshape(2, 24) + 3
    auxiliary = auxiliary_losses(ours)
    assert auxiliary is not None

    loss, whole = (model(input_ids=ids, labels=ids).loss for model in (ours, theirs))
    found = gradients(ours, auxiliary.mark(loss, factor=1.0))
    expected = gradients(theirs, whole)

    assert auxiliary.take() == pytest.approx((whole - loss).item(), rel=1e-5)
    assert (whole - loss).item() > 0.5
    assert {name for name in expected if "lora_" in name} == found.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def auxiliary_of(run: RunDir) -> list[float]:
    return [row["auxiliary_loss"] for row in read_json_lines(run.metrics)]


def trained(run: RunDir) -> dict[str, Tensor]:
    """Outer factors after the last step, which no rank has been cut out of."""
    saved = load_file(run.checkpoint(3) / "adapter.safetensors")
    return {name: one for name, one in saved.items() if name.endswith(("lora_A.default", "lora_B.default"))}


@pytest.mark.slow
def test_the_penalty_counts_once_whatever_a_step_is_cut_into(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, adapter=ADALORA, batch={"micro_batch": size}, **SHORT) for size in (8, 1, 2)]

    for run, ranks in zip(runs, (1, 1, 2), strict=True):
        assert train(run, ranks).exit_codes == [FINISHED] * ranks

    whole, *cut = runs
    for run in cut:
        assert losses(run) == pytest.approx(losses(whole), rel=1e-5)
        assert auxiliary_of(run) == pytest.approx(auxiliary_of(whole), rel=1e-5)
    assert json.loads((whole.outputs / "model" / "adapter_config.json").read_text())["orth_reg_weight"] == 0.7


@pytest.mark.slow
def test_the_penalty_has_its_effect_under_a_head(tmp_path: Path) -> None:
    light, heavy = (make_classify_run(tmp_path, adapter=ADALORA | {"orth_reg_weight": w}, **SHORT) for w in (0.5, 50))

    for run in (light, heavy):
        assert train(run).exit_codes == [FINISHED]

    assert auxiliary_of(heavy)[0] == pytest.approx(100 * auxiliary_of(light)[0])
    assert auxiliary_of(heavy)[-1] < 0.999 * auxiliary_of(heavy)[0]
    assert not any(torch.equal(one, trained(heavy)[name]) for name, one in trained(light).items())
