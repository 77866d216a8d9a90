"""The model that an evaluation or a generation uses: weights, adapters, number format."""

from collections.abc import Iterator
from typing import Literal

from typing_extensions import override

from launcher.recipe.base import AdapterInput, Input, Name, Section
from launcher.recipe.sections.common import Model, Quantization


class AppliedAdapter(Section):
    """An adapter that is applied to the model."""

    path: Name
    """Folder that an export of the launcher or peft's `save_pretrained` wrote: a name below the profile's
    `roots.models`, a Hugging Face id, or `./...` relative to the recipe."""
    trained_on: str | None = None
    """The base model as the adapter's files name it, if that is another name of the same model."""


class EvaluatedModel(Section):
    """The model, as it is used: nothing of it is trained."""

    path: Name
    """Name below the profile's `roots.models`, a Hugging Face id, or `./...` relative to the recipe."""
    tokenizer: Name | None = None
    """Tokenizer, if it is not the one beside the last adapter or the weights; named like `path`."""
    adapters: tuple[AppliedAdapter, ...] = ()
    """Adapters to apply, in this order. Without `quantization` they are merged into the weights in fp32, which are then
    converted to `dtype`. The last one can be of a method that cannot be merged."""
    dtype: Literal["bf16", "fp16", "fp32", "fp64"] = "bf16"
    """Number format of weights and computation. Results of bf16 and fp16 depend on the hardware; fp64 is for checks."""
    attention: Literal["sdpa", "flash", "eager"] = "sdpa"
    """Attention implementation; `flash` needs the flash-attn package on the nodes."""
    quantization: Quantization | None = None
    """Load the weights in few bits."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Leave it off unless you have read that code."""

    def inputs(self, is_causal: bool = True) -> Iterator[Input]:
        """Give the model, its tokenizer and its adapters.

        Args:
            is_causal: Whether it is used as a causal language model.
        """
        yield Input("model.path", "model", self.path, "causal" if is_causal else "any")
        if self.tokenizer:
            yield Input("model.tokenizer", "tokenizer", self.tokenizer)
        for place, one in enumerate(self.adapters):
            merged: Literal["all", "if possible"] | None = None if self.quantization else "all"
            if one is self.adapters[-1] and (merged or place == 0):
                merged = "if possible"
            key = f"model.adapters.{place}.path"
            yield AdapterInput(key, "adapter", one.path, base=self.path, trained_on=one.trained_on, merged=merged)

    @property
    def as_trained(self) -> Model:
        """The section of training that loads the same weights."""
        return Model(
            path=self.path,
            attention=self.attention,
            quantization=self.quantization,
            trust_remote_code=self.trust_remote_code,
        )

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.attention == "flash" and self.dtype in ("fp32", "fp64"):
            yield f"attention: `flash` needs 16 bits, not `{self.dtype}`; write `sdpa`, or `bf16` for `dtype`"
        if self.quantization and self.dtype == "fp64":
            yield "dtype: quantised weights cannot be computed in `fp64`; write `fp32`"
