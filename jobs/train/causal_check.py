"""Proof that a model predicts each token from those before it, and that its own loss is the one of that prediction.

transformers loads encoders (BERT, RoBERTa) as language models, too: each of their tokens sees those after it, so that
training teaches them to copy. Decoders of BART's family see no later token, but their loss compares each token with
itself, and is a mean whatever the number of tokens of a step is. Neither fails: the loss is small and the export looks
well. So the model is tested with a few tokens.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from jobs.models.labels import IGNORED
from jobs.train.isolation_check import ROUNDING
from launcher.errors import RunError

_LENGTH = 8
_FEW = 4
"""The fewer tokens a token sees, the more each of them changes."""
_MOST_OFF = 1 / 8
"""A loss may be off by so much of what one wrong label changes: losses and logits are rounded on different ways."""


def require_causality(model: nn.Module, vocabulary: int, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a model whose tokens see later ones. A collective, as forward passes of sharded models are.

    Args:
        model: A prepared language model.
        vocabulary: Number of its tokens.
        device: Where its inputs lie.
        dtype: The format that it computes in.

    Raises:
        RunError: they do.
    """
    tokens = _tokens(vocabulary, device)[:, :_FEW]
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + vocabulary // 2) % vocabulary
    with _left_as_it_was(model, device):
        one, other = (model(input_ids=ids).logits[0, :-1].float() for ids in (tokens, changed))
    if (one - other).abs().max() > ROUNDING * torch.finfo(dtype).eps * one.abs().max():
        raise RunError(
            "model.path: this is no causal language model: its tokens see those after them, so it would learn to copy; "
            "train an encoder with `kind: classify`, or name a causal language model"
        )


def require_next_token_loss(model: nn.Module, vocabulary: int, device: torch.device) -> None:
    """Refuse a model whose own loss is not that of the next tokens, divided by the number that it is told.

    Only differences of losses count: what a model adds to all of them alike is its own affair. A collective, too.

    Args:
        model: A prepared causal language model.
        vocabulary: Number of its tokens.
        device: Where its inputs lie.

    Raises:
        RunError: it is another.
    """
    tokens, count = _tokens(vocabulary, device), torch.tensor(2 * _LENGTH, device=device)
    with _left_as_it_was(model, device):
        logits = model(input_ids=tokens).logits[0].float()
        highest, lowest = logits[-_LENGTH:].max(-1), logits[-_LENGTH:].min(-1)
        likely, unlikely = _shifted(highest.indices), _shifted(lowest.indices)
        sets = (likely, torch.cat((unlikely[:1], likely[1:])), unlikely)  # nothing predicts the first token
        losses = torch.stack([_loss(model, tokens, labels, count) for labels in sets])
    expected = torch.stack([_summed_loss(logits, labels) for labels in sets]) / count
    off = (losses - losses[0]) - (expected - expected[0])
    if off.abs().max() > _MOST_OFF * (highest.values - lowest.values).mean() / count:
        raise RunError(
            "model.path: the loss that this model computes is not that of the next tokens over all tokens of a step, "
            "so it would learn something else; name another causal language model"
        )


def _tokens(vocabulary: int, device: torch.device) -> Tensor:
    return torch.arange(_LENGTH, device=device)[None] * vocabulary // _LENGTH


def _shifted(chosen: Tensor) -> Tensor:
    """Return for each position what the one before it has chosen; for the first, its own."""
    return torch.cat((chosen[:1], chosen[:-1]))


def _loss(model: nn.Module, tokens: Tensor, labels: Tensor, count: Tensor) -> Tensor:
    loss: Tensor = model(input_ids=tokens, labels=labels[None], num_items_in_batch=count).loss
    return loss.float()


def _summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum the losses of next tokens; prompt adapters put tokens before the text."""
    wanted = functional.pad(labels, (len(logits) - len(labels), 0), value=IGNORED)
    return functional.cross_entropy(logits[:-1], wanted[1:], ignore_index=IGNORED, reduction="sum")


@contextmanager
def _left_as_it_was(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Leave the model in the mode that it was in, and draw random numbers afterwards as if nothing had happened."""
    was_training, of_python = model.training, random.getstate()
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    random.setstate(of_python)
    model.train(was_training)


def next_token_loss(output: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """Compute the loss of models that cannot be told the number of tokens of a step; for Trainer's `compute_loss_func`.

    Args:
        output: Of the model, with its logits.
        labels: `IGNORED` where nothing is to be predicted.
        num_items_in_batch: What the sum is divided by; the number of labels if left out.
    """
    predicted, wanted = output.logits[:, -labels.shape[1] :][:, :-1], labels[:, 1:]
    losses = functional.cross_entropy(predicted.float().transpose(1, 2), wanted, ignore_index=IGNORED, reduction="sum")
    return losses / ((wanted != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)
