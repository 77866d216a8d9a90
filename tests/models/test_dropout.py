"""Dropout that is switched off: nothing of it is left in training, and what is left is found."""

import json
from typing import Any

import pytest
import torch
from peft.tuners.oft.layer import MultiplicativeDropoutLayer
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedConfig

from jobs.models.adapters.build import adapted
from jobs.models.dropout import is_without_dropout, require_no_dropout, restore_configuration, without_dropout
from launcher.errors import RunError
from launcher.recipe.sections.adapter import Adapter
from tests.support.training_runs import ASSETS

CPU = torch.device("cpu")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
GROUPED = SIZES | {"num_key_value_heads": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
OWN_SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8},
    "bloom": {"n_layer": 2, "n_head": 2},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, **SIZES},
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 2, "ffn_dim": 64},
    "gemma2": GROUPED | {"head_dim": 16},
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
    **dict.fromkeys(("stablelm", "qwen2", "mixtral", "starcoder2", "granite"), GROUPED),
}
KINDS = (
    *("biogpt", "opt", "gpt2", "gpt_neox", "bloom", "falcon", "gptj", "gpt_bigcode", "phi", "stablelm", "starcoder2"),
    *("qwen2", "xglm", "gemma2", "granite", "gpt_neo", "persimmon", "mixtral"),
)


def dropped(kind: str, share: float) -> PreTrainedConfig:
    """A configuration whose every dropout is a share; and routers have a jitter."""
    config = AutoConfig.for_model(kind, **{"vocab_size": 64, **OWN_SIZES.get(kind, SIZES), **TOKENS})
    for name, value in vars(config).items():
        if ("drop" in name or "jitter" in name) and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, name, share)
    return config


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.tensor([[1, 5, 6, 7, 8, 9]])).logits
    return found


def is_random(model: Any) -> bool:
    model.train()
    first = logits(model)
    return not all(torch.equal(logits(model), first) for _ in range(4))


@pytest.mark.parametrize("attention", [None, "eager"], ids=["default", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_computes_the_same_again(kind: str, attention: str | None) -> None:
    torch.manual_seed(0)
    config = dropped(kind, 0.5)
    published = config.to_dict()
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    assert is_random(model)
    evaluated = logits(model.eval())

    assert without_dropout(model) is model

    assert not is_random(model)
    assert torch.equal(logits(model), evaluated)
    require_no_dropout(model, 64, CPU)
    restore_configuration(model)
    assert model.config.to_dict() == published | {"architectures": model.config.architectures}


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "lora", "dropout": 0.5},
        {"method": "p_tuning", "encoder": "lstm", "layers": 3, "dropout": 0.5},
    ],
    ids=lambda one: one["method"],
)
def test_an_adapter_computes_the_same_again(fields: dict[str, Any]) -> None:
    section: Adapter = TypeAdapter(Adapter).validate_json(json.dumps(fields))
    base = AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k", dtype=torch.float32)
    model = adapted(base, section, 1, "CAUSAL_LM", steps=20)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    assert is_random(model)

    assert not is_random(without_dropout(model))


@pytest.mark.parametrize(
    "layer", [MultiplicativeDropoutLayer(0.5), nn.Dropout1d(0.5)], ids=lambda one: type(one).__name__
)
def test_layers_that_drop_blocks_are_switched_off(layer: nn.Module) -> None:
    model, blocks = nn.Sequential(layer).train(), torch.randn(8, 4, 4)
    torch.manual_seed(0)
    assert not torch.equal(model(blocks), blocks)

    assert torch.equal(without_dropout(model)(blocks), blocks)


class Noisy(nn.Module):
    """What no name tells: a layer that drops a fixed share."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *given: Any, **named: Any) -> Tensor:
        output: Tensor = self.layer(*given, **named)
        return functional.dropout(output, 0.1, self.training)


@pytest.mark.parametrize("auto", [AutoModelForCausalLM, AutoModelForSequenceClassification])
def test_what_cannot_be_switched_off_is_refused(auto: Any) -> None:
    model = auto.from_pretrained(ASSETS / "stories260k", dtype=torch.float32)
    assert not is_without_dropout(model)
    require_no_dropout(without_dropout(model).eval(), 512, CPU)
    assert not model.training
    model.model.layers[2].mlp.up_proj = Noisy(model.model.layers[2].mlp.up_proj)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)

    with pytest.raises(RunError, match=r"model\.path: in training this model computes with random numbers"):
        require_no_dropout(model, 512, CPU)

    assert is_without_dropout(model) and not model.training
    assert torch.equal(torch.rand(4), expected), "training draws what it would have drawn"
