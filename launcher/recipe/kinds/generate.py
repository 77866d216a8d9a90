"""kind: generate - a model writes a text for each prompt of many."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from typing_extensions import override

from launcher.recipe.base import Fraction, Input, Positive
from launcher.recipe.kinds.recipe_base import EngineName, RecipeBase
from launcher.recipe.sections.chat import ChatSetup
from launcher.recipe.sections.common import Tracking
from launcher.recipe.sections.evaluated_model import EvaluatedModel
from launcher.recipe.sections.generation import Decoding, PromptData

_VLLM_HOTTEST = 2.0
"""Highest temperature that vLLM 0.33 accepts."""


class GenerateRecipe(RecipeBase):
    """Generation of texts."""

    extras: ClassVar[tuple[str, ...]] = ("data", "train")
    reads_text: ClassVar[bool] = True
    progress: ClassVar[Literal["items"]] = "items"
    trains: ClassVar[Literal[False]] = False
    is_tracked: ClassVar[Literal[True]] = True
    array: ClassVar[str | None] = "array_size"

    incidental: ClassVar[frozenset[str]] = RecipeBase.incidental | {"array_size", "tracking"}
    """Not `tokens_per_batch`: in 16 bits, which items share a batch decides some greedy choices."""

    kind: Literal["generate"]
    """Generation of texts."""
    model: EvaluatedModel
    """The model."""
    data: PromptData
    """The prompts."""
    decoding: Decoding = Decoding()
    """How the tokens of a text are chosen."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What computes the texts. `vllm` is made for speed and needs a Python of its own, which the profile names as
    `engines.vllm`. Its texts can differ between runs of the same recipe: what is computed together decides how sums
    are rounded."""
    too_long: Literal["refuse", "cut"] = "refuse"
    """What happens to prompts that leave no room for `decoding.max_new_tokens` in the model's positions: they are bad
    records, or lose tokens at their start."""
    tokens_per_batch: Positive = 16384
    """Tokens of a batch: prompts, padding and texts. Write less if a GPU runs out of memory. It decides which prompts
    share a batch, which can change a text in 16 bits."""
    max_bad_fraction: Fraction = 0.0
    """Prompts that cannot be used are counted and left out up to this share of all records; above it the run fails."""
    keep_prompts: bool = False
    """Write each prompt beside its text, not only its checksum."""
    array_size: Positive = 1
    """Array elements that share the batches, each with these `resources`. One more job joins the texts."""
    tracking: Tracking = Tracking()
    """Weights & Biases."""

    @override
    def inputs(self) -> Iterator[Input]:
        yield from self.model.inputs()
        yield from self.data.inputs("data")

    @property
    @override
    def chat(self) -> ChatSetup | None:
        said = self.data.chat
        template, system_prompt = (said.template, said.system_prompt) if said else (None, None)
        return ChatSetup(
            model=self.model,
            makes_model=False,
            template=template,
            system_prompt=system_prompt,
            decoding=self.decoding,
        )

    @property
    @override
    def foreign_engine(self) -> EngineName | None:
        return None if self.engine == "transformers" else self.engine

    @override
    def required_extras(self) -> tuple[str, ...]:
        return (*self.extras, *(("quantization",) if self.model.quantization else ()))

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.keep_prompts and self.data_use == "credentialed":
            yield "keep_prompts: prompts of credentialed data must not be copied into the outputs; leave it out"
        if self.engine == "vllm":
            yield from self._not_for_vllm()

    def _not_for_vllm(self) -> Iterator[str]:
        """Name what vLLM cannot do, or does in its own way."""
        model, instead = self.model, "or write `engine: transformers`"
        if len(model.adapters) > 1:
            yield f"model.adapters: vLLM applies one adapter; merge them first (`kind: merge`), {instead}"
        if model.dtype == "fp64":
            yield f"model.dtype: vLLM does not compute in `fp64`; write `fp32`, {instead}"
        if model.attention != "sdpa":
            yield f"model.attention: vLLM has its own; leave `{model.attention}` out, {instead}"
        if model.quantization:
            yield f"model.quantization: weights are loaded in few bits by transformers only; leave it out, {instead}"
        if model.trust_remote_code:
            yield f"model.trust_remote_code: no code of a model is run in vLLM; leave it out, {instead}"
        if self.decoding.temperature > _VLLM_HOTTEST:
            yield f"decoding.temperature: vLLM takes at most {_VLLM_HOTTEST:g}; write less, {instead}"
