"""What an export is tried on: padded batches of different lengths, and steps of generation with a cache.

A graph that was traced from texts of one length has no input for padding, and runs without an error on a padded batch,
with logits that are off by 7 (measured on the shipped model). So every batch here but one is padded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from jobs.export.inputs import Task
from jobs.models.merge.logit_check import TEXTS, LogitDifference, compare
from jobs.rank.stop_flag import STOP
from jobs.rank.watchdog import WATCHDOG

STEPS = 32
"""Tokens that are generated one by one, each from the cache of those before it."""
LENGTHS = (64, 41, 17, 29)
"""Tokens of each text that are used."""
_TIE = 1e-3
"""Rewards nearer to each other, as a share of the largest one, are of no order."""
_RARE = 16
"""The last tokens of a vocabulary, where those of adapters are, are tried as well."""


@dataclass(frozen=True)
class PaddedBatch:
    """Texts of different lengths as one batch."""

    ids: Tensor
    """[texts, tokens]"""
    mask: Tensor
    """1 for a token, 0 for padding; as `ids`."""
    steps: int = 0
    """Tokens to generate after it; with padding on the left."""

    @property
    def positions(self) -> Tensor:
        """Of each token in its text; of padding 0."""
        return (self.mask.cumsum(-1) - 1).clamp(min=0)

    def followed_by(self, tokens: Tensor) -> "PaddedBatch":
        """The batch with one more token for each text."""
        return PaddedBatch(torch.cat([self.ids, tokens], 1), torch.cat([self.mask, torch.ones_like(tokens)], 1))


ProbedModel: TypeAlias = Callable[[PaddedBatch, int, Any], tuple[Tensor, Any]]
"""Computes the logits of a batch's last N tokens, [texts, N, vocabulary] or of a classifier [texts, classes], and a
cache; takes the cache of the tokens before them, or None."""


@dataclass(frozen=True)
class Answers:
    """What a model says about all batches."""

    logits: list[Tensor]
    """Of tokens that are no padding, [n, vocabulary], or of texts, [n, classes]; in fp32."""
    continuations: list[Tensor]
    """Tokens that were generated after each batch, [texts, steps]."""


def make_probe(tokenizer: PreTrainedTokenizerBase, task: Task, rows: int, positions: int) -> list[PaddedBatch]:
    """Encode the texts.

    Args:
        tokenizer: The model's.
        task: A classifier's texts are padded on the right, as in training.
        rows: Size of its vocabulary.
        positions: How long a sequence may be.
    """
    steps = STEPS if task == "language model" else 0
    longest = positions - steps
    texts = [tokenizer(text)["input_ids"][: min(length, longest)] for text, length in zip(TEXTS, LENGTHS, strict=True)]
    used = min(len(tokenizer), rows)
    rare = [*range(max(0, used - _RARE), used)][:longest]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    on_the_right = [_padded([*texts, rare], pad, left=False), _padded(texts[1::2], pad, left=False)]
    if task == "classifier":
        return [*on_the_right, *(_padded([text], pad, left=False) for text in texts)]
    return [_padded([*texts, rare], pad, True, steps), *on_the_right, _padded(texts[:1], pad, True, steps)]


def _padded(texts: Sequence[Sequence[int]], pad: int, left: bool, steps: int = 0) -> PaddedBatch:
    width = max(map(len, texts))
    room = [[pad] * (width - len(text)) for text in texts]
    ids = [[*space, *text] if left else [*text, *space] for text, space in zip(texts, room, strict=True)]
    no = [[0] * len(space) for space in room]
    mask = [[*out, *[1] * len(text)] if left else [*[1] * len(text), *out] for text, out in zip(texts, no, strict=True)]
    return PaddedBatch(torch.tensor(ids), torch.tensor(mask), steps)


@torch.inference_mode()
def answers(model: ProbedModel, probe: Sequence[PaddedBatch], said: Answers | None = None) -> Answers:
    """Have a model answer.

    Args:
        model: The model, or what was made of it.
        probe: From `make_probe`.
        said: Answers of the original, whose continuations are read; None: the most probable tokens are generated.
    """
    found = Answers([], [])
    for place, batch in enumerate(probe):
        STOP.raise_if_requested()
        WATCHDOG.heartbeat()
        logits, cache = model(batch, batch.ids.shape[1], None)
        found.logits.append(_of_tokens(logits, batch))
        tokens = [logits[:, -1:].argmax(-1)] if batch.steps else []
        longer = batch
        for step in range(batch.steps):
            longer = longer.followed_by(said.continuations[place][:, step : step + 1] if said else tokens[-1])
            logits, cache = model(longer, 1, cache)
            found.logits.append(logits[:, -1].float().cpu())
            tokens.append(logits[:, -1:].argmax(-1))
        found.continuations.append(torch.cat(tokens, 1) if tokens else torch.empty(0))
    return found


def _of_tokens(logits: Tensor, batch: PaddedBatch) -> Tensor:
    kept = logits[batch.mask.bool()] if logits.dim() == 3 else logits
    return kept.float().cpu()


def difference(original: Answers, made: Answers) -> LogitDifference:
    """Compare an export with the original; `same_choice` of a reward is the share of pairs in the same order."""
    found = compare(original.logits, made.logits)
    if original.logits[0].shape[-1] > 1:
        return found
    one, other = (torch.cat(all_of).flatten() for all_of in (original.logits, made.logits))
    pairs = torch.combinations(torch.arange(len(one)))
    before, after = (rewards[pairs].diff().flatten() for rewards in (one, other))
    is_decided = before.abs() > _TIE * found.largest_logit  # a text occurs in several batches
    is_kept = (before.sign() == after.sign())[is_decided]
    return LogitDifference(found.largest, found.largest_logit, float(is_kept.double().mean()) if len(is_kept) else 1.0)


class TorchProbed:
    """A model of transformers, or peft's around it, as `ProbedModel`.

    Args:
        model: The model.
        task: What it computes.
    """

    def __init__(self, model: Any, task: Task) -> None:
        self.model, self.task = model, task
        self.device = next(model.parameters()).device

    def __call__(self, batch: PaddedBatch, last: int, cache: Any) -> tuple[Tensor, Any]:
        """Compute logits; see `ProbedModel`."""
        ids, mask, positions = (one.to(self.device) for one in (batch.ids, batch.mask, batch.positions))
        if self.task == "classifier":
            return self.model(input_ids=ids, attention_mask=mask).logits.cpu(), None
        given = {"input_ids": ids[:, -last:], "attention_mask": mask, "position_ids": positions[:, -last:]}
        said = self.model(**given, past_key_values=cache, use_cache=True)
        return said.logits.cpu(), said.past_key_values
