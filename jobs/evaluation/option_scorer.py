"""Log-likelihoods of options after a prompt, each token of a prompt computed once.

What all prompts of a task begin with (few-shot examples) is computed once for all of them and kept as a cache. The rest
of a prompt stands once in its row, followed by all options: a mask lets each option see the prompt and itself, and
positions count on from the prompt's end for each. Logits are computed only where a token of an option is predicted. The
Language Model Evaluation Harness has a row for each option.

A model that cannot take such a mask (flash attention, ALiBi, a sliding window, recurrent layers, prompts of an adapter)
is found out by a probe, and then has a row for each option, too. Rank 0 probes for all ranks: batches depend on the
outcome.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from jobs.evaluation.batches import cut
from jobs.evaluation.encode import Ids, OptionRequest
from jobs.evaluation.loaded_model import LoadedModel
from jobs.rank.watchdog import WATCHDOG
from launcher.errors import LauncherError

_SHORTEST_HEADER = 16
"""A shorter beginning is not worth a cache."""
_LOGITS_AT_A_TIME = 1 << 25
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}
_ROUNDING_16_BITS = 0.3
"""By how much the log-likelihoods of the probe may differ because sums are rounded otherwise."""
_PART_OF_LEAK = 0.5
"""They must also differ by less than this part of what they would if options saw one another, which is little for a
model that finds all tokens almost equally likely."""


@dataclass(frozen=True)
class _Row:
    """One request in a batch."""

    request: OptionRequest
    ids: list[int]
    positions: list[int]
    segments: list[int]
    """0 for the prompt, then the number of the option, from 1."""
    predicted: list[tuple[int, int, int]]
    """Place whose hidden state predicts, token that comes next, number of the option from 0."""


class OptionScorer:
    """Scores requests in batches that were cut beforehand.

    Args:
        model: The model.
        requests: Of all items of a task.
        tokens_per_batch: Tokens computed at once, with padding.
        shared: Whether options share a row with their prompt; None: if the model can do that. Then all ranks make the
            first scorer of a model together.
    """

    def __init__(
        self, model: LoadedModel, requests: Sequence[OptionRequest], tokens_per_batch: int, shared: bool | None = None
    ) -> None:
        self._model = model
        self._requests = requests
        longest = max((len(one.context) + max(map(len, one.options)) for one in requests), default=0)
        # A mask of our own takes the place of the model's, sliding window included.
        self.is_shared = takes_masks(model) and longest <= model.window if shared is None else shared
        """Whether options share a row with their prompt."""
        self._header_length = _common(requests) if self.is_shared else 0
        lengths = [request.length - self._header_length for request in requests]
        if not self.is_shared:
            lengths = [
                len(request.options) * (len(request.context) + max(map(len, request.options)) - 1)
                for request in requests
            ]
        self.batches = cut(lengths, tokens_per_batch)

    def score(self, numbers: Sequence[int]) -> list[list[float]]:
        """Return the log-likelihood of each option of each request of a batch.

        Args:
            numbers: Of the requests.

        Raises:
            LauncherError: the model's logits are no numbers.
        """
        WATCHDOG.heartbeat()
        requests = [self._requests[number] for number in numbers]
        # What FSDP2 gathers in inference mode cannot be used in the backward pass of the next step.
        with torch.no_grad() if self._model.is_sharded else torch.inference_mode():
            scores = self.shared(requests) if self.is_shared else self.one_by_one(requests)
        for request, found in zip(requests, scores, strict=True):
            if any(map(math.isnan, found)):
                raise LauncherError(
                    f"model: its logits are not numbers for item {request.item} of the task; evaluate in another "
                    "`model.dtype`, or look at how it was trained"
                )
        return scores

    @cached_property
    def _header(self) -> DynamicCache | None:
        """Keys and values of what all prompts begin with."""
        if not self._header_length:
            return None
        cache = DynamicCache(config=self._model.model.config)
        ids = torch.tensor([self._requests[0].context[: self._header_length]], device=self._model.device)
        self._model.body(input_ids=ids, past_key_values=cache, use_cache=True)
        return cache

    def forget(self) -> None:
        """Drop what was computed with weights that have changed since."""
        self.__dict__.pop("_header", None)

    def shared(self, requests: Sequence[OptionRequest]) -> list[list[float]]:
        """Score requests with a row for each, which holds the prompt once and all options."""
        return self.score_rows([_lay_out(request, self._header_length) for request in requests])

    def score_rows(self, rows: Sequence[_Row]) -> list[list[float]]:
        """Score requests that are laid out."""
        hidden = self._hidden(rows)
        places = [(number, place) for number, row in enumerate(rows) for place, _, _ in row.predicted]
        index = torch.tensor(places, device=self._model.device).T
        tokens = [token for row in rows for _, token, _ in row.predicted]
        values = iter(self._log_probabilities(hidden[index[0], index[1]], tokens))
        return [_sums(row, values) for row in rows]

    def _hidden(self, rows: Sequence[_Row]) -> Tensor:
        """Return the last hidden states, [rows, length, size]."""
        device, length = self._model.device, max(len(row.ids) for row in rows)
        ids, positions, segments = (
            torch.tensor([_padded(getattr(row, name), length, fill) for row in rows], device=device)
            for name, fill in (("ids", 0), ("positions", 0), ("segments", -1))
        )
        # A token sees the header, the prompt before it, and its own option before it. Padding sees itself.
        own = (segments[:, None, :] == segments[:, :, None]) | (segments[:, None, :] == 0)
        mask = own & torch.ones(length, length, dtype=torch.bool, device=device).tril()
        mask |= torch.eye(length, dtype=torch.bool, device=device)
        more: dict[str, Any] = {"use_cache": False}
        if self._header is not None:
            cache = _for_rows(self._header, len(rows))
            mask = torch.cat([mask.new_ones(len(rows), length, self._header_length), mask], -1)
            more = {"use_cache": True, "past_key_values": cache}
        mask = self._as_attention_takes_it(mask[:, None])
        found = self._model.body(input_ids=ids, position_ids=positions, attention_mask=mask, **more)
        hidden: Tensor = found.last_hidden_state
        return hidden

    def _as_attention_takes_it(self, mask: Tensor) -> Tensor:
        """Return a mask in the form that the model's attention wants: eager attention adds it to its scores."""
        if getattr(self._model.bare.config, "_attn_implementation", None) != "eager":
            return mask
        least = torch.finfo(self._model.dtype).min
        return torch.zeros(mask.shape, dtype=self._model.dtype, device=mask.device).masked_fill(~mask, least)

    def _log_probabilities(self, hidden: Tensor, tokens: Sequence[int]) -> list[float]:
        """Return the log-probability of each token after its hidden state, some rows of logits at a time."""
        at_a_time = max(1, _LOGITS_AT_A_TIME // self._model.rows)
        values: list[float] = []
        for start in range(0, len(tokens), at_a_time):
            logits = self._model.head(hidden[start : start + at_a_time])
            logits = logits.double() if logits.dtype == torch.float64 else logits.float()
            wanted = torch.tensor(tokens[start : start + at_a_time], device=logits.device)
            values += torch.log_softmax(logits, -1).gather(1, wanted[:, None])[:, 0].tolist()
        return values

    def one_by_one(self, requests: Sequence[OptionRequest]) -> list[list[float]]:
        """Score requests with a row for each option."""
        pairs = [(request.context, option) for request in requests for option in request.options]
        texts = [[*context, *option[:-1]] for context, option in pairs]
        length = max(map(len, texts))
        device = self._model.device
        ids = torch.tensor([_padded(text, length, 0) for text in texts], device=device)
        mask = torch.tensor([_padded([1] * len(text), length, 0) for text in texts], device=device)
        logits = self._model.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits = logits[:, -length:]  # without what the prompts of an adapter put before the text
        values = []
        for row, (context, option) in zip(logits, pairs, strict=True):
            predicting = row[len(context) - 1 : len(context) + len(option) - 1]
            predicting = predicting if predicting.dtype == torch.float64 else predicting.float()
            wanted = torch.tensor(option, device=device)
            values.append(float(torch.log_softmax(predicting, -1).gather(1, wanted[:, None]).sum()))
        found = iter(values)
        return [[next(found) for _ in request.options] for request in requests]


def _for_rows(header: DynamicCache, rows: int) -> DynamicCache:
    """Return a cache in which each of some rows begins with the header; its keys and values are not copied."""
    cache = copy.copy(header)
    layers: list[Any] = [copy.copy(layer) for layer in header.layers]
    cache.layers = layers
    for layer in layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    return cache


def takes_masks(model: LoadedModel) -> bool:
    """Tell whether a model computes a prompt with options behind it as it computes each text by itself.

    All ranks call this together the first time: rank 0's answer is that of all, or they would cut other batches.
    """
    if "takes_masks" not in model.probed:
        is_main = model.group is None or model.group.is_main
        takes = is_main and model.body is not None and _gives_the_same(model)
        model.probed["takes_masks"] = takes = takes if model.group is None else model.group.from_main(takes)
        if is_main and not takes and not model.is_sharded:
            print("model: cannot share a prompt among its options; each option gets a row of its own", flush=True)
    return model.probed["takes_masks"]


def _gives_the_same(model: LoadedModel) -> bool:
    size = model.rows
    context = tuple(number * 7 % size for number in range(3, 12))
    options = tuple(tuple((start + number) * 5 % size for number in range(3)) for start in (2, 11, 23, 31))
    request = OptionRequest(0, context, options)
    scorer = OptionScorer(model, [request], 1, shared=True)
    try:
        with torch.inference_mode():
            shared, apart = scorer.shared([request])[0], scorer.one_by_one([request])[0]
            row = _lay_out(request, 0)
            leaking = scorer.score_rows([replace(row, segments=[0] * len(row.ids))])[0]
    except torch.OutOfMemoryError:
        raise  # a RuntimeError, which says nothing about masks
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False
    leak = max(abs(one - other) for one, other in zip(leaking, apart, strict=True))
    limit = min(_ROUNDING.get(model.dtype, _ROUNDING_16_BITS), _PART_OF_LEAK * leak)
    return all(abs(one - other) <= limit for one, other in zip(shared, apart, strict=True))


def _common(requests: Sequence[OptionRequest]) -> int:
    """Number of tokens that all prompts begin with; the last token of a prompt is never one of them."""
    first: Ids = requests[0].context
    length = min(len(request.context) for request in requests) - 1
    for request in requests:
        length = next((i for i in range(length) if request.context[i] != first[i]), length)
    return length if length >= _SHORTEST_HEADER and len(requests) > 1 else 0


def _lay_out(request: OptionRequest, header: int) -> _Row:
    context = request.context[header:]
    ids, end = list(context), len(request.context)
    positions, segments = list(range(header, end)), [0] * len(context)
    predicted: list[tuple[int, int, int]] = []
    for number, option in enumerate(request.options):
        start = len(ids)
        places = [len(context) - 1, *range(start, start + len(option) - 1)]
        predicted += [(place, token, number) for place, token in zip(places, option, strict=True)]
        ids += option[:-1]
        positions += range(end, end + len(option) - 1)
        segments += [number + 1] * (len(option) - 1)
    return _Row(request, ids, positions, segments, predicted)


def _sums(row: _Row, values: Iterator[float]) -> list[float]:
    sums = [0.0] * len(row.request.options)
    for _, _, option in row.predicted:
        sums[option] += next(values)
    return sums


def _padded(values: list[int], length: int, fill: int) -> list[int]:
    return values + [fill] * (length - len(values))
