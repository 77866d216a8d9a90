"""Which ways to a faster step go together: compiled layers, attention, and what shares a model out."""

from collections.abc import Iterator

from launcher.recipe.sections.adapter import Adapter, Lora
from launcher.recipe.sections.common import Model

_ZERO = (
    "DeepSpeed gathers weights and reduces gradients by hooks inside of layers, at each of which compiled code would "
    "break off; write `parallel.strategy: full_shard`, or leave it out"
)
_QUANTISED = "bitsandbytes multiplies outside of torch, so compiled code would break off at each matrix; leave it out"
_FLASH = (
    "flash-attn looks inside of each layer for where documents begin, and for each number of documents the layer would "
    "be compiled again; write `attention: flex` or `sdpa`, or leave it out"
)

_BREAKS = {
    "adalora": "compiled code breaks off at each matrix that it changes",
    "prefix": "each layer has a cache of its own, and would be compiled by itself",
    "molora": "compiled code breaks off at each matrix that it changes",
    "orthogonal": "was not tried",
}
"""Why layers with some adapters are not compiled. Others were seen to need no break, and to have the same losses."""


def speed_conflicts(
    model: Model, adapter: Adapter | None, strategy: str, dtype: str, *, packs: str | None, has_full_rows: bool
) -> Iterator[str]:
    """Name what of a training does not go with compiled layers or its kind of attention.

    Args:
        model: The recipe's section.
        adapter: The recipe's section.
        strategy: Of the recipe's `parallel`.
        dtype: Of the recipe's `precision`.
        packs: What a sequence holds several of; None if it holds one.
        has_full_rows: Whether all sequences can be brought to one length without much padding.
    """
    if model.attention == "flash" and dtype == "fp32":
        yield "model.attention: `flash` needs 16 bits; write `sdpa`, or `bf16` for `precision.dtype`"
    if model.attention == "flex" and not packs:
        yield (
            "model.attention: `flex` is for sequences of several documents or examples, which it keeps apart; write "
            "`sdpa`, or a `data.packing` of several"
        )
    if model.activation_checkpointing == "selective" and strategy == "zero3":
        yield (
            "model.activation_checkpointing: with `zero3` DeepSpeed gathers and frees weights inside of the layers "
            "that are recomputed, which `selective` does not allow; write `full`, or `parallel.strategy: full_shard`"
        )
    if model.compile:
        yield from _compile_conflicts(model, strategy, has_full_rows)
        yield from _adapter_conflicts(adapter)


def _compile_conflicts(model: Model, strategy: str, has_full_rows: bool) -> Iterator[str]:
    if strategy.startswith("zero"):
        yield f"model.compile: {_ZERO}"
    if model.quantization:
        yield f"model.compile: {_QUANTISED}"
    if model.attention == "flash":
        yield f"model.compile: {_FLASH}"
    if not has_full_rows:
        yield (
            "model.compile: these sequences differ in length, and layers would be compiled again for each length; "
            "leave it out, or train with `kind: cpt`, or with `kind: sft` and `packing: bfd`"
        )


def _adapter_conflicts(adapter: Adapter | None) -> Iterator[str]:
    if isinstance(adapter, Lora) and adapter.dora:
        yield "model.compile: compiled code breaks off at each matrix that `dora` changes; leave one of the two out"
    elif adapter is not None and (reason := _BREAKS.get(adapter.method)):
        yield f"model.compile: `{adapter.method}`: {reason}; leave it out, or write `method: lora`"
