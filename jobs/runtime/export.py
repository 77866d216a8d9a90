"""The export: weights, configuration and tokenizer for others to load, whole or not there."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel, Trainer

from jobs.models.adapter_files import write_adapter
from jobs.models.adapter_state import gather_adapter, whole
from jobs.models.model_folder import let_others_read
from jobs.runtime.durable import sync, sync_tree
from jobs.runtime.process_group import Group
from launcher.adapters import read_adapter

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Provenance:
    """Where an export came from; what binds its data binds the weights."""

    run: str
    kind: str
    fingerprint: str
    base_model: str
    corpora: tuple[str, ...]
    data_use: str
    steps: int
    started_from: str | None = None
    """The adapter that this one went on from, if it did; its corpora are among the corpora."""
    beneath: tuple[dict[str, Any], ...] = ()
    """Adapters of earlier runs that were active as well; without them the export says nothing."""


def is_exported(folder: Path) -> bool:
    """Tell whether an export was completed."""
    return (folder / MANIFEST).is_file()


def export_model(
    trainer: Trainer, group: Group, folder: Path, tokenizer: Any, published: PreTrainedConfig, provenance: Provenance
) -> None:
    """Gather the weights and publish them as one folder. A collective.

    Args:
        trainer: Holds the trained, prepared model.
        group: All ranks.
        folder: The finished export appears here, in one rename.
        tokenizer: Goes with the weights.
        published: Configuration of the model that training started from; the export has its number format.
        provenance: Becomes manifest.json.
    """
    weights = _gather(trainer, published.dtype or torch.float32, group.is_main)
    if group.is_main:
        staging = folder.with_name(f".{folder.name}.staging")
        shutil.rmtree(staging, ignore_errors=True)
        model = trainer.accelerator.unwrap_model(trainer.model)
        if isinstance(model, PeftModel):
            write_adapter(model, weights, provenance.base_model, staging)
            _write_generation_config(model, staging)
        else:
            _write(model, weights, published, staging)
        tokenizer.save_pretrained(staging)
        _write_manifest(staging, provenance)
        if provenance.data_use == "open":
            let_others_read(staging)
        sync_tree(staging)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(staging, folder)
        sync(folder.parent)
    group.barrier()


def _write_manifest(folder: Path, provenance: Provenance) -> None:
    content = asdict(provenance)
    for entry in content["beneath"]:
        if entry["folder"]:
            entry["sha256"] = read_adapter(folder / entry["folder"]).digest
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _gather(trainer: Trainer, dtype: torch.dtype, keeps: bool) -> dict[str, torch.Tensor]:
    """Gather the weights, of an adapted model the adapter's. A collective.

    Not by `Trainer.save_model`, which writes nothing at all, without an error, for a model whose
    checkpoints are sharded.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel):
        return gather_adapter(model)
    if trainer.is_deepspeed_enabled:
        return _gather_from_zero(model, dtype, keeps)
    weights: dict[str, torch.Tensor] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return weights


def _gather_from_zero(model: PreTrainedModel, dtype: torch.dtype, keeps: bool) -> dict[str, torch.Tensor]:
    """Gather weights from the optimizer's copies in fp32; DeepSpeed would give out those that it computes with.

    Args:
        model: Within DeepSpeed's engine.
        dtype: Format of the export: one tensor at a time is there in fp32.
        keeps: Whether this rank has room for all; others get none.
    """
    saved, buffers = model.state_dict(), dict(model.named_buffers())
    weights = {name: saved[name] for name in saved.keys() & buffers.keys()}
    for name, parameter in model.named_parameters():
        tensor = whole(parameter).to(dtype)
        if keeps:
            weights[name] = tensor
    return weights


def _write_generation_config(model: PeftModel, folder: Path) -> None:
    """Say beside an adapter how text is generated with it: where it stops may have been learned."""
    base = model.get_base_model()
    if base.can_generate():
        base.generation_config.save_pretrained(folder)


def _write(model: PreTrainedModel, weights: dict[str, torch.Tensor], published: PreTrainedConfig, folder: Path) -> None:
    dtype = published.dtype or torch.float32
    model.config.dtype = dtype
    if hasattr(published, "use_cache"):  # encoders have no cache
        model.config.use_cache = published.use_cache
    # A sharded model gives tied weights out as two tensors; one is enough to load both.
    kept = {name: tensor.to(dtype) for name, tensor in weights.items() if name not in model.all_tied_weights_keys}
    model.save_pretrained(folder, state_dict=kept)
