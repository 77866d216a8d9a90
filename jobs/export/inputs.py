"""The inputs of an export: model and adapters, found, checksummed and checked against each other."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from transformers import AutoConfig

from jobs.models.build import DTYPES
from jobs.models.folder import TOKENIZER_CONFIG, checksums, loading, local_folder, require_data_use
from jobs.rank.context import Context
from jobs.rank.watchdog import WATCHDOG
from launcher.artifacts.adapter_folder import AdapterFolder, read_adapter
from launcher.errors import LauncherError
from launcher.recipe.kinds.export import ExportRecipe

Task: TypeAlias = Literal["language model", "classifier"]
"""What a model computes: logits of the next token at each place, or logits of a sequence (a reward is one of them)."""
_LIBRARIES = ("torch", "transformers", "peft")
_LIBRARIES_OF_GRAPHS = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportPlan:
    """What is exported, and where the result will lie."""

    recipe: ExportRecipe
    base: Path
    adapters: tuple[AdapterFolder, ...]
    task: Task
    folder: Path
    dtype: torch.dtype
    """Of the weights that are not quantised."""
    files: tuple[dict[str, str], ...]
    """SHA-256 of the files of the model and of each adapter."""

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer: the last adapter's that has one, else the model's."""
        folders = [one.folder for one in reversed(self.adapters)]
        return next((one for one in folders if (one / TOKENIZER_CONFIG).is_file()), self.base)

    @property
    def versions(self) -> dict[str, str]:
        """Of the libraries that make the files."""
        names = [*_LIBRARIES, *(_LIBRARIES_OF_GRAPHS if self.recipe.has_graphs else ())]
        return {name: version(name) for name in [*names, *(["bitsandbytes"] if self.recipe.bits else [])]}

    @property
    def inputs(self) -> str:
        """Equal for equal weights, order, format, libraries, and rules for the data."""
        how = [self.recipe.format, str(self.dtype), self.versions, self.recipe.data_use]
        return hashlib.sha256(json.dumps([self.files, how]).encode()).hexdigest()


def make_plan(context: Context) -> ExportPlan:
    """Find model and adapters, and refuse what cannot be exported.

    Raises:
        LauncherError: something is missing, does not fit, or was made of credentialed data and the recipe says `open`.
    """
    recipe = cast(ExportRecipe, context.recipe)
    base = local_folder(context.model_path(recipe.model.path), "model.path")
    adapters = tuple(_open_adapters(context, recipe))
    require_data_use(recipe.data_use, (base, *(one.folder for one in adapters)))
    with loading(base, "model.path"):
        config: Any = AutoConfig.from_pretrained(base)
    published = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    return ExportPlan(
        recipe=recipe,
        base=base,
        adapters=adapters,
        task=_task(config, adapters),
        folder=context.made_path("model", recipe.output) if recipe.output else context.run.outputs / "model",
        dtype=torch.float32 if recipe.has_graphs else DTYPES.get(recipe.dtype) or published,
        files=tuple(checksums(folder, WATCHDOG.heartbeat) for folder in (base, *(one.folder for one in adapters))),
    )


def _open_adapters(context: Context, recipe: ExportRecipe) -> list[AdapterFolder]:
    found: list[AdapterFolder] = []
    for place, wanted in enumerate(recipe.model.adapters):
        key = f"model.adapters.{place}.path"
        try:
            adapter = read_adapter(local_folder(context.model_path(wanted.path), key))
            adapter.require_mergeable("with head")
            adapter.require_base(recipe.model.path, context.model_path(recipe.model.path), wanted.trained_on)
            adapter.require_base_adapters(found)
        except LauncherError as error:
            raise LauncherError(f"{key}: {error}") from error
        found.append(adapter)
    return found


def _task(config: Any, adapters: Iterable[AdapterFolder]) -> Task:
    """Tell what a model is from what it says of itself, or from the head that its adapters bring.

    Raises:
        LauncherError: it is neither a language model nor a classifier.
    """
    architectures = tuple(config.architectures or ())
    if any(name.endswith("ForSequenceClassification") for name in architectures) or any(
        one.config.get("task_type") == "SEQ_CLS" for one in adapters
    ):
        return "classifier"
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        return "language model"
    raise LauncherError(
        f"model.path: its config.json says {', '.join(architectures) or 'no architecture'}; only causal language "
        "models and models with a head for sequences (`...ForSequenceClassification`) can be exported"
    )
