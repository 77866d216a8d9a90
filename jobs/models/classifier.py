"""Heads that classify, on causal language models and encoders, and their loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from jobs.models.build import build
from launcher.recipe.sections.common import Model
from launcher.recipe.sections.labelled_notes import Labels

_PROBLEMS = {
    "binary": "single_label_classification",
    "multiclass": "single_label_classification",
    "multilabel": "multi_label_classification",
}
"""The recipe's words in transformers' own."""


def build_classifier(section: Model, path: str, seed: int, dtype: torch.dtype, head: dict[str, Any]) -> PreTrainedModel:
    """Load a model and put a new head on it.

    An encoder's head sees its first token. A causal model's sees the last one before the padding, the only one that
    has seen the whole note (https://huggingface.co/docs/transformers/model_doc/llama#transformers.LlamaForSequenceClassification).

    Args:
        section: The recipe's section.
        path: Folder of the model, or its Hugging Face id.
        seed: Of the head's initialisation; every rank draws the same.
        dtype: Format of the weights.
        head: What `head_settings` returns.
    """
    model = build(AutoModelForSequenceClassification, section, path, seed, dtype, head)
    if model.config.pad_token_id != head["pad_token_id"]:
        raise RuntimeError(f"{type(model).__name__} takes no padding token from its configuration")
    _let_embeddings_be_sharded_once(model)
    return model


def _let_embeddings_be_sharded_once(model: PreTrainedModel) -> None:
    """Do not shard the module that holds the token embeddings on its own.

    BERT and RoBERTa ask for that; accelerate 1.15 shards the embeddings themselves anyway, and fails the second time.
    """
    table = model.get_input_embeddings()
    holders = {type(module).__name__ for module in model.modules() if any(part is table for part in module.children())}
    model._no_split_modules = [name for name in model._no_split_modules or () if name not in holders]


def head_settings(classes: Sequence[str], labels: Labels, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the settings of a head in a model's configuration."""
    return {
        "num_labels": len(classes),
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
        "problem_type": _PROBLEMS[labels],
        "pad_token_id": tokenizer.pad_token_id,
    }


def describe_head(config: Any) -> dict[str, Any]:
    """Say what the numbers of a head mean, for the manifest of an adapter: peft's files have no place for it.

    Args:
        config: Of the model with the head.
    """
    names = [config.id2label[number] for number in range(config.num_labels)]
    return {"labels": names, "problem_type": config.problem_type}


def described_head(said: Mapping[str, Any], rows: int, pad: int) -> dict[str, Any]:
    """Return the settings of a head that an adapter brings.

    Args:
        said: From `describe_head`; empty if nothing is known but its size.
        rows: Numbers that it computes.
        pad: The padding token.

    Raises:
        ValueError: it has another number of names.
    """
    found: dict[str, Any] = {"num_labels": rows, "pad_token_id": pad}
    if not said:
        return found
    names = [*said["labels"]]
    if len(names) != rows:
        raise ValueError(f"it names {len(names)} classes, its head has {rows}")
    label2id = {name: number for number, name in enumerate(names)}
    return {**found, "id2label": dict(enumerate(names)), "label2id": label2id, "problem_type": said["problem_type"]}


def reward_head(pad: int) -> dict[str, Any]:
    """Return the settings of a head that computes one number, for a model that pads with the token `pad`."""
    return {"num_labels": 1, "id2label": {0: "reward"}, "label2id": {"reward": 0}, "pad_token_id": pad}


def balanced_weights(counts: NDArray[np.int64]) -> Tensor:
    """Weigh each class by N / (classes x its notes), as scikit-learn's `compute_class_weight`; absent ones by 1."""
    present = counts > 0
    weights = np.ones(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return torch.tensor(weights, dtype=torch.float32)


@dataclass(frozen=True)
class ClassificationLoss:
    """Cross entropy of one label, or of each of several labels by itself; for Trainer's `compute_loss_func`.

    The mean is over the global batch, weights or not. torch would divide by the sum of the weights in a micro batch: a
    note would count more next to frequent classes, and the loss would depend on the micro batch.
    """

    labels: Labels
    weights: Tensor | None = None
    """Of each class."""

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
        """Compute the loss of a micro batch, as its part of the mean over the global batch."""
        logits: Tensor = outputs.logits.float()
        if self.labels == "multilabel":
            losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        else:
            losses = functional.cross_entropy(logits, labels, reduction="none")
            if self.weights is not None:
                losses = losses * self.weights.to(logits.device)[labels]
        return losses.sum() / (losses.numel() if num_items_in_batch is None else num_items_in_batch)
