"""Recomputed activations: the same gradients for every architecture, less memory, and no product computed twice."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from jobs.models.recompute import recompute
from launcher.errors import LauncherError
from launcher.plan.activations import kept_activations
from launcher.plan.model_shape import read_shape
from launcher.recipe import CptRecipe
from tests.support.training_runs import cpt_recipe

pytestmark = pytest.mark.slow

How = Literal["none", "full", "selective"]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 64,
}
CAUSAL = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "olmo2", "gpt_neox", "opt", "gpt2", "bloom")
ENCODERS = ("bert", "roberta", "modernbert")


def tiny(kind: str, **others: Any) -> PreTrainedModel:
    names = {"gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64}}
    sizes = names.get(kind, SIZES | {"n_layer": 2, "n_head": 4} if kind == "bloom" else SIZES)
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(kind, **{**sizes, **tokens, **others})
    torch.manual_seed(0)
    auto = AutoModelForMaskedLM if kind in ENCODERS else AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(config)
    model.config.use_cache = False
    return model.train()


def gradients(model: PreTrainedModel) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch, from the same random state."""
    ids = torch.randint(3, 64, (2, 24), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.item(), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("kind", [*CAUSAL, *ENCODERS])
def test_gradients_are_the_same_whatever_is_recomputed(kind: str) -> None:
    kept_loss, kept = gradients(tiny(kind))

    for how in ("full", "selective"):
        model = tiny(kind)
        recompute(model, how)
        loss, found = gradients(model)

        assert loss == kept_loss
        assert found.keys() == kept.keys()
        assert all(torch.equal(found[name], kept[name]) for name in kept)


@pytest.mark.parametrize("how", ["full", "selective"])
def test_dropout_draws_the_same_mask_again(how: How) -> None:
    def adapted(how: How) -> Any:
        model: Any = get_peft_model(tiny("llama"), LoraConfig(lora_dropout=0.5, init_lora_weights=False))  # type: ignore[arg-type]
        recompute(model, how)
        return model

    (kept_loss, kept), (loss, found) = gradients(adapted("none")), gradients(adapted(how))

    assert loss == kept_loss
    assert len(kept) > 4
    assert all(torch.equal(found[name], kept[name]) for name in kept)


class Counting(TorchDispatchMode):
    """Counts products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return func(*args, **(kwargs or {}))


def test_selective_computes_no_product_twice() -> None:
    counted = {}
    for how in get_args(How):
        model = tiny("llama")
        recompute(model, how)
        with Counting() as counting:
            gradients(model)
        counted[how] = counting.products

    assert counted["selective"] == counted["none"]
    assert counted["full"] >= counted["none"] + 2 * 6  # of each layer all but the last one, which is not needed


@contextmanager
def held_by_autograd() -> Iterator[dict[int, int]]:
    """Bytes of each storage that a forward pass saves."""
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield held


def kept_bytes(layers: int, dtype: torch.dtype, length: int, sizes: dict[str, int], attention: str) -> int:
    """Count what is in memory after a forward pass, parameters and what was there before left out."""
    how = {"num_hidden_layers": layers, "num_key_value_heads": 2, "max_position_embeddings": length}
    model = tiny("llama", **sizes, **how, attn_implementation=attention).to(dtype)
    recompute(model, "selective")
    ids = torch.arange(length)[None] % 64
    before = set(storages())
    with held_by_autograd() as held:
        output = model(input_ids=ids, labels=ids)
    found = {**held, **storages()}
    assert output.loss.requires_grad
    return sum(size for address, size in found.items() if address not in before)


def storages() -> dict[int, int]:
    """Bytes of all tensors that Python can reach, by address."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
    tensors = [one for one in tensors if one.device.type == "cpu"]
    return {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}


@pytest.mark.parametrize(("dtype", "word"), [(torch.bfloat16, "bf16"), (torch.float32, "fp32")])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_as_many_bytes_are_kept_as_the_plan_counts(dtype: torch.dtype, word: str, attention: str) -> None:
    sizes, length = {"hidden_size": 128, "intermediate_size": 344, "num_attention_heads": 8}, 256
    sections = cpt_recipe(
        precision={"dtype": word},
        model={"attention": attention, "activation_checkpointing": "selective"},
        parallel={"strategy": "full_shard"},
    )
    recipe = CptRecipe.model_validate_json(json.dumps(sections))
    shape = read_shape(tiny("llama", **sizes, num_key_value_heads=2).config.to_dict())
    assert shape is not None

    kept = [kept_bytes(layers, dtype, length, sizes, attention) for layers in (2, 4)]

    assert (kept[1] - kept[0]) / 2 / length == pytest.approx(kept_activations(recipe, shape), rel=0.02)


def test_a_model_that_cannot_do_it_is_refused() -> None:
    model = tiny("llama")
    type(model).supports_gradient_checkpointing = False
    try:
        with pytest.raises(LauncherError, match=r"model\.activation_checkpointing: .*; write `none`"):
            recompute(model, "full")
    finally:
        type(model).supports_gradient_checkpointing = True
