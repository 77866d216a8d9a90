"""The model that is exported: loaded in fp32, with its adapters in its weights, and what it said before they were."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from jobs.export.inputs import ExportPlan
from jobs.export.probe import Answers, PaddedBatch, TorchProbed, answers, difference, make_probe
from jobs.models.build import build, check_rows, position_count
from jobs.models.classifier import described_head
from jobs.models.folder import load_tokenizer
from jobs.models.merge.logit_check import LogitDifference
from jobs.models.merge.peft_merge import attach, load_in_fp32, merge
from jobs.models.tokenizer import padding_token
from jobs.rank.stop_flag import STOP
from jobs.rank.watchdog import WATCHDOG
from launcher.artifacts.adapter_folder import MANIFEST, WEIGHTS, AdapterFolder
from launcher.errors import LauncherError
from launcher.recipe.sections.common import Model

MERGE_TOLERANCE = 1e-3
"""Largest difference of a logit by merging an adapter, both in fp32; the default of `kind: merge`."""
_UNBOUNDED = 1 << 20
"""Positions of a model that states no limit."""


@dataclass(frozen=True)
class Original:
    """A model as its files have it, but in fp32 and with merged adapters."""

    model: PreTrainedModel
    probe: Sequence[PaddedBatch]
    answers: Answers
    """Of the model with its last adapter beside the weights."""
    merges: Sequence[LogitDifference]
    """By each adapter, what merging it changed."""

    @property
    def positions(self) -> int:
        """How long a sequence may be."""
        return position_count(self.model) or _UNBOUNDED


def load_original(plan: ExportPlan, device: torch.device, seed: int) -> Original:
    """Load a model, ask it, and merge its adapters.

    Args:
        plan: What is exported.
        device: Where it is to be.
        seed: Of a head that an adapter replaces.

    Raises:
        LauncherError: an adapter does not fit the model, or merging changed the logits.
    """
    tokenizer = load_tokenizer(plan.tokenizer)
    model: Any = _load(plan, device, seed)
    said, merges = None, list[LogitDifference]()
    for adapter in plan.adapters:
        STOP.raise_if_requested()
        WATCHDOG.heartbeat()
        adapted = attach(model, adapter, False)
        if adapter is plan.adapters[-1]:
            said = _ask(plan, adapted)
        probe, before = _ask(plan, adapted, steps=False)
        model = merge(adapted, adapter.folder.name)
        merges.append(_check_merged(adapter, difference(before, answers(TorchProbed(model, plan.task), probe))))
    probe, found = said or _ask(plan, model)
    check_rows(model.config.get_text_config().vocab_size, len(tokenizer))
    return Original(model.eval(), probe, found, merges)


def _load(plan: ExportPlan, device: torch.device, seed: int) -> Any:
    if plan.task == "language model":
        return load_in_fp32(plan.base, device, "model.path")
    tokenizer = load_tokenizer(plan.tokenizer)
    pad = tokenizer.get_vocab()[padding_token(tokenizer, plan.recipe.model.path)]
    section, settings = Model(path=plan.recipe.model.path), _new_head(plan.adapters, pad)
    model = build(AutoModelForSequenceClassification, section, str(plan.base), seed, torch.float32, settings)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = pad
    return model.to(device).eval()  # type: ignore[arg-type]


def _new_head(adapters: Sequence[AdapterFolder], pad: int) -> dict[str, Any] | None:
    """Return the settings of the head that an adapter brings; None: the model has its own."""
    heads = [(one, set(one.config.get("modules_to_save") or ())) for one in adapters]
    found = next(((one, names) for one, names in reversed(heads) if names), None)
    if found is None:
        return None
    adapter, names = found
    try:
        return described_head(adapter.head, _classes(adapter.folder, names), pad)
    except (ValueError, KeyError, TypeError) as error:
        raise LauncherError(
            f"model.adapters: `{adapter.folder.name}`: `head` in its {MANIFEST} does not fit ({error}); copy it again"
        ) from error


def _classes(folder: Path, heads: set[str]) -> int:
    """Count the rows of a head's last layer."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        names = [name for name in file.keys() if heads & set(name.split(".")) and name.endswith(".weight")]  # noqa: SIM118 - it is no mapping
        shapes = [file.get_slice(name).get_shape() for name in names]
    if not shapes:
        raise LauncherError(f"model.adapters: `{folder.name}` names a head, but holds none; copy it again")
    return int(min(shape[0] for shape in shapes))


def _ask(plan: ExportPlan, model: Any, steps: bool = True) -> tuple[list[PaddedBatch], Answers]:
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    rows = bare.config.get_text_config().vocab_size
    probe = make_probe(load_tokenizer(plan.tokenizer), plan.task, rows, position_count(bare) or _UNBOUNDED)
    probe = probe if steps else [replace(batch, steps=0) for batch in probe]
    return probe, answers(TorchProbed(model, plan.task), probe)


def _check_merged(adapter: AdapterFolder, found: LogitDifference) -> LogitDifference:
    name = adapter.folder.name
    print(f"{name}: merged; logits differ by {found.largest:.2g} at most", flush=True)
    after = f"model.adapters: the model that `{name}` is merged into"
    found.require_numbers(f"model.adapters: the model with `{name}`", after, "copy the adapter again")
    if found.largest > MERGE_TOLERANCE:
        raise LauncherError(
            f"model.adapters: merging `{name}` changes a logit by {found.largest:.2g}, more than "
            f"{MERGE_TOLERANCE:g}; merge it with `kind: merge` and its `tolerance`, and export the result"
        )
    return found
