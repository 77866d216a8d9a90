"""Choosing the tokens of texts, a row of a batch for each, without what else is in the batch making a difference."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from jobs.evaluation.keyed_noise import gumbel
from jobs.rank.watchdog import WATCHDOG
from launcher.errors import LauncherError
from launcher.recipe.sections.generation import Decoding

_SPARE_TOKENS = 8
"""Tokens before a stop string whose text may change how its first one is read."""


class TokenScores(LogitsProcessor):
    """Turns logits into scores, the largest of which is the token's to be chosen.

    transformers' penalty on repetitions also counts the padding in front of a prompt, so that it would depend on the
    batch; this one knows the prompts.

    Args:
        decoding: How tokens are chosen.
        prompts: Token ids of each row's prompt.
        keys: Of the noise of each row.
        start: Place where the texts begin: the length of the padded prompts.
    """

    def __init__(self, decoding: Decoding, prompts: Sequence[Sequence[int]], keys: Sequence[int], start: int) -> None:
        self._decoding = decoding
        self._prompts = prompts
        self._keys = keys
        self.start = start
        self._seen: Tensor | None = None
        self._broken: Tensor | None = None
        self._warpers = LogitsProcessorList()
        if not decoding.is_greedy:
            self._warpers.append(TemperatureLogitsWarper(decoding.temperature))
            if decoding.top_k:
                self._warpers.append(TopKLogitsWarper(decoding.top_k))
            if decoding.top_p < 1:
                self._warpers.append(TopPLogitsWarper(decoding.top_p))

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return scores, [rows, vocabulary]."""
        broken = ~scores.amax(-1).isfinite()
        self._broken = broken if self._broken is None else self._broken | broken
        if self._decoding.repetition_penalty != 1:
            scores = self._penalised(input_ids, scores)
        if self._decoding.is_greedy:
            return scores
        position = input_ids.shape[1] - self.start
        return self._warpers(input_ids, scores) + gumbel(self._keys, position, scores.shape[1], scores.device)

    def broken_rows(self) -> list[int]:
        """Return the rows for which some logits were no numbers."""
        return [] if self._broken is None else self._broken.nonzero()[:, 0].tolist()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some rows only."""
        self._keys = [self._keys[row] for row in rows]
        self._broken = None
        if self._seen is not None:
            self._seen = self._seen[list(rows)]

    def _penalised(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._seen is None:
            self._seen = torch.zeros_like(scores, dtype=torch.bool)
            for row, prompt in enumerate(self._prompts):
                self._seen[row, torch.tensor([*{*prompt}], device=scores.device)] = True
        else:
            self._seen.scatter_(1, input_ids[:, -1:], True)
        penalty = self._decoding.repetition_penalty
        return torch.where(self._seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


class RowEnds(StoppingCriteria):
    """Ends rows at some tokens and strings, and interrupts `generate` once half of the rows have ended.

    The others then go on without them. transformers' own criterion for strings also finds those that begin in the
    prompt.

    Args:
        tokens: That end a text.
        stop: Strings that end one.
        tokenizer: The model's.
        start: Place where the texts begin.
        interrupts: Whether to interrupt before all have ended.
    """

    def __init__(
        self,
        tokens: frozenset[int],
        stop: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        start: int,
        interrupts: bool,
    ) -> None:
        self._tokens = torch.tensor(sorted(tokens), dtype=torch.long)
        self._stop = stop
        self._tokenizer = tokenizer
        self._start = start
        self._interrupts = interrupts
        self._window = max((len(one.encode()) for one in stop), default=0) + _SPARE_TOKENS
        self._ended: Tensor | None = None
        self.stopped: dict[int, int] = {}
        """For rows that ended at a string: the number of tokens with which it was complete."""

    def __call__(self, input_ids: Any, *_: Any, **__: Any) -> Any:
        """Tell for each row whether it is over."""
        WATCHDOG.heartbeat()
        self._tokens = self._tokens.to(input_ids.device)
        ended = torch.isin(input_ids[:, -1], self._tokens)
        if self._stop:
            for row, ids in enumerate(input_ids[:, self._start :].tolist()):
                if row not in self.stopped and self._is_in(ids[-self._window :]) and self._is_in(ids):
                    self.stopped[row] = len(ids)
            ended[[*self.stopped]] = True
        self._ended = ended if self._ended is None else self._ended | ended
        if self._interrupts and 2 * int(self._ended.sum()) >= len(ended):
            return torch.ones_like(ended)
        return self._ended

    def _is_in(self, ids: Sequence[int]) -> bool:
        text = decoded(self._tokenizer, ids)
        return any(one in text for one in self._stop)


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of token ids, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Return where the first of some strings begins in a text."""
    found = [place for one in stop if (place := text.find(one)) >= 0]
    return min(found, default=None)


def special_stops(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> Iterator[int]:
    """Give the tokens that stop strings are. Texts are decoded without special tokens, so no string finds one there.

    Args:
        tokenizer: The model's.
        stop: Strings that end a text.

    Raises:
        LauncherError: one holds a special token and more.
    """
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    special |= {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    for one in stop:
        if one in special:
            yield special[one]
        elif held := [token for token in special if token in one]:
            raise LauncherError(
                f"decoding.stop: `{one}` holds the special token `{max(held, key=len)}`, and texts are compared "
                "without special tokens; write the token alone as a stop string, or a string without it"
            )
