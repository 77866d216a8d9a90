"""Which keys of a training contradict `model.quantization`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from launcher.recipe.sections.adapter import FSDP, quantization_limit

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe


def quantization_conflicts(recipe: "TrainingRecipe") -> Iterator[str]:
    """Refuse quantised weights where they cannot be trained beside, or sharded."""
    quantization, strategy = recipe.model.quantization, recipe.parallel.strategy
    if quantization is None:
        return
    if recipe.adapter is None:
        yield "model.quantization: quantised weights cannot be trained; add an `adapter`, or leave it out"
    elif reason := quantization_limit(recipe.adapter):
        yield f"adapter.init: {reason}; write `default`, or leave `model.quantization` out"
    if quantization.bits == 8 and strategy in FSDP:
        yield (
            f"model.quantization.bits: bitsandbytes loses the scales of 8-bit weights if `{strategy}` shards them; "
            "write `bits: 4`, or another `parallel.strategy`"
        )
    if quantization.bits == 8 and strategy == "zero3":
        yield (
            "model.quantization.bits: bitsandbytes stores 8-bit weights so that `zero3` cannot shard them; write "
            "`bits: 4`, or `strategy: zero2`"
        )
    if recipe.model.init == "random":
        yield "model.quantization: only pretrained weights are quantised; leave it out, or write `init: pretrained`"
