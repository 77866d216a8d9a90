"""What a merge starts from: base and adapters, found, checksummed and fit for each other."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
from transformers import AutoConfig

from jobs.models.model_folder import TOKENIZER_CONFIG, checksums, load_tokenizer, local_folder, require_data_use
from jobs.runtime.context import Context
from jobs.runtime.watchdog import WATCHDOG
from launcher.adapters import AdapterFolder, read_adapter
from launcher.errors import LauncherError
from launcher.paths import expand
from launcher.recipe.merge import MergeRecipe

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


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
        """Equal for equal weights, order and settings."""
        how = [[adapter.only for adapter in self.recipe.adapters], str(self.dtype), peft.__version__]
        return hashlib.sha256(json.dumps([self.files, how]).encode()).hexdigest()


def make_plan(context: Context) -> MergePlan:
    """Find base and adapters, and refuse what cannot be merged.

    Raises:
        LauncherError: something is missing, does not belong together, or is bound by an agreement the recipe denies.
    """
    recipe = context.recipe
    assert isinstance(recipe, MergeRecipe), recipe.kind
    base = local_folder(context.model_path(recipe.base_model), "base_model")
    adapters = tuple(_open_adapter(context, recipe, index) for index in range(len(recipe.adapters)))
    require_data_use(recipe.data_use, (base, *(adapter.folder for adapter in adapters)))
    _require_all_beneath(adapters)
    root = expand(context.record.cluster["roots"]["models"])
    return MergePlan(
        recipe=recipe,
        base=base,
        adapters=adapters,
        folder=root / recipe.output if recipe.output else context.run.outputs / "model",
        dtype=_DTYPES.get(recipe.dtype) or AutoConfig.from_pretrained(base).dtype or torch.float32,
        files=tuple(checksums(folder, WATCHDOG.beat) for folder in (base, *(one.folder for one in adapters))),
    )


def _open_adapter(context: Context, recipe: MergeRecipe, index: int) -> AdapterFolder:
    wanted, key = recipe.adapters[index], f"adapters.{index}.path"
    try:
        adapter = read_adapter(local_folder(context.model_path(wanted.path), key))
        adapter.require_mergeable(wanted.only)
        adapter.require_base(recipe.base_model, context.model_path(recipe.base_model), wanted.trained_on)
    except LauncherError as error:
        raise LauncherError(f"{key}: {error}") from error
    return adapter


def _require_all_beneath(adapters: tuple[AdapterFolder, ...]) -> None:
    for place, adapter in enumerate(adapters):
        try:
            adapter.require_beneath(adapters[:place])
        except LauncherError as error:
            raise LauncherError(f"adapters.{place}.path: {error}") from error


def choose_tokenizer(plan: MergePlan) -> Path:
    """Name the folder of the tokenizer: the last adapter's that has one, else the base's.

    An adapter of which only attention is merged leaves its new tokens behind, and so its tokenizer if it has such.
    """
    rows = AutoConfig.from_pretrained(plan.base).get_text_config().vocab_size
    for wanted, adapter in reversed([*zip(plan.recipe.adapters, plan.adapters, strict=True)]):
        if not (adapter.folder / TOKENIZER_CONFIG).is_file():
            continue
        if wanted.only == "all" or len(load_tokenizer(adapter.folder)) <= rows:
            return adapter.folder
    return plan.base
