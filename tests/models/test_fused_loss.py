"""The fused loss against transformers' own, which keeps all logits: losses, gradients, adapters."""

from collections.abc import Iterator
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from jobs.models import fused_loss
from jobs.models.fused_loss import PLAIN_HEADS, NextTokenHead, fuse_loss
from jobs.train.heldout_loss import row_losses
from launcher.plan import activations
from launcher.plan.model_shape import _GATED_DECODERS, read_shape

VOCABULARY = 97
ORIGINAL = fused_loss.LOGITS_AT_A_TIME
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(autouse=True)
def _few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fused_loss, "LOGITS_AT_A_TIME", 5 * VOCABULARY + 3)
    return None


def pair(model_type: str, **changes: Any) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The same model twice, the second one's loss fused."""
    config = AutoConfig.for_model(model_type, **SIZES | changes)
    plain, fused = (AutoModelForCausalLM.from_config(config) for _ in range(2))
    fused.load_state_dict(plain.state_dict())
    fuse_loss(fused)
    return plain.train(), fused.train()


def batch(rows: int = 3, length: int = 11) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    is_answer = torch.rand((rows, length), generator=generator) < 0.6
    return {"input_ids": ids, "labels": torch.where(is_answer, ids, -100)}


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def require_equal_training(plain: torch.nn.Module, fused: torch.nn.Module, given: dict[str, Tensor]) -> None:
    outputs = []
    for model in (plain, fused):
        torch.manual_seed(7)  # of dropout
        outputs.append(model(**given, num_items_in_batch=torch.tensor(40)))
        (3 * outputs[-1].loss).backward()

    assert outputs[1].logits is None
    assert outputs[1].loss.item() == pytest.approx(outputs[0].loss.item(), rel=1e-6)
    expected, found = gradients(plain), gradients(fused)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("model_type", sorted(PLAIN_HEADS))
def test_losses_and_gradients_are_those_of_the_models_own_forward_pass(model_type: str) -> None:
    plain, fused = pair(model_type)

    assert isinstance(fused.get_output_embeddings(), NextTokenHead)
    require_equal_training(plain, fused, batch())


def test_tied_embeddings_stay_tied_and_get_both_gradients() -> None:
    plain, fused = pair("llama", tie_word_embeddings=True)

    assert fused.get_output_embeddings().weight is fused.get_input_embeddings().weight
    require_equal_training(plain, fused, batch())


def test_a_batch_without_labels_to_learn_has_no_loss_and_zero_gradients() -> None:
    _, fused = pair("llama")
    given = batch() | {"labels": torch.full((3, 11), -100)}

    loss = fused(**given, num_items_in_batch=torch.tensor(40)).loss
    loss.backward()

    assert loss.item() == 0
    assert all(not gradient.any() for gradient in gradients(fused).values())
    assert len(gradients(fused)) == len(dict(fused.named_parameters())), "so that no rank waits for another's"


def test_sixteen_bits_give_what_they_give_with_all_logits() -> None:
    plain, fused = pair("llama")
    losses = []
    for model in (plain, fused):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**batch()).loss
        loss.backward()
        losses.append(loss.item())

    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, expected in gradients(plain).items():  # 1.2 % apart at the most for the weights of a hundred seeds
        assert (gradients(fused)[name] - expected).norm() < 0.03 * expected.norm(), name


ENDS = ["embed_tokens", "lm_head"]
ADAPTERS: dict[str, peft.PeftConfig] = {
    "lora": peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", init_lora_weights=False),
    "head as well": peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], modules_to_save=ENDS),
    "new rows": peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], trainable_token_indices={key: [5, 90] for key in ENDS}
    ),
    "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapted_models_are_trained_as_without_it(name: str) -> None:
    models = []
    for model in pair("llama"):
        torch.manual_seed(1)
        models.append(peft.get_peft_model(model, ADAPTERS[name]).train())

    require_equal_training(models[0], models[1], batch())


def test_an_adapter_on_the_output_embedding_itself_leaves_the_models_own_loss() -> None:
    models = []
    for model in pair("llama"):
        torch.manual_seed(1)
        config = peft.LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
        models.append(peft.get_peft_model(model, config).train())

    losses = [model(**batch()).loss for model in models]

    assert losses[1].item() == losses[0].item()


def test_tied_embeddings_that_peft_copies_are_trained_as_without_it() -> None:
    models = []
    for model in pair("llama", tie_word_embeddings=True):
        torch.manual_seed(1)
        config = peft.LoraConfig(
            task_type="CAUSAL_LM",
            target_modules=["q_proj"],
            modules_to_save=["embed_tokens"],
            ensure_weight_tying=True,
        )
        models.append(peft.get_peft_model(model, config).train())

    losses = [model(**batch()).loss for model in models]

    assert losses[1].item() == losses[0].item()


def test_an_evaluation_gets_the_losses_of_each_row_and_no_logits() -> None:
    plain, fused = pair("llama")
    given = batch()
    with torch.no_grad():
        expected, found = plain.eval()(**given), fused.eval()(**given)

    rows = row_losses(expected.logits, given["labels"])
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-6)
    torch.testing.assert_close(row_losses(found.logits, given["labels"]), rows)


def test_without_labels_it_gives_logits() -> None:
    plain, fused = pair("llama")
    ids = batch()["input_ids"]

    assert torch.equal(fused(input_ids=ids).logits, plain(input_ids=ids).logits)
    generated = fused.eval().generate(ids, max_new_tokens=3, do_sample=False)
    assert torch.equal(generated, plain.eval().generate(ids, max_new_tokens=3, do_sample=False))


def test_estimates_of_memory_know_what_is_fused() -> None:
    assert activations.LOGITS_AT_A_TIME == 1 << 25 == ORIGINAL
    for model_type in _GATED_DECODERS:
        shape = read_shape(AutoConfig.for_model(model_type, **SIZES).to_dict())
        assert shape is not None
        assert shape.caps_logits == (model_type not in PLAIN_HEADS)


@pytest.mark.parametrize(
    ("model_type", "changes"), [("gemma2", {}), ("cohere", {}), ("granite", {"logits_scaling": 3.0})]
)
def test_models_that_do_more_with_their_logits_are_left_alone(model_type: str, changes: dict[str, Any]) -> None:
    plain, fused = pair(model_type, **changes)

    losses = [model(**batch()).loss.item() for model in (plain, fused)]

    assert losses[1] == losses[0]
    assert not isinstance(fused.get_output_embeddings(), NextTokenHead)
