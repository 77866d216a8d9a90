"""kind: export - a model in a format for serving, compared with the original before it is published."""

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeAlias

from pydantic import AfterValidator, Field
from typing_extensions import override

from launcher.recipe.base import AdapterInput, Artifact, FolderName, Fraction, Input, Name, Positive, Section
from launcher.recipe.kinds.recipe_base import RecipeBase
from launcher.recipe.sections.evaluated_model import AppliedAdapter

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def refuse_bad_hub_name(value: str) -> str:
    """Refuse what cannot name a repository; the value is not repeated, since it may be a token."""
    if not _HUB_NAME.fullmatch(value):
        raise ValueError("is not the name of a repository on the Hugging Face Hub; write `owner/name`, never a token")
    return value


Format: TypeAlias = Literal["safetensors", "onnx", "int8-onnx", "bnb8", "bnb4"]
HubName = Annotated[str, AfterValidator(refuse_bad_hub_name)]


class Bar(NamedTuple):
    """How close an export must be to the original."""

    difference: float
    """Largest difference of a logit; for 8 and 4 bits as a share of the largest logit, else in logits."""
    agreement: float
    """Least share of places where both find the same token or class most probable."""


BARS: dict[Format, Bar] = {
    "safetensors": Bar(1e-4, 0.999),
    "onnx": Bar(1e-4, 0.999),
    "int8-onnx": Bar(0.5, 0.75),
    "bnb8": Bar(0.25, 0.85),
    "bnb4": Bar(0.75, 0.6),
}
"""Those of 8 and 4 bits with room above what was measured on a model of 0.3M parameters (docs/export.md)."""


class SourceModel(Section):
    """What is exported."""

    path: Name
    """Name below the profile's `roots.models`, a Hugging Face id, or `./...` relative to the recipe: a causal language
    model, or a model with a head that classifies or gives a reward."""
    adapters: tuple[AppliedAdapter, ...] = ()
    """Adapters that become part of the weights, merged in fp32 in this order. One with a head (`kind: classify`,
    `kind: reward`) makes a classifier or a reward model of a language model."""


class ExportRecipe(RecipeBase):
    """Export of a model."""

    extras: ClassVar[tuple[str, ...]] = ("data", "train")
    reads_text: ClassVar[bool] = False
    progress: ClassVar[Literal["steps"]] = "steps"
    trains: ClassVar[Literal[False]] = False
    is_tracked: ClassVar[Literal[False]] = False

    kind: Literal["export"]
    """Export of a model."""
    model: SourceModel
    """What is exported."""
    format: Format
    """`safetensors`: one folder that transformers loads. `onnx`: graphs in fp32 for onnxruntime, of a language model
    `prefill` and `decode` with a cache. `int8-onnx`: the same with weights in 8 bits, quantised as onnxruntime does
    (`quantize_dynamic`). `bnb8`, `bnb4`: weights in 8 bits (LLM.int8()) or 4 (NF4) by bitsandbytes."""
    dtype: Literal["published", "bf16", "fp16", "fp32"] = "published"
    """Number format of the weights that are not quantised (`safetensors`, `bnb8`, `bnb4`); `published`: the model's."""
    output: FolderName | None = None
    """Name of the model to make, below the profile's `roots.models`; `outputs/model` of the run if left out."""
    tolerance: Annotated[float, Field(gt=0)] | None = None
    """Largest difference allowed between logits of the export and of the original in fp32. Left out: 0.0001 in fp32,
    with room for rounding in 16 bits; 0.25 of the largest logit for `bnb8`, 0.5 for `int8-onnx`, 0.75 for `bnb4`."""
    agreement: Fraction | None = None
    """Least share of places where export and original find the same token or class most probable. Left out: 0.999 in
    fp32, 0.95 in 16 bits, 0.85 for `bnb8`, 0.75 for `int8-onnx`, 0.6 for `bnb4`."""
    latency: tuple[Positive, ...] = (32, 128)
    """Lengths of prompts, in tokens, for which the seconds of export and original are compared on the node's CPUs
    (formats of onnxruntime only); `[]`: none."""
    push_to_hub: HubName | None = None
    """Repository on the Hugging Face Hub, `owner/name`, to which the export is uploaded; never a token: the Hub's
    client reads that from `HF_TOKEN`, which has to be listed under `secrets`. A repository that does not exist is
    created as a private one."""
    public: bool = False
    """Create the repository so that everybody can read it; `launcher submit` asks first. Also needed to upload to one
    that is public already."""

    @override
    def inputs(self) -> Iterator[Input]:
        path = self.model.path
        yield Input("model.path", "model", path)
        for place, one in enumerate(self.model.adapters):
            key = f"model.adapters.{place}.path"
            yield AdapterInput(key, "adapter", one.path, base=path, trained_on=one.trained_on, merged="with head")

    @property
    @override
    def makes(self) -> Artifact | None:
        return Artifact("model", self.output) if self.output else None

    @property
    @override
    def published_at(self) -> str | None:
        return self.push_to_hub if self.public else None

    @property
    def has_graphs(self) -> bool:
        """Whether onnxruntime runs what is made."""
        return self.format in ("onnx", "int8-onnx")

    @property
    def bits(self) -> int | None:
        """Bits of a weight that bitsandbytes quantises; None: it has no part in this."""
        return {"bnb8": 8, "bnb4": 4}.get(self.format)

    @override
    def required_extras(self) -> tuple[str, ...]:
        return (*self.extras, *(("export",) if self.has_graphs else ()), *(("quantization",) if self.bits else ()))

    @override
    def _conflicts(self) -> Iterator[str]:
        for key in ("nodes", "gpus_per_node"):
            if getattr(self.resources, key) > 1:
                yield f"resources.{key}: `export` is one process with at most one GPU; write 1"
        if self.has_graphs and self.resources.gpus_per_node:
            yield "resources.gpus_per_node: graphs are traced and tried on CPUs; write 0"
        if self.output in {self.model.path, *(adapter.path for adapter in self.model.adapters)}:
            yield f"output: `{self.output}` is an input of the export, which is never changed; write another name"
        if self.has_graphs and self.dtype not in ("published", "fp32"):
            yield f"dtype: graphs for onnxruntime are made in fp32, not `{self.dtype}`; leave it out"
        yield from self._upload_conflicts()

    def _upload_conflicts(self) -> Iterator[str]:
        if self.push_to_hub and self.data_use == "credentialed":
            yield "push_to_hub: what was made of credentialed data must not leave the site; leave it out"
        if self.push_to_hub and "HF_TOKEN" not in self.secrets:
            yield "push_to_hub: an upload needs the token of an account; write `HF_TOKEN` under `secrets`"
        if self.public and not self.push_to_hub:
            yield "public: nothing is uploaded; name a repository as `push_to_hub`, or leave it out"
