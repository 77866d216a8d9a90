"""Log-probabilities of tokens in windows of text, a few rows of logits at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jobs.evaluation.loaded_model import LoadedModel
from jobs.rank.watchdog import WATCHDOG

_LOGITS_AT_A_TIME = 1 << 25
"""128 MiB in fp32."""
_PROBED = 8


class TokenScorer:
    """Computes the log-probability of each token after a text.

    Args:
        model: The model.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._has_plain_head = has_plain_head(model)

    @torch.no_grad()
    def score(self, texts: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score texts together.

        Args:
            texts: Token ids that are read, of each text.
            predicted: Token ids that are predicted, of each text: after its last tokens, one place each.

        Returns:
            The natural logarithms of their probabilities.
        """
        WATCHDOG.heartbeat()
        length, device = max(map(len, texts)), self._model.device
        ids = torch.tensor([[*text, *[0] * (length - len(text))] for text in texts], device=device)
        # Padding is on the right, where no token of the text sees it.
        mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts], device=device)
        hidden = self._hidden(ids, mask, length)
        rows = [
            hidden[number, len(text) - len(tokens) : len(text)]
            for number, (text, tokens) in enumerate(zip(texts, predicted, strict=True))
        ]
        values = iter(self._log_probabilities(torch.cat(rows), [token for tokens in predicted for token in tokens]))
        return [[next(values) for _ in tokens] for tokens in predicted]

    def _hidden(self, ids: Tensor, mask: Tensor, length: int) -> Tensor:
        """Return last hidden states, or logits if the model's head is not a plain one: [rows, length, size]."""
        if self._has_plain_head:
            hidden: Tensor = self._model.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            return hidden
        logits: Tensor = self._model.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits[:, -length:]  # without what the prompts of an adapter put before the text

    def _log_probabilities(self, states: Tensor, tokens: Sequence[int]) -> list[float]:
        at_a_time = max(1, _LOGITS_AT_A_TIME // self._model.rows)
        values: list[float] = []
        for start in range(0, len(tokens), at_a_time):
            part = states[start : start + at_a_time]
            logits = self._model.head(part) if self._has_plain_head else part
            logits = logits if logits.dtype == torch.float64 else logits.float()
            wanted = torch.tensor(tokens[start : start + at_a_time], device=logits.device)
            values += torch.log_softmax(logits, -1).gather(1, wanted[:, None])[:, 0].tolist()
        return values


@torch.no_grad()
def has_plain_head(model: LoadedModel) -> bool:
    """Tell whether a model's logits are its output embedding times the last hidden states, and nothing more.

    Some scale or cap them; of an adapter with prompts the hidden states are not those of the text.
    """
    if model.body is None:
        return False
    ids = torch.tensor([[number * 7 % model.rows for number in range(1, _PROBED)]], device=model.device)
    try:
        hidden: Any = model.body(input_ids=ids, use_cache=False).last_hidden_state
        ours = model.head(hidden)
    except torch.OutOfMemoryError:
        raise  # a RuntimeError, which says nothing about the head
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False
    whole: Tensor = model.model(input_ids=ids, use_cache=False).logits
    limit = 1e-4 if whole.dtype in (torch.float32, torch.float64) else 0.05
    return bool(torch.allclose(ours.float(), whole.float(), rtol=limit, atol=limit, equal_nan=True))
