"""The inputs of a merge: base and adapters, found, checksummed and checked against each other."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import peft
import torch
from transformers import AutoConfig

from jobs.models.build import DTYPES
from jobs.models.folder import TOKENIZER_CONFIG, checksums, load_tokenizer, loading, local_folder, require_data_use
from jobs.rank.context import Context
from jobs.rank.watchdog import WATCHDOG
from launcher.artifacts.adapter_folder import AdapterFolder, read_adapter
from launcher.errors import LauncherError
from launcher.recipe.kinds.merge import MergeRecipe


@dataclass(frozen=True)
class MergePlan:
    """What is merged, into what, and where the result will lie."""

    recipe: MergeRecipe
    base: Path
    adapters: tuple[AdapterFolder, ...]
    folder: Path
    dtype: torch.dtype
    files: tuple[dict[str, str], ...]
    """SHA-256 of the files of the base and of each adapter."""

    @property
    def inputs(self) -> str:
        """Equal for equal weights, order and settings, and equal rules for the data."""
        recipe = self.recipe
        how = [[adapter.only for adapter in recipe.adapters], str(self.dtype), peft.__version__, recipe.data_use]
        return hashlib.sha256(json.dumps([self.files, how]).encode()).hexdigest()


def make_plan(context: Context) -> MergePlan:
    """Find base and adapters, and refuse what cannot be merged.

    Raises:
        LauncherError: something is missing, does not fit, or was made of credentialed data and the recipe says `open`.
    """
    recipe = cast(MergeRecipe, context.recipe)
    base = local_folder(context.model_path(recipe.base_model), "base_model")
    adapters = tuple(_open_adapter(context, recipe, index) for index in range(len(recipe.adapters)))
    require_data_use(recipe.data_use, (base, *(adapter.folder for adapter in adapters)))
    _require_base_adapters(adapters)
    return MergePlan(
        recipe=recipe,
        base=base,
        adapters=adapters,
        folder=context.made_path("model", recipe.output) if recipe.output else context.run.outputs / "model",
        dtype=DTYPES.get(recipe.dtype) or _config(base).dtype or torch.float32,
        files=tuple(checksums(folder, WATCHDOG.heartbeat) for folder in (base, *(one.folder for one in adapters))),
    )


def _config(base: Path) -> Any:
    with loading(base, "base_model"):
        return AutoConfig.from_pretrained(base)


def _open_adapter(context: Context, recipe: MergeRecipe, index: int) -> AdapterFolder:
    wanted, key = recipe.adapters[index], f"adapters.{index}.path"
    try:
        adapter = read_adapter(local_folder(context.model_path(wanted.path), key))
        adapter.require_mergeable(wanted.only)
        adapter.require_base(recipe.base_model, context.model_path(recipe.base_model), wanted.trained_on)
    except LauncherError as error:
        raise LauncherError(f"{key}: {error}") from error
    return adapter


def _require_base_adapters(adapters: tuple[AdapterFolder, ...]) -> None:
    for place, adapter in enumerate(adapters):
        try:
            adapter.require_base_adapters(adapters[:place])
        except LauncherError as error:
            raise LauncherError(f"adapters.{place}.path: {error}") from error


def choose_tokenizer(plan: MergePlan) -> Path:
    """Return the folder of the tokenizer: the last adapter's that has one, else the base's.

    An adapter of which only attention is merged leaves out its new tokens, and so its tokenizer if that has new ones.
    """
    rows = _config(plan.base).get_text_config().vocab_size
    for wanted, adapter in reversed([*zip(plan.recipe.adapters, plan.adapters, strict=True)]):
        if not (adapter.folder / TOKENIZER_CONFIG).is_file():
            continue
        if wanted.only == "all" or len(load_tokenizer(adapter.folder)) <= rows:
            return adapter.folder
    return plan.base
