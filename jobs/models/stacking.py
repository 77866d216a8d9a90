"""Adapters on top of those that earlier runs made: all in the forward pass, some trained, some frozen.

The two steps of Clinical LLaMA-LoRA (https://arxiv.org/abs/2307.03042), W + s1 B1 A1 + s2 B2 A2. Its published code
adds the second adapter and leaves it inactive (https://github.com/huggingface/peft/issues/837), so nothing learns; here
all are made active, and the guard of gradients looks whether they are.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from peft import PeftConfig, PeftModel
from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

from jobs.models.adapters import declared_trainable
from jobs.models.model_folder import local_folder
from jobs.runtime.context import Context
from launcher.adapters import AdapterFolder, read_adapter
from launcher.errors import LauncherError
from launcher.recipe.sections import EarlierAdapter
from launcher.recipe.training import TrainingRecipe

NEW = "default"
"""peft's name for the adapter that is trained anew."""


@dataclass(frozen=True)
class Earlier:
    """An adapter of an earlier run."""

    section: EarlierAdapter
    adapter: AdapterFolder
    name: str
    """peft's name for it here, and the folder of an export that it lies in if it was trained further."""

    def describe(self) -> dict[str, Any]:
        """What the manifest of an export says of it; that of one that was trained has its checksum from there."""
        folder = self.name if self.section.trainable else None
        entry = {**self.section.model_dump(mode="json"), "folder": folder}
        return entry if folder else entry | {"sha256": self.adapter.digest}


def open_earlier(context: Context, recipe: TrainingRecipe) -> tuple[Earlier, ...]:
    """Find the adapters that the recipe's model starts with, and refuse what cannot be active together.

    Raises:
        LauncherError: one is missing, of another base, or of another kind.
    """
    found: list[Earlier] = []
    base = recipe.model.path
    for place, section in enumerate(recipe.model.adapters):
        key = f"model.adapters.{place}.path"
        try:
            adapter = read_adapter(local_folder(context.model_path(section.path), key))
            adapter.require_stackable()
            adapter.require_base(base, context.model_path(base), section.trained_on)
            adapter.require_beneath([one.adapter for one in found])
        except LauncherError as error:
            raise LauncherError(f"{key}: {error}") from error
        found.append(Earlier(section, adapter, _name(section.path, place)))
    return tuple(found)


def trained_names(earlier: Sequence[Earlier]) -> tuple[str, ...]:
    """peft's names of all adapters that are trained."""
    return (NEW, *(one.name for one in earlier if one.section.trainable))


def stack(model: PeftModel, earlier: Sequence[Earlier]) -> PeftModel:
    """Put the adapters of earlier runs beside a new one, and make all of them active.

    Args:
        model: A model with its new adapter; changed.
        earlier: The others, in their order.

    Raises:
        LauncherError: one of them does not fit the model.
    """
    if not earlier:
        return model
    for one in earlier:
        try:
            _load(model, one)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise LauncherError(f"adapter `{one.section.path}` does not fit the model: {error}") from error
    activate(model, [*(one.name for one in earlier), NEW])
    trained = declared_trainable(model, trained_names(earlier))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
        if name in trained:
            parameter.data = parameter.data.float()
    return model


def activate(model: PeftModel, names: list[str]) -> None:
    """Have these adapters, and no others, take part in the forward pass; `PeftModel.set_adapter` takes one only."""
    model.base_model.set_adapter(names)


def _load(model: PeftModel, one: Earlier) -> None:
    folder = str(one.adapter.folder)
    config = PeftConfig.from_pretrained(folder)
    config.inference_mode = not one.section.trainable
    if not one.section.trainable:
        config.lora_dropout = 0.0  # it is a part of the model now, and those drop nothing
    # Not by the class for the task: that for classification would give each adapter a head, and only one can be used.
    PeftModel.add_adapter(model, one.name, config)
    tensors = load_peft_weights(folder, device="cpu")
    wanted = get_peft_model_state_dict(model, adapter_name=one.name, save_embedding_layers=False).keys()
    set_peft_model_state_dict(model, dict(tensors), adapter_name=one.name)
    if strange := sorted(wanted ^ tensors.keys()):
        raise ValueError(f"{strange[0]} is in one of both only ({len(strange)} such tensors)")


def _name(path: str, place: int) -> str:
    """A name that no module and no attribute of one has: peft looks for adapters by parts of tensors' names."""
    return f"{re.sub('[^A-Za-z0-9_-]', '-', PurePath(path).name)}-{place}"
