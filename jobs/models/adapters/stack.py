"""A new adapter on top of base adapters from earlier runs: all in the forward pass, some trained, some frozen.

The two steps of Clinical LLaMA-LoRA (https://arxiv.org/abs/2307.03042), W + s1 B1 A1 + s2 B2 A2. Its published code
adds the second adapter and leaves it inactive (https://github.com/huggingface/peft/issues/837), so nothing learns; here
all are made active, and GradientGuard checks that they are.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from peft import PeftConfig, PeftModel
from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

from jobs.models.adapters.build import declared_trainable
from jobs.models.folder import local_folder
from jobs.rank.context import Context
from launcher.artifacts.adapter_folder import AdapterFolder, read_adapter
from launcher.errors import LauncherError
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.recipe.sections.common import EarlierAdapter

NEW = "default"
"""peft's name for the adapter that is trained anew."""


@dataclass(frozen=True)
class BaseAdapter:
    """An adapter of an earlier run, on which this run's own one is trained."""

    section: EarlierAdapter
    adapter: AdapterFolder
    name: str
    """peft's name for it here, and the folder of an export that it lies in if it was trained further."""

    def describe(self) -> dict[str, Any]:
        """Return the manifest entry; a trained adapter's checksum is added at export."""
        folder = self.name if self.section.trainable else None
        entry = {**self.section.model_dump(mode="json"), "folder": folder}
        return entry if folder else entry | {"sha256": self.adapter.digest}


def open_base_adapters(context: Context, recipe: TrainingRecipe) -> tuple[BaseAdapter, ...]:
    """Find the adapters that the recipe's model starts with, and refuse those that cannot be active together.

    Raises:
        LauncherError: one is missing, or belongs to another base or kind.
    """
    found: list[BaseAdapter] = []
    base = recipe.model.path
    for place, section in enumerate(recipe.model.adapters):
        key = f"model.adapters.{place}.path"
        try:
            adapter = read_adapter(local_folder(context.model_path(section.path), key))
            adapter.require_stackable()
            adapter.require_base(base, context.model_path(base), section.trained_on)
            adapter.require_base_adapters([one.adapter for one in found])
        except LauncherError as error:
            raise LauncherError(f"{key}: {error}") from error
        found.append(BaseAdapter(section, adapter, _name(section.path, place)))
    return tuple(found)


def trained_names(base_adapters: Sequence[BaseAdapter]) -> tuple[str, ...]:
    """Return peft's names of all adapters that are trained."""
    return (NEW, *(one.name for one in base_adapters if one.section.trainable))


def stack(model: PeftModel, base_adapters: Sequence[BaseAdapter]) -> PeftModel:
    """Add base adapters to a model with a new adapter, and make all of them active.

    Args:
        model: With its new adapter; changed.
        base_adapters: In their order.

    Raises:
        LauncherError: one of them does not fit the model.
    """
    if not base_adapters:
        return model
    for one in base_adapters:
        try:
            _load(model, one.adapter.folder, one.name, one.section.trainable)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise LauncherError(f"adapter `{one.section.path}` does not fit the model: {error}") from error
    activate(model, [*(one.name for one in base_adapters), NEW])
    trained = declared_trainable(model, trained_names(base_adapters))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
        if name in trained:
            parameter.data = parameter.data.float()
    return model


def activate(model: PeftModel, names: list[str]) -> None:
    """Use these adapters, and no others, in the forward pass; `PeftModel.set_adapter` takes one only."""
    tuner: Any = model.base_model
    tuner.set_adapter(names)


def load_beside(model: PeftModel, adapter: AdapterFolder) -> PeftModel:
    """Add an adapter that is not trained to a model that has others, and make all of them active.

    Raises:
        LauncherError: it does not fit the model, or cannot be active together with others.
    """
    adapter.require_stackable()
    others = [*model.peft_config]
    try:
        _load(model, adapter.folder, name := _name(str(adapter.folder), len(others)), trainable=False)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise LauncherError(f"adapter `{adapter.folder.name}` does not fit the model: {error}") from error
    activate(model, [*others, name])
    return model


def _load(model: PeftModel, folder: PurePath, name: str, trainable: bool) -> None:
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = not trainable
    if not trainable:
        config.lora_dropout = 0.0  # it is a part of the model now
    # Not by peft's class for classification: it would give each adapter a head, and only one can be used.
    PeftModel.add_adapter(model, name, config)
    tensors = load_peft_weights(str(folder), device="cpu")
    wanted = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False).keys()
    set_peft_model_state_dict(model, dict(tensors), adapter_name=name)
    if unmatched := sorted(wanted ^ tensors.keys()):
        raise ValueError(f"{unmatched[0]} is only in the adapter or only in the model ({len(unmatched)} such tensors)")


def _name(path: str, place: int) -> str:
    """Make a name that no module or attribute has: peft looks for adapters by parts of tensors' names."""
    return f"{re.sub('[^A-Za-z0-9_-]', '-', PurePath(path).name)}-{place}"
