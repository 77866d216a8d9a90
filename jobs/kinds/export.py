"""kind: export - a model in a format for serving: load, merge its adapters, write, compare, measure, publish, upload.

It takes minutes, so an attempt that was stopped starts again; what is published is never made twice.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi

from jobs.export.hub import push
from jobs.export.inputs import ExportPlan, make_plan
from jobs.export.judge import judge
from jobs.export.latency import ROUNDS, compare_latency
from jobs.export.original import Original, load_original
from jobs.export.probe import ProbedModel, TorchProbed, answers, difference
from jobs.export.weights import load_weights, write_weights
from jobs.models.folder import copy_generation_config, copy_tokenizer, describe_other_model, let_others_read
from jobs.rank.atomic_files import sync_tree, write_durably
from jobs.rank.context import Context
from jobs.rank.publish import is_in_place, put_in_place, staging_folder
from jobs.rank.stop_flag import STOP, noting_stop
from jobs.rank.watchdog import WATCHDOG
from launcher.artifacts.adapter_folder import MANIFEST, read_object
from launcher.errors import LauncherError
from launcher.run.ledger import append_event
from launcher.run.paths import RunDir

_STEPS = 3
"""Loaded, written and compared, published."""


def main(context: Context) -> None:
    """Make the export that the recipe describes.

    Raises:
        LauncherError: an input does not fit, the export differs too much from the original, or the name is taken.
        StopRequested: a stop was asked for before the export was there.
    """
    plan, run = make_plan(context), context.run
    append_event(run.ledger, context.attempt, first_step=0, total_steps=_STEPS)
    with noting_stop(context):
        if not _is_published(plan):
            _make(plan, context)
        _write_report(plan, run, None)  # an upload may fail, or be stopped
        if uploaded := push(plan.recipe, plan.folder, HfApi()):
            _write_report(plan, run, uploaded)
    print(f"{plan.folder}: {plan.recipe.model.path} as {plan.recipe.format}", flush=True)
    append_event(run.ledger, context.attempt, last_step=_STEPS, reason="finished", source="export")


def _is_published(plan: ExportPlan) -> bool:
    """Tell whether this very export is there already; anything else there is an error."""

    def describe_other() -> str | None:
        return describe_other_model(plan.folder, plan.inputs, plan.recipe)

    return is_in_place(plan.folder, "output", describe_other)


def _write_report(plan: ExportPlan, run: RunDir, uploaded: str | None) -> None:
    report = {"folder": str(plan.folder), "uploaded": uploaded, **(read_object(plan.folder / MANIFEST) or {})}
    write_durably(run.export_report, json.dumps(report, indent=1) + "\n")


def _make(plan: ExportPlan, context: Context) -> None:
    original = load_original(plan, _device(context), context.recipe.seed)
    _require_positions(plan, original)
    STOP.raise_if_requested()
    with staging_folder(plan.folder, context) as staging:
        copy_tokenizer(plan.tokenizer, plan.base, staging)
        with WATCHDOG.counting_work():  # tracing, quantising and opening take minutes in libraries
            made = _write(plan, original, staging)
        measured = _measure(plan, original, made)
        _write_manifest(plan, context, staging, original, measured)
        sync_tree(staging)
        put_in_place(staging, plan.folder, partial(_is_published, plan))


def _measure(plan: ExportPlan, original: Original, made: ProbedModel) -> dict[str, Any]:
    """Compare an export with the original, and refuse it if it differs too much."""
    found = difference(original.answers, answers(made, original.probe, original.answers))
    bar = judge(plan, found)
    return {
        "verification": {**found.as_json(), "limits": bar._asdict(), "places": sum(map(len, original.answers.logits))},
        "latency_ms": _latency(plan, original, made),
        "threads": torch.get_num_threads(),
    }


def _require_positions(plan: ExportPlan, original: Original) -> None:
    longest = max(plan.recipe.latency, default=0) + (ROUNDS + 1 if plan.task == "language model" else 0)
    if plan.recipe.has_graphs and longest > original.positions:
        raise LauncherError(
            f"latency: {longest} tokens are more than the model's {original.positions} positions; write shorter prompts"
        )


def _write(plan: ExportPlan, original: Original, staging: Path) -> ProbedModel:
    """Write the export, and open it as anybody does."""
    made: ProbedModel
    if plan.recipe.has_graphs:
        # Building either module takes seconds that other formats need not wait for.
        from jobs.export.graphs import GraphsProbed
        from jobs.export.trace import trace

        trace(original.model, plan.task, staging, plan.recipe.format == "int8-onnx")
        made = GraphsProbed(staging, plan.task, torch.get_num_threads())
    else:
        device = original.model.device
        write_weights(plan, original.model, staging)
        let_others_read(staging)
        made = TorchProbed(load_weights(plan, staging, device), plan.task)
    copy_generation_config([*(one.folder for one in reversed(plan.adapters)), plan.base], staging)
    return made


def _latency(plan: ExportPlan, original: Original, made: ProbedModel) -> dict[str, Any]:
    if not plan.recipe.has_graphs:
        return {}
    rows = original.model.config.get_text_config().vocab_size
    models: dict[str, ProbedModel] = {"torch": TorchProbed(original.model, plan.task), "onnxruntime": made}
    return compare_latency(models, plan.recipe.latency, rows, plan.task == "language model")


def _write_manifest(
    plan: ExportPlan, context: Context, folder: Path, original: Original, measured: dict[str, Any]
) -> None:
    """Record what the export was made of, how it was checked, and what binds its data."""
    recipe, record = plan.recipe, context.record
    manifests = [read_object(plan.base / MANIFEST) or {}, *(adapter.manifest for adapter in plan.adapters)]
    adapters = [
        {**wanted.model_dump(mode="json"), "files": files, "difference": merged.as_json()}
        for wanted, files, merged in zip(recipe.model.adapters, plan.files[1:], original.merges, strict=True)
    ]
    content: dict[str, Any] = {
        "run": record.id,
        "kind": recipe.kind,
        "fingerprint": record.fingerprint,
        "inputs": plan.inputs,
        "base_model": recipe.model.path,
        "corpora": sorted({corpus for manifest in manifests for corpus in manifest.get("corpora", ())}),
        "data_use": recipe.data_use,
        "system_prompt": manifests[-1].get("system_prompt"),
        "format": recipe.format,
        "task": plan.task,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "code": context.code_version,
        "versions": plan.versions,
        "base": {"path": recipe.model.path, "files": plan.files[0]},
        "adapters": adapters,
        **measured,
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _device(context: Context) -> torch.device:
    wants_gpu = context.recipe.resources.gpus_per_node and torch.cuda.is_available()
    return torch.device("cuda" if wants_gpu else "cpu")
