"""Exported adapters: plain peft loads what is written of each method, and says what the trained model says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import TypeAdapter
from torch import Tensor
from transformers import AutoModelForCausalLM

from jobs.models.adapters.build import adapted
from jobs.models.adapters.save import write_adapter
from jobs.train.adapter_checkpoint import gather_adapter
from launcher.recipe.sections.adapter import Adapter
from tests.support.training_runs import ASSETS

STORIES = ASSETS / "stories260k"
IDS = torch.arange(48).reshape(2, 24) + 3


def trained(**fields: Any) -> PeftModel:
    """An adapted model whose adapter has moved from where it starts."""
    section: Adapter = TypeAdapter(Adapter).validate_python(fields)
    model: PeftModel = adapted(AutoModelForCausalLM.from_pretrained(STORIES), section, 1, "CAUSAL_LM", steps=4)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def logits_of(model: Any) -> Tensor:
    """What is said of the text; some methods put a prompt before it."""
    with torch.no_grad():
        logits: Tensor = model.eval()(input_ids=IDS).logits
    return logits[:, -IDS.shape[1] :]


def assert_plain_peft_says_the_same(model: PeftModel, folder: Path) -> None:
    unadapted, ours = logits_of(AutoModelForCausalLM.from_pretrained(STORIES)), logits_of(model)

    write_adapter(model, gather_adapter(model), "stories260k", folder)

    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(STORIES), folder)
    torch.testing.assert_close(logits_of(plain), ours, rtol=0, atol=1e-5)
    assert not torch.allclose(ours, unadapted, atol=0.1)


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "lora", "rslora": True},
        {"method": "lora", "dora": True},
        {"method": "lora", "init": "orthogonal"},
        {"method": "lora", "init": "pissa"},
        {"method": "lora", "init": "olora"},
        {"method": "lora", "bias": "all"},
        {"method": "adalora"},
        {"method": "prefix", "virtual_tokens": 4},
        {"method": "prefix", "virtual_tokens": 4, "projection": True},
        {"method": "prompt", "virtual_tokens": 4},
        {"method": "p_tuning", "virtual_tokens": 4},
        {"method": "p_tuning", "virtual_tokens": 4, "encoder": "lstm"},
        {"method": "ia3"},
        {"method": "oft", "block_size": 4},
        {"method": "adaption_prompt", "layers": 3},
    ],
    ids=str,
)
def test_plain_peft_says_what_the_trained_model_says(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert_plain_peft_says_the_same(trained(**fields), tmp_path)


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match")  # peft looks for them twice
def test_ranks_that_were_cut_are_left_out_and_missed_by_nobody(tmp_path: Path) -> None:
    model = trained(method="adalora", init_r=6, target_r=2)
    for step in range(1, 5):
        model(input_ids=IDS, labels=IDS).loss.backward()
        model.base_model.update_and_allocate(step)

    assert_plain_peft_says_the_same(model, tmp_path)

    pattern = json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]
    kept = [sum(ranks) for ranks in pattern.values()]
    assert sum(kept) == 2 * len(kept)
    assert len({*kept}) > 1
