"""kind: merge - adapters become part of their base: load, merge one after the other, compare, write, publish.

It takes minutes, so an attempt that was stopped starts again; what is published is never made twice.
"""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from jobs.models.merge_plan import MergePlan, choose_tokenizer, make_plan
from jobs.models.merging import attach, load_in_fp32, merge
from jobs.models.model_folder import copy_generation_config, copy_tokenizer, let_others_read, load_tokenizer
from jobs.models.probe import Difference, Probe, compare
from jobs.runtime.context import Context
from jobs.runtime.durable import sync, sync_tree
from jobs.runtime.export import MANIFEST
from jobs.runtime.watchdog import WATCHDOG
from launcher.adapters import AdapterFolder, read_object
from launcher.errors import LauncherError
from launcher.ledger import append_event
from launcher.paths import CONTINUE, FINISHED

if TYPE_CHECKING:
    from jobs.runtime.stop import StopFlag

_ROUNDING = 16
"""Logits of weights rounded to 16 bits may be off by so many units in the last place of the largest one. It is
1.3 at most on models of 0.3M and 135M parameters; deep ones add up errors of more layers."""


def main(context: Context, stop: "StopFlag") -> int:
    """Make the model that the recipe describes.

    Returns:
        0 when it is there, 75 when a stop was asked for before.

    Raises:
        LauncherError: an adapter does not go with the base, merging changed what the model says, or the name is taken.
    """
    plan, run = make_plan(context), context.run
    is_stop_wanted = partial(stop.wanted, run, context.ranks.is_main)
    append_event(run.ledger, context.attempt, first_step=0, total_steps=len(plan.adapters))
    if not is_published(plan) and not make_model(plan, context, is_stop_wanted):
        append_event(run.ledger, context.attempt, reason="stopped", source="merge")
        return CONTINUE
    names = ", ".join(adapter.folder.name for adapter in plan.adapters)
    print(f"{plan.folder}: {plan.recipe.base_model} with {names}", flush=True)
    append_event(run.ledger, context.attempt, last_step=len(plan.adapters), reason="finished", source="merge")
    return FINISHED


def is_published(plan: MergePlan) -> bool:
    """Tell whether this very model is there already.

    Raises:
        LauncherError: something else is there.
    """
    if not plan.folder.exists():
        return False
    if (read_object(plan.folder / MANIFEST) or {}).get("inputs") != plan.inputs:
        raise LauncherError(
            f"output: {plan.folder} holds something else than this merge would make; write another name, or remove it"
        )
    return True


def make_model(plan: MergePlan, context: Context, is_stop_wanted: Callable[[], bool]) -> bool:
    """Merge, write and publish; tell whether that came to its end before a stop."""
    tokenizer = choose_tokenizer(plan)
    probe = Probe(load_tokenizer(tokenizer))
    model = load_in_fp32(plan.base).to(_device(context))
    steps: list[Difference] = []
    adapted: list[Tensor] = []
    for number, adapter in enumerate(plan.adapters):
        if is_stop_wanted():
            return False
        WATCHDOG.beat()
        model, adapted = merge_one(plan, number, model, probe)
        steps.append(check_merged(plan, adapter, adapted, probe.logits(model)))
    if is_stop_wanted():
        return False
    staging = write(plan, context, model, tokenizer)
    device = model.device
    del model
    rounded = check_written(plan, staging, adapted, probe, device)
    write_manifest(plan, context, staging, steps, rounded)
    publish(plan, staging)
    return True


def merge_one(
    plan: MergePlan, number: int, model: PreTrainedModel, probe: Probe
) -> tuple[PreTrainedModel, list[Tensor]]:
    """Merge one adapter; returned with the model are the logits while the adapter was still one."""
    adapter = plan.adapters[number]
    had = model.config.get_text_config().vocab_size
    with_adapter = attach(model, adapter, plan.recipe.adapters[number].only == "attention")
    rows = with_adapter.config.get_text_config().vocab_size
    if rows > had:
        probe.add(range(had, rows))
    logits = probe.logits(with_adapter)
    return merge(with_adapter, adapter.folder.name), logits


def check_merged(plan: MergePlan, adapter: AdapterFolder, adapted: list[Tensor], merged: list[Tensor]) -> Difference:
    """Compare a model before and after merging, both in fp32.

    Raises:
        LauncherError: they differ by more than the recipe's tolerance.
    """
    found = compare(adapted, merged)
    name, limit = adapter.folder.name, plan.recipe.tolerance
    print(f"{name}: merged; logits up to {found.largest_logit:.3g} differ by {found.largest:.2g} at most", flush=True)
    if found.largest > limit:
        raise LauncherError(
            f"adapter `{name}`: merged and adapted model differ by {found.largest:.2g} in a logit; write at least that "
            f"as `tolerance` (now {limit:g}) if it is but rounding"
        )
    return found


def check_written(
    plan: MergePlan, folder: Path, adapted: list[Tensor], probe: Probe, device: torch.device
) -> Difference:
    """Compare the model as it lies on disk with the adapted one in fp32.

    Raises:
        LauncherError: they differ by more than rounding to the result's number format does.
    """
    WATCHDOG.beat()
    found = compare(adapted, probe.logits(load_in_fp32(folder).to(device)))
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


def write(plan: MergePlan, context: Context, model: PreTrainedModel, tokenizer: Path) -> Path:
    """Write all that belongs to the model beside its final place.

    Raises:
        LauncherError: the tokenizer has tokens that the model has no rows for.
    """
    staging = plan.folder.with_name(f".{plan.folder.name}.{context.record.id}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.parent.mkdir(parents=True, exist_ok=True)
    staging.mkdir(mode=0o700 if plan.recipe.data_use == "credentialed" else 0o777)
    copy_tokenizer(tokenizer, plan.base, staging)
    tokens, rows = len(load_tokenizer(staging)), model.config.get_text_config().vocab_size
    if tokens > rows:
        raise LauncherError(
            f"{tokenizer}: its tokenizer has {tokens} tokens, and the merged model rows for {rows}: the adapter was "
            "saved without the new rows; save it again with `save_embedding_layers=True`"
        )
    model.config.dtype = plan.dtype
    model.generation_config = GenerationConfig()  # saving checks it, and published ones are not always consistent
    model.to(plan.dtype).save_pretrained(staging, max_shard_size="5GB")
    let_others_read(staging)
    copy_generation_config([*(adapter.folder for adapter in reversed(plan.adapters)), plan.base], staging)
    return staging


def write_manifest(
    plan: MergePlan, context: Context, folder: Path, steps: list[Difference], rounded: Difference
) -> None:
    """Say what the model was made of, how it was checked, and what binds its data."""
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


def publish(plan: MergePlan, staging: Path) -> None:
    """Move the model into place; another run of the same recipe may have been quicker."""
    sync_tree(staging)
    try:
        os.rename(staging, plan.folder)
    except OSError:
        if not is_published(plan):
            raise
        shutil.rmtree(staging)
    sync(plan.folder.parent)


def _device(context: Context) -> torch.device:
    wants_gpu = context.recipe.resources.gpus_per_node and torch.cuda.is_available()
    return torch.device("cuda" if wants_gpu else "cpu")
