"""kind: merge - adapters become part of the weights of their base model."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from launcher.recipe.rules import ConflictError, FolderName, Section, refuse_site_path
from launcher.recipe.sections import RecipeBase


class MergedAdapter(Section):
    """One adapter, and what of it is merged."""

    path: str
    """Folder that peft's `save_pretrained` or an export of the launcher wrote: a name below the profile's
    `roots.models`, a Hugging Face id, or `./...` relative to the recipe."""
    only: Literal["all", "attention"] = "all"
    """`attention`: of the adapter only what is on projections of attention (queries, keys, values, output); what it
    did to the rest is left away (TAIA, https://arxiv.org/abs/2405.20192)."""
    trained_on: str | None = None
    """What the adapter calls its base where that is not `base_model` and is the same model all the same: a copy, a
    quantised form, or the outcome of the adapters before this one."""

    _path = field_validator("path")(refuse_site_path)


class MergeRecipe(RecipeBase):
    """Merging of adapters."""

    kind: Literal["merge"]
    """Merging of adapters."""
    base_model: str
    """The model that the adapters were trained on, not quantised: name below the profile's `roots.models`, a Hugging
    Face id, or `./...` relative to the recipe. A model that is there quantised only is brought to full precision
    first."""
    adapters: Annotated[tuple[MergedAdapter, ...], Field(min_length=1)]
    """They are merged in this order."""
    dtype: Literal["published", "bf16", "fp16", "fp32"] = "published"
    """Number format of the result; `published`: the base's. The merging itself is done in fp32."""
    output: FolderName | None = None
    """Name of the model to make, below the profile's `roots.models`; `outputs/model` of the run if left out."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-3
    """Largest difference that a logit of the merged model may have from that of the adapted one, in fp32."""

    _base_model = field_validator("base_model")(refuse_site_path)

    @property
    def makes(self) -> str | None:
        """Name that other recipes can use once this one has been carried out."""
        return self.output

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> "MergeRecipe":
        if conflicts := [*self._resource_conflicts(), *self._output_conflicts()]:
            raise ConflictError(conflicts)
        return self

    def _resource_conflicts(self) -> Iterator[str]:
        for key in ("nodes", "gpus_per_node"):
            if getattr(self.resources, key) > 1:
                yield f"resources.{key}: `merge` is one task, with one GPU or none; write 1"

    def _output_conflicts(self) -> Iterator[str]:
        if self.output in {self.base_model, *(adapter.path for adapter in self.adapters)}:
            yield f"output: `{self.output}` is what the model is made of, and stays as it is; write another name"
