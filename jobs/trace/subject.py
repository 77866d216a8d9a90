"""The model of a training and its micro batches, of the same classes and with the same collators as in `jobs.kinds`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel
from typing_extensions import override

from jobs.data.chat.samples import padding_collator
from jobs.data.labelled.samples import NoteCollator
from jobs.data.sampling.dataset import packed_collator
from jobs.models.adapters.build import adapted
from jobs.models.build import build_causal_lm, weights_dtype
from jobs.models.classifier import build_classifier
from launcher.artifacts.model_config import with_layers
from launcher.artifacts.tokenizer_manifest import Expansion, read_expansion
from launcher.artifacts.trace import TraceRequest
from launcher.recipe import ClassifyRecipe
from launcher.recipe.kinds.training import TrainingRecipe

_ANY_TOKEN = 1
_STEPS = 1000
"""Of the whole training, for schedules of an adapter."""


@dataclass(frozen=True)
class Subject:
    """What is traced."""

    request: TraceRequest
    layers: int
    """Of the model that is built."""
    folder: Path
    """Empty; gets a config.json of that model."""


class WholeSequences(Dataset[dict[str, Any]]):
    """Samples as long as the recipe allows; what is in them does not matter.

    Args:
        length: Tokens of each.
        label: Of a sequence; None: each token has one.
        packs: Whether a sequence holds several documents.
    """

    def __init__(self, length: int, label: torch.Tensor | None, packs: bool = False) -> None:
        self._sample: dict[str, Any] = {"input_ids": torch.full((length,), _ANY_TOKEN), "labels": label}
        if label is None:
            positions = torch.arange(length) % (length // 2) if packs else torch.arange(length)
            self._sample |= {"labels": torch.full((length,), _ANY_TOKEN), "position_ids": positions}

    def __len__(self) -> int:
        return 1 << 30

    @override
    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self._sample)


def samples_of(recipe: TrainingRecipe, classes: int) -> tuple[WholeSequences, Callable[[Any], dict[str, Any]]]:
    """Return samples and the collator that makes a micro batch of them."""
    length = recipe.batch.sequence_length
    if recipe.predicts == "labels":
        labels = cast(ClassifyRecipe, recipe).data.labels
        label = torch.zeros(classes) if labels == "multilabel" else torch.tensor(0)
        return WholeSequences(length, label), NoteCollator(_ANY_TOKEN, length)
    collator = packed_collator if recipe.has_full_rows else padding_collator(_ANY_TOKEN)
    return WholeSequences(length, None, recipe.packs is not None), collator


def build_subject(recipe: TrainingRecipe, subject: Subject) -> PreTrainedModel:
    """Build the model, and its adapter."""
    request, path = subject.request, str(subject.folder)
    write_config(Path(request.model), subject.layers, subject.folder)
    # There is no flash attention on CPUs; torch's own keeps as much for the backward pass.
    attention = "eager" if recipe.model.attention == "eager" else "sdpa"
    section = recipe.model.model_copy(update={"init": "random", "attention": attention})
    dtype, expansion = weights_dtype(recipe), _expansion(request)
    if recipe.predicts == "labels":
        head = {"num_labels": request.classes, "pad_token_id": _ANY_TOKEN}
        return _adapt(build_classifier(section, path, recipe.seed, dtype, head), recipe, "SEQ_CLS", None)
    model = build_causal_lm(section, path, recipe.seed, dtype, expansion)
    return _adapt(model, recipe, "CAUSAL_LM", expansion)


def write_config(model: Path, layers: int, folder: Path) -> None:
    """Write config.json of a model as it would be with another number of layers."""
    config = with_layers(json.loads((model / "config.json").read_text(encoding="utf-8")), layers)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _expansion(request: TraceRequest) -> Expansion | None:
    if request.tokenizer is None:
        return None
    # Rows are added; what they start with would take a look at each of them.
    return read_expansion(Path(request.tokenizer)).model_copy(update={"parts": ()})


def _adapt(model: PreTrainedModel, recipe: TrainingRecipe, task: str, expansion: Expansion | None) -> PreTrainedModel:
    if recipe.adapter is None:
        return model
    return cast(PreTrainedModel, adapted(model, recipe.adapter, recipe.seed, task, _STEPS, expansion))
