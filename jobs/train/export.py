"""The export: weights, configuration and tokenizer for others to load, complete or absent."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, Trainer

from jobs.models.adapters.save import write_adapter
from jobs.models.adapters.stack import BaseAdapter
from jobs.models.classifier import describe_head
from jobs.models.dropout import restore_configuration
from jobs.models.folder import let_others_read, loading, local_folder
from jobs.rank.atomic_files import sync, sync_tree
from jobs.rank.context import Context
from jobs.rank.process_group import RankGroup
from jobs.train.adapter_checkpoint import gather_adapter, whole
from launcher.artifacts.adapter_folder import read_adapter
from launcher.recipe.identity import method_checksum
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.recipe.sections.common import Model
from launcher.recipe.sections.molora import Orthogonal

MANIFEST = "manifest.json"


def is_exported(folder: Path) -> bool:
    """Tell whether an export was completed."""
    return (folder / MANIFEST).is_file()


def manifest_of(
    context: Context, recipe: TrainingRecipe, base_adapters: Sequence[BaseAdapter], corpora: Sequence[str], steps: int
) -> dict[str, Any]:
    """Say where an export comes from; restrictions of its data bind the weights.

    Args:
        context: The run.
        recipe: Its recipe.
        base_adapters: Adapters of earlier runs, active as well: without them the export is useless.
        corpora: Names of what this run trained on.
        steps: That the exported weights were trained for.
    """
    started_from = recipe.adapter.start_from if isinstance(recipe.adapter, Orthogonal) else None
    manifests = [one.adapter.manifest for one in base_adapters]
    if started_from is not None:
        folder = local_folder(context.model_path(started_from), "adapter.start_from")
        manifests.append(read_adapter(folder).manifest)
    return {
        "run": context.record.id,
        "kind": recipe.kind,
        "fingerprint": context.record.fingerprint,
        "method": method_checksum(context.recipe),
        "seed": recipe.seed,
        "base_model": recipe.model.path,
        "corpora": [*dict.fromkeys([name for made in manifests for name in made.get("corpora", ())] + [*corpora])],
        "data_use": recipe.data_use,
        "system_prompt": recipe.system_prompt,
        "steps": steps,
        "started_from": started_from,
        "beneath": [one.describe() for one in base_adapters],
    }


def load_tokenizer(context: Context, section: Model, attributes: Mapping[str, str | None]) -> Any:
    """Load the tokenizer that goes with a model, with some attributes changed; None: as it has them."""
    path = context.model_path(section.tokenizer_path)
    with loading(path, "model.tokenizer" if section.tokenizer else "model.path"):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=section.trust_remote_code)
    for name, value in attributes.items():
        setattr(tokenizer, name, getattr(tokenizer, name) if value is None else value)
    return tokenizer


def export_model(
    trainer: Trainer,
    group: RankGroup,
    folder: Path,
    tokenizer: Any,
    published: PreTrainedConfig,
    manifest: dict[str, Any],
) -> None:
    """Gather the weights and publish them as one folder. A collective.

    Args:
        trainer: Holds the trained, prepared model.
        group: All ranks.
        folder: The finished export appears here, in one rename.
        tokenizer: Goes with the weights.
        published: Configuration of the model that training started from; the export has its number format.
        manifest: From `manifest_of`.
    """
    weights = _gather(trainer, _dtype_of(published), group.is_main)
    if group.is_main:
        staging = folder.with_name(f".{folder.name}.staging")
        shutil.rmtree(staging, ignore_errors=True)
        model = trainer.accelerator.unwrap_model(trainer.model)
        if isinstance(model, PeftModel):
            write_adapter(model, weights, manifest["base_model"], staging)
            _write_generation_config(model, staging)
            manifest = {**manifest, **_head_of(model)}
        else:
            _write(model, weights, published, staging)
        tokenizer.save_pretrained(staging)
        _write_manifest(staging, manifest)
        if manifest["data_use"] == "open":
            let_others_read(staging)
        sync_tree(staging)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(staging, folder)
        sync(folder.parent)
    group.barrier()


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    for entry in manifest["beneath"]:
        if entry["folder"]:
            entry["sha256"] = read_adapter(folder / entry["folder"]).digest
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _gather(trainer: Trainer, dtype: torch.dtype, keeps: bool) -> dict[str, torch.Tensor]:
    """Gather the weights, of an adapted model the adapter's. A collective.

    Not with `Trainer.save_model`, which silently writes nothing for a model whose checkpoints are sharded.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel):
        return gather_adapter(model)
    if trainer.is_deepspeed_enabled:
        return _gather_from_zero(model, dtype, keeps)
    weights: dict[str, torch.Tensor] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return weights


def _gather_from_zero(model: PreTrainedModel, dtype: torch.dtype, keeps: bool) -> dict[str, torch.Tensor]:
    """Gather weights from the optimizer's copies in fp32; DeepSpeed would return those that it computes with.

    Args:
        model: Within DeepSpeed's engine.
        dtype: Format of the export: one tensor at a time exists in fp32.
        keeps: Whether this rank has room for all; others get none.
    """
    saved, buffers = model.state_dict(), dict(model.named_buffers())
    weights = {name: saved[name] for name in saved.keys() & buffers.keys()}
    for name, parameter in model.named_parameters():
        tensor = whole(parameter).to(dtype)
        if keeps:
            weights[name] = tensor
    return weights


def _head_of(model: PeftModel) -> dict[str, Any]:
    """Describe the head that an adapter brings; nothing if it brings none."""
    has_head = model.peft_config["default"].task_type == "SEQ_CLS"
    return {"head": describe_head(model.get_base_model().config)} if has_head else {}


def _write_generation_config(model: PeftModel, folder: Path) -> None:
    """Write next to an adapter how text is generated with it: the model may have learned where to stop."""
    base: Any = model.get_base_model()
    if base.can_generate():
        base.generation_config.save_pretrained(folder)


def _dtype_of(published: PreTrainedConfig) -> torch.dtype:
    dtype = published.dtype or torch.float32
    assert isinstance(dtype, torch.dtype), dtype
    return dtype


def _write(model: PreTrainedModel, weights: dict[str, torch.Tensor], published: PreTrainedConfig, folder: Path) -> None:
    dtype = _dtype_of(published)
    model.config.dtype = dtype
    if hasattr(published, "use_cache"):  # encoders have no cache
        model.config.use_cache = published.use_cache
    restore_configuration(model)
    # A sharded model gives tied weights out as two tensors; one is enough to load both.
    kept = {name: tensor.to(dtype) for name, tensor in weights.items() if name not in model.all_tied_weights_keys}
    model.save_pretrained(folder, state_dict=kept)
