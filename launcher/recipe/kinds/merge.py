"""kind: merge - adapters become part of the weights of their base model."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import AdapterInput, Artifact, FolderName, Input, Name, Section
from launcher.recipe.kinds.recipe_base import RecipeBase
from launcher.recipe.sections.chat import ChatSetup
from launcher.recipe.sections.evaluated_model import EvaluatedModel


class MergedAdapter(Section):
    """One adapter, and what of it is merged."""

    path: Name
    """Folder that peft's `save_pretrained` or an export of the launcher wrote: a name below the profile's
    `roots.models`, a Hugging Face id, or `./...` relative to the recipe."""
    only: Literal["all", "attention"] = "all"
    """`attention`: only what the adapter adds to the projections of attention (queries, keys, values, output); the rest
    is left out (TAIA, https://arxiv.org/abs/2405.20192)."""
    trained_on: str | None = None
    """The base model that the adapter's own files name, if that is another name of the same model: a copy, a quantised
    form, or the result of merging the adapters before this one."""


class MergeRecipe(RecipeBase):
    """Merging of adapters."""

    extras: ClassVar[tuple[str, ...]] = ("data", "train")
    reads_text: ClassVar[bool] = False
    progress: ClassVar[Literal["steps"]] = "steps"
    trains: ClassVar[Literal[False]] = False
    is_tracked: ClassVar[Literal[False]] = False

    kind: Literal["merge"]
    """Merging of adapters."""
    base_model: Name
    """The model that the adapters were trained on: name below the profile's `roots.models`, a Hugging Face id, or
    `./...` relative to the recipe. A quantised model is converted to full precision first."""
    adapters: Annotated[tuple[MergedAdapter, ...], Field(min_length=1)]
    """The adapters, merged in this order."""
    dtype: Literal["published", "bf16", "fp16", "fp32"] = "published"
    """Number format of the result; `published`: that of the base. Merging is done in fp32."""
    output: FolderName | None = None
    """Name of the model to make, below the profile's `roots.models`; `outputs/model` of the run if left out."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-3
    """Largest difference allowed between logits of the merged model and of the model with adapters, in fp32."""

    @override
    def inputs(self) -> Iterator[Input]:
        yield Input("base_model", "model", self.base_model)
        for place, one in enumerate(self.adapters):
            key = f"adapters.{place}.path"
            yield AdapterInput(
                key, "adapter", one.path, base=self.base_model, trained_on=one.trained_on, merged=one.only
            )

    @property
    @override
    def makes(self) -> Artifact | None:
        return Artifact("model", self.output) if self.output else None

    @property
    @override
    def chat(self) -> ChatSetup | None:
        return ChatSetup(model=EvaluatedModel(path=self.base_model), makes_model=True)

    @override
    def _conflicts(self) -> Iterator[str]:
        for key in ("nodes", "gpus_per_node"):
            if getattr(self.resources, key) > 1:
                yield f"resources.{key}: `merge` is one process with at most one GPU; write 1"
        if self.output in {self.base_model, *(adapter.path for adapter in self.adapters)}:
            yield f"output: `{self.output}` is an input of the merge, which is never changed; write another name"
