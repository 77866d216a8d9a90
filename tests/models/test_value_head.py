"""A policy with a value head: probabilities of tokens, values, and where gradients go."""

from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from jobs.models.adapters.build import declared_trainable
from jobs.models.value_head import VALUE_HEAD, add_value_head, let_score, remove_value_head
from tests.support.training_runs import ASSETS

IDS = torch.tensor([[1, 40, 41, 42, 43, 0], [1, 50, 51, 52, 53, 54]])
SCORED = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1]], dtype=torch.bool)


def llama() -> Any:
    return AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k", dtype=torch.float32).eval()


def scaled_gpt2() -> Any:
    """Of a type whose logits are not known to be a plain product."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 512}
    model = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    model.config.model_type = "unknown"
    return model


@pytest.mark.parametrize("make", [llama, scaled_gpt2])
def test_probabilities_are_those_of_plain_logits(make: Any) -> None:
    model = make()
    logits = model(input_ids=IDS).logits.double() / 0.7
    add_value_head(model, temperature=0.7)

    found = model(input_ids=IDS, scored=SCORED)

    logprobs = logits.log_softmax(-1)
    places = SCORED.nonzero().tolist()
    expected = [logprobs[row, place - 1, IDS[row, place]].item() for row, place in places]
    assert found["logprobs"].tolist() == pytest.approx(expected, abs=1e-5)
    entropies = [-(logprobs[row, at - 1].exp() * logprobs[row, at - 1]).sum().item() for row, at in places]
    assert found["entropies"].tolist() == pytest.approx(entropies, abs=1e-4)
    assert found["values"].tolist() == [0.0] * 5, "as long as nothing was learned"


def test_values_are_of_the_state_before_each_token() -> None:
    model = llama()
    add_value_head(model)
    torch.nn.init.normal_(model.value_head.weight)
    hidden = model(input_ids=IDS, output_hidden_states=True).hidden_states[-1]

    values = model(input_ids=IDS, scored=SCORED)["values"]

    expected = [(hidden[row, at - 1] @ model.value_head.weight[0]).item() for row, at in SCORED.nonzero().tolist()]
    assert values.tolist() == pytest.approx(expected, abs=1e-5)


def test_what_may_not_be_sampled_has_no_probability() -> None:
    model = llama()
    let_score(model)
    forbidden = torch.zeros_like(SCORED)
    forbidden[0, 2] = True
    banned = torch.tensor([2, 41])

    plain = model(input_ids=IDS, scored=SCORED)["logprobs"]
    limited = model(input_ids=IDS, scored=SCORED, forbidden=forbidden, forbidden_ids=torch.tensor([2, 60]))

    logits = model(input_ids=IDS).logits[0, 1]
    without = logits.index_fill(0, torch.tensor([2, 60]), -torch.inf).log_softmax(-1)[41].item()
    assert limited["logprobs"][0].item() == pytest.approx(without, abs=1e-5)
    assert torch.equal(limited["logprobs"][1:], plain[1:])
    assert torch.isfinite(limited["entropies"]).all()
    assert model(input_ids=IDS, scored=SCORED, forbidden=forbidden, forbidden_ids=banned)["logprobs"][0] == -torch.inf


def test_the_value_heads_gradient_reaches_no_frozen_weight() -> None:
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    add_value_head(model)
    torch.nn.init.normal_(model.get_base_model().value_head.weight)
    torch.nn.init.normal_(model.get_base_model().model.layers[0].self_attn.q_proj.lora_B["default"].weight)
    declared = declared_trainable(model)

    model(input_ids=IDS, scored=SCORED)["values"].square().sum().backward()

    with_gradient = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.abs().sum()}
    assert {name for name, one in model.named_parameters() if one.grad is not None} <= declared
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in with_gradient} >= {VALUE_HEAD, "default"}
    assert {one for one in declared if VALUE_HEAD in one} == {
        f"base_model.model.{VALUE_HEAD}.{p}" for p in ("weight", "bias")
    }


def test_the_head_is_gone_from_an_export() -> None:
    model = llama()
    plain = {*model.state_dict()}
    add_value_head(model)
    assert {*model.state_dict()} > plain

    remove_value_head(model)

    assert {*model.state_dict()} == plain
    assert model(input_ids=IDS).logits.shape == (2, 6, 512)
    assert "logprobs" in model(input_ids=IDS, scored=SCORED) and "values" not in model(input_ids=IDS, scored=SCORED)


def test_generation_is_as_before() -> None:
    model = llama()
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    before = model.generate(IDS[1:], **options)

    add_value_head(model)

    assert torch.equal(model.generate(IDS[1:], **options), before)
