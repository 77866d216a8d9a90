"""NEFTune's noise: its amplitude is the published one, for each example by its own length."""

from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from jobs.data.chat.samples import padding_collator
from jobs.data.sampling.dataset import flattening_collator
from jobs.train.neftune import EmbeddingNoise, example_lengths
from tests.support.training_runs import ASSETS

WIDTH = 64
ALPHA = 5.0


def example(length: int) -> dict[str, Tensor]:
    ids = torch.arange(length) + 3
    return {"input_ids": ids, "labels": torch.where(ids > 6, ids, -100), "position_ids": torch.arange(length)}


def packed(*lengths: int) -> dict[str, Tensor]:
    return {name: batch[0] for name, batch in flattening_collator([example(length) for length in lengths]).items()}


def model_with(adapter: peft.PeftConfig | None) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k")
    return model if adapter is None else peft.get_peft_model(model, adapter)


def noise_of(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """What the decoder's layers get more than the table's rows."""
    table, seen = model.get_input_embeddings(), []
    handle = table.register_forward_hook(lambda *call: seen.append(call[2].detach()))
    model(**batch)
    handle.remove()
    return seen[0] - table.weight.detach()[batch["input_ids"]]


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
@pytest.mark.parametrize(
    "adapter",
    [
        None,
        peft.LoraConfig(task_type="CAUSAL_LM"),
        peft.LoraConfig(task_type="CAUSAL_LM", trainable_token_indices=[3, 4]),
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    ],
    ids=["all weights", "lora", "new tokens", "prompt"],
)
def test_the_noise_of_an_example_is_that_of_its_length(adapter: peft.PeftConfig | None) -> None:
    model = model_with(adapter)
    EmbeddingNoise(ALPHA).disturb(model)
    batch = padding_collator(0)([packed(10, 30), packed(25)])

    noise = noise_of(model.train(), batch)

    for row, tokens, length in ((0, slice(0, 10), 10), (0, slice(10, 40), 30), (1, slice(0, 25), 25)):
        bound = ALPHA / (length * WIDTH) ** 0.5
        assert noise[row, tokens].abs().max() <= 1.001 * bound
        assert noise[row, tokens].abs().max() > 0.98 * bound
        assert noise[row, tokens].std() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_no_noise_is_left_when_the_model_is_evaluated() -> None:
    model = model_with(None)
    EmbeddingNoise(ALPHA).disturb(model)

    assert not noise_of(model.eval(), padding_collator(0)([packed(10, 30)])).any()


def test_lengths_are_those_of_examples_without_padding() -> None:
    batch = padding_collator(0)([packed(5, 8), packed(6)])

    lengths = example_lengths(batch["position_ids"], batch["labels"])

    assert lengths[0].tolist() == [5] * 5 + [8] * 8
    assert lengths[1].tolist() == [6] * 13
    flat = flattening_collator([packed(5, 8), packed(6)])
    assert example_lengths(flat["position_ids"], flat["labels"])[0].tolist() == [5] * 5 + [8] * 8 + [6] * 6
