"""kind: merge - adapters become part of their base: load, merge one after the other, compare, write, publish.

It takes minutes, so an attempt that was stopped starts again; what is published is never made twice.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from jobs.models.folder import (
    copy_generation_config,
    copy_tokenizer,
    describe_other_model,
    let_others_read,
    load_tokenizer,
)
from jobs.models.merge.inputs import MergePlan, choose_tokenizer, make_plan
from jobs.models.merge.logit_check import LogitDifference, Probe, compare
from jobs.models.merge.peft_merge import attach, load_in_fp32, merge
from jobs.rank.atomic_files import sync_tree
from jobs.rank.context import Context
from jobs.rank.publish import is_in_place, put_in_place, staging_folder
from jobs.rank.stop_flag import STOP, noting_stop
from jobs.rank.watchdog import WATCHDOG
from jobs.train.export import MANIFEST
from launcher.artifacts.adapter_folder import AdapterFolder, read_object
from launcher.errors import LauncherError
from launcher.run.ledger import append_event

_ROUNDING = 16
"""Logits of weights rounded to 16 bits may be off by so many units in the last place of the largest one. It is
1.3 at most on models of 0.3M and 135M parameters; deep ones add up errors of more layers."""


def main(context: Context) -> None:
    """Make the model that the recipe describes.

    Raises:
        LauncherError: an adapter does not fit the base, merging changed the logits, or the name is taken.
        StopRequested: a stop was asked for before the model was there.
    """
    plan, run = make_plan(context), context.run
    append_event(run.ledger, context.attempt, first_step=0, total_steps=len(plan.adapters))
    if not _is_published(plan):
        with noting_stop(context):
            _make_model(plan, context)
    names = ", ".join(adapter.folder.name for adapter in plan.adapters)
    print(f"{plan.folder}: {plan.recipe.base_model} with {names}", flush=True)
    append_event(run.ledger, context.attempt, last_step=len(plan.adapters), reason="finished", source="merge")


def _is_published(plan: MergePlan) -> bool:
    """Tell whether this very model is there already; anything else there is an error."""

    def describe_other() -> str | None:
        return describe_other_model(plan.folder, plan.inputs, plan.recipe)

    return is_in_place(plan.folder, "output", describe_other)


def _make_model(plan: MergePlan, context: Context) -> None:
    tokenizer = choose_tokenizer(plan)
    probe = Probe(load_tokenizer(tokenizer))
    model = load_in_fp32(plan.base, _device(context))
    steps: list[LogitDifference] = []
    adapted: list[Tensor] = []
    for number, adapter in enumerate(plan.adapters):
        STOP.raise_if_requested()
        WATCHDOG.heartbeat()
        model, adapted = _merge_one(plan, number, model, probe)
        steps.append(_check_merged(plan, adapter, adapted, probe.logits(model)))
    STOP.raise_if_requested()
    with staging_folder(plan.folder, context) as staging:
        write(plan, staging, model, tokenizer)
        device = model.device
        del model
        rounded = _check_written(plan, staging, adapted, probe, device)
        _write_manifest(plan, context, staging, steps, rounded)
        sync_tree(staging)
        put_in_place(staging, plan.folder, partial(_is_published, plan))


def _merge_one(
    plan: MergePlan, number: int, model: PreTrainedModel, probe: Probe
) -> tuple[PreTrainedModel, list[Tensor]]:
    """Merge one adapter; return the model, and its logits from before the merge."""
    adapter = plan.adapters[number]
    had = model.config.get_text_config().vocab_size
    with_adapter = attach(model, adapter, plan.recipe.adapters[number].only == "attention")
    rows = with_adapter.config.get_text_config().vocab_size
    if rows > had:
        probe.add(range(had, rows))
    logits = probe.logits(with_adapter)
    return merge(with_adapter, adapter.folder.name), logits


def _check_merged(
    plan: MergePlan, adapter: AdapterFolder, adapted: list[Tensor], merged: list[Tensor]
) -> LogitDifference:
    """Refuse a merge that changes the logits, both in fp32, by more than the recipe's tolerance."""
    found = compare(adapted, merged)
    name, limit = adapter.folder.name, plan.recipe.tolerance
    print(f"{name}: merged; logits up to {found.largest_logit:.3g} differ by {found.largest:.2g} at most", flush=True)
    after = f"adapter `{name}`: the merged model"
    found.require_numbers(f"adapter `{name}`: the model with it", after, "copy the adapter again")
    if found.largest > limit:
        raise LauncherError(
            f"adapter `{name}`: merged and adapted model differ by {found.largest:.2g} in a logit; if that "
            f"is only rounding, write at least that as `tolerance` (now {limit:g})"
        )
    return found


