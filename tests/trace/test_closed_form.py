"""The closed form of `launcher plan` against traces: strategies x adapters x recomputed activations x accumulation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.artifacts.trace import Trace, TraceRequest
from launcher.plan.memory import MemoryEstimate, estimate_memory, trained_parameters
from launcher.plan.model_shape import ModelShape, read_shape
from launcher.plan.traffic import estimate_traffic
from launcher.recipe.kinds.training import TrainingRecipe
from tests.support.traced_runs import recipe_of, request_of, traced

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 12,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 16000,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
ADAPTERS: dict[str, dict[str, Any] | None] = {
    "all weights": None,
    "lora": {"method": "lora", "r": 16, "targets": "all-linear"},
    "ia3": {"method": "ia3", "targets": ["k_proj", "v_proj", "down_proj"], "feedforward": ["down_proj"]},
}
WITHIN = 0.08
"""How close the sum of all parts must be. Of activations the closed form counts what each layer keeps, and leaves out
some copies of a hidden state."""


def combinations() -> Iterator[Any]:
    in_the_gate = {("full_shard", "all weights", True, 4), ("ddp", "lora", False, 1)}
    for strategy in ("ddp", "full_shard", "hybrid_shard"):
        for adapter in ADAPTERS:
            for recomputes in (False, True):
                for accumulated in (1, 4):
                    key = (strategy, adapter, recomputes, accumulated)
                    yield pytest.param(*key, marks=pytest.mark.slow if key in in_the_gate else pytest.mark.long)


@pytest.mark.parametrize(("strategy", "adapter", "recomputes", "accumulated"), list(combinations()))
def test_the_closed_form_is_close_to_the_trace(
    tmp_path: Path, strategy: str, adapter: str, recomputes: bool, accumulated: int
) -> None:
    request = request_of(
        tmp_path,
        (2, 4),
        LLAMA,
        parallel={"strategy": strategy},
        adapter=ADAPTERS[adapter],
        model={"activation_checkpointing": recomputes},
        batch={"global_batch": f"{8 * accumulated} sequences", "micro_batch": 2, "sequence_length": 1024},
    )
    recipe, shape = recipe_of(request.recipe), shape_of(request)

    found, estimate = traced(request), estimate_memory(recipe, shape)

    assert estimate is not None
    assert (found.parameters, found.trained) == (shape.parameters, trained_parameters(recipe, shape))
    assert found.memory["parameters"] == pytest.approx(estimate.parameters, rel=1e-3)
    assert found.memory["optimizer"] == pytest.approx(estimate.optimizer, rel=1e-3)
    assert found.total == pytest.approx(counted(estimate), rel=WITHIN)
    assert large(found) == pytest.approx(sent(recipe, shape), rel=0.01)


def shape_of(_: TraceRequest) -> ModelShape:
    found = read_shape(LLAMA)
    assert found is not None
    return found


def counted(estimate: MemoryEstimate) -> int:
    """What a trace counts as well: all but CUDA's own."""
    return estimate.total - estimate.overhead


def large(found: Trace) -> list[int]:
    """Bytes by kind of collective; losses, norms and buffers are left out."""
    return sorted(one.bytes for one in found.messages if one.bytes > 100_000)


def sent(recipe: TrainingRecipe, shape: ModelShape) -> list[int]:
    return sorted(one.bytes for one in estimate_traffic(recipe, shape) if one.bytes > 100_000)