def _check_written(
    plan: MergePlan, folder: Path, adapted: list[Tensor], probe: Probe, device: torch.device
) -> LogitDifference:
    """Refuse files whose logits differ from the adapted model's by more than rounding to their number format does."""
    WATCHDOG.heartbeat()
    found = compare(adapted, probe.logits(load_in_fp32(folder, device)))
    limit = plan.recipe.tolerance + _ROUNDING * torch.finfo(plan.dtype).eps * found.largest_logit
    print(
        f"written as {plan.dtype}: logits differ by {found.largest:.2g} at most (limit {limit:.2g}), "
        f"and {found.same_choice:.1%} of the most probable tokens are the same",
        flush=True,
    )
    if found.largest > limit:
        raise LauncherError(
            f"dtype: rounded to {plan.dtype}, the merged model differs by {found.largest:.2g} in a logit, more than "
            f"{limit:.2g}; write `fp32`"
        )
    return found


def write(plan: MergePlan, staging: Path, model: PreTrainedModel, tokenizer: Path) -> None:
    """Write all that belongs to the model into a folder.

    Raises:
        LauncherError: the tokenizer has tokens that the model has no rows for.
    """
    copy_tokenizer(tokenizer, plan.base, staging)
    tokens, rows = len(load_tokenizer(staging)), model.config.get_text_config().vocab_size
    if tokens > rows:
        raise LauncherError(
            f"{tokenizer}: its tokenizer has {tokens} tokens, but the merged model has {rows} embedding rows: the "
            "adapter was saved without the new rows; save it again with `save_embedding_layers=True`"
        )
    model.config.dtype = plan.dtype
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call] # saving checks it, and published ones are not always consistent
    model.to(plan.dtype).save_pretrained(staging, max_shard_size="5GB")  # type: ignore[arg-type]
    let_others_read(staging)
    copy_generation_config([*(adapter.folder for adapter in reversed(plan.adapters)), plan.base], staging)


def _write_manifest(
    plan: MergePlan, context: Context, folder: Path, steps: list[LogitDifference], rounded: LogitDifference
) -> None:
    """Record what the model was made of, how it was checked, and what binds its data."""
    recipe, record = plan.recipe, context.record
    manifests = [read_object(plan.base / MANIFEST) or {}, *(adapter.manifest for adapter in plan.adapters)]
    adapters = [
        {**wanted.model_dump(mode="json"), "files": files, "difference": step.as_json()}
        for wanted, files, step in zip(recipe.adapters, plan.files[1:], steps, strict=True)
    ]
    content: dict[str, Any] = {
        "run": record.id,
        "kind": recipe.kind,
        "fingerprint": record.fingerprint,
        "inputs": plan.inputs,
        "base_model": recipe.base_model,
        "corpora": sorted({corpus for manifest in manifests for corpus in manifest.get("corpora", ())}),
        "data_use": recipe.data_use,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "code": context.code_version,
        "versions": {module.__name__: module.__version__ for module in (peft, torch, transformers)},
        "base": {"path": recipe.base_model, "files": plan.files[0]},
        "adapters": adapters,
        "written": rounded.as_json(),
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _device(context: Context) -> torch.device:
    wants_gpu = context.recipe.resources.gpus_per_node and torch.cuda.is_available()
    return torch.device("cuda" if wants_gpu else "cpu")
