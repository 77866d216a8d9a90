"""Texts for many prompts, by transformers' `generate` on batches that were cut beforehand.

Rows of a batch have prompts of about the same length, padded on the left. What is chosen for one depends on its prompt
and its key alone, up to the rounding of sums in other shapes: in fp32 that changes no text, in 16 bits some
(`docs/generation.md`), and batches never change.
"""

import hashlib
import json
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from jobs.evaluation.batches import cut
from jobs.evaluation.decoding import RowEnds, TokenScores, decoded, first_stop, special_stops
from jobs.evaluation.keyed_noise import item_key
from jobs.evaluation.loaded_model import LoadedModel
from jobs.evaluation.report import digest
from launcher.errors import LauncherError
from launcher.recipe.sections.generation import Decoding

_MOST_ROWS = 256
"""Of a batch: scores of all rows over the whole vocabulary are in memory several times."""


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt as token ids."""

    id: str
    ids: Sequence[int]
    cut_tokens: int = 0
    """Tokens at its start that were left out."""


def requests_digest(requests: Sequence[GenerationRequest]) -> str:
    """Return a checksum of prompts and their ids."""
    checksum = hashlib.sha256()
    for one in requests:
        checksum.update(json.dumps([one.id, len(one.ids)]).encode())
        checksum.update(array("I", one.ids).tobytes())
    return checksum.hexdigest()


@dataclass(frozen=True)
class GeneratedText:
    """What the model wrote."""

    text: str
    ids: tuple[int, ...]
    """Its tokens, with the one that ended it."""
    finish: Literal["stop", "length"]
    """`stop`: the model ended it, or it came to a stop string; `length`: it has as many tokens as it may."""


_Row: TypeAlias = tuple[list[int], int | None]
"""New tokens, and with how many of them a stop string was complete. There may be more tokens behind the end."""


class Generator:
    """Writes texts in batches that are cut beforehand.

    Args:
        model: The model.
        requests: Of all items.
        decoding: How tokens are chosen.
        seed: The recipe's.
        tokens_per_batch: Tokens of prompts and texts at once, with padding.
        end_of_turn: A token that ends a text, besides those that the model and its tokenizer name.
    """

    def __init__(
        self,
        model: LoadedModel,
        requests: Sequence[GenerationRequest],
        decoding: Decoding,
        seed: int,
        tokens_per_batch: int,
        end_of_turn: int | None = None,
    ) -> None:
        self._model = model
        self._requests = requests
        self._decoding = decoding
        self._seed = seed
        self._tokens_per_batch = tokens_per_batch
        self._padding = padding_of(model.tokenizer)
        self._ends = ends_of(model, end_of_turn, decoding.stop)
        self.batches = batches_for(requests, decoding, tokens_per_batch)
        # Prompts of an adapter stand before the text in the cache, and not in the mask.
        self._shrinks = model.body is not None
        self.tokens = 0
        """Tokens that this process has made so far."""
        self.seconds = 0.0
        """How long that took."""

    @property
    def identity(self) -> str:
        """Equal for equal texts: model, prompts, decoding and batches."""
        settings = (self._decoding.model_dump(mode="json"), self._seed, self._tokens_per_batch, sorted(self._ends))
        return digest(self._model.identity, requests_digest(self._requests), *settings)

    @torch.inference_mode()
    def generate(self, numbers: Sequence[int]) -> list[GeneratedText]:
        """Write the texts of a batch.

        Args:
            numbers: Of the requests.

        Raises:
            LauncherError: the model's logits are no numbers.
        """
        started = time.perf_counter()
        rows = self._rows([self._requests[number] for number in numbers])
        texts = [text_of(row, stopped, self._ends, self._decoding.stop, self._model.tokenizer) for row, stopped in rows]
        self.tokens += sum(len(text.ids) for text in texts)
        self.seconds += time.perf_counter() - started
        return texts

    def _rows(self, requests: Sequence[GenerationRequest]) -> list[_Row]:
        """Return the new tokens of each row.

        Whenever half of the rows have ended, the others go on without them, with their part of the cache.
        """
        start = max(len(one.ids) for one in requests)
        keys = [item_key(self._seed, one.id) for one in requests]
        scores = TokenScores(self._decoding, [one.ids for one in requests], keys, start)
        ids = torch.tensor([[self._padding] * (start - len(one.ids)) + [*one.ids] for one in requests])
        mask = torch.tensor([[0] * (start - len(one.ids)) + [1] * len(one.ids) for one in requests])
        ids, mask, cache = ids.to(self._model.device), mask.to(self._model.device), None
        rows: dict[int, _Row] = {}
        alive = [*range(len(requests))]
        while alive:
            ends = RowEnds(self._ends, self._decoding.stop, self._model.tokenizer, start, self._shrinks)
            found = self._generate(ids, mask, cache, scores, ends)
            self._refuse_broken([requests[row] for row in alive], scores)
            ids, cache = found.sequences, found.past_key_values
            written = [(row, ends.stopped.get(place)) for place, row in enumerate(ids[:, start:].tolist())]
            kept = [place for place, one in enumerate(written) if not self._is_over(one)]
            rows |= {row: one for row, one in zip(alive, written, strict=True) if self._is_over(one)}
            if kept and not _can_shrink(cache):
                self._shrinks = False
                return self._rows(requests)
            if kept:
                mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)[kept]
                ids, alive = ids[kept], [alive[place] for place in kept]
                cache.batch_select_indices(torch.tensor(kept, device=ids.device))
                scores.keep(kept)
            else:
                alive = []
        return [rows[row] for row in range(len(requests))]

    def _is_over(self, row: _Row) -> bool:
        tokens, stopped = row
        is_full = len(tokens) >= self._decoding.max_new_tokens
        return is_full or (stopped is not None and stopped <= len(tokens)) or not self._ends.isdisjoint(tokens)

    def _generate(self, ids: Tensor, mask: Tensor, cache: Any, scores: TokenScores, ends: RowEnds) -> Any:
        made = ids.shape[1] - scores.start
        with without_recommendations(self._model.bare):
            return self._model.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=generation_settings(self._decoding.max_new_tokens - made, self._padding),
                logits_processor=LogitsProcessorList([scores]),
                stopping_criteria=StoppingCriteriaList([ends]),
                **({} if cache is None else {"past_key_values": cache}),
            )

    def _refuse_broken(self, requests: Sequence[GenerationRequest], scores: TokenScores) -> None:
        for row in scores.broken_rows():
            raise LauncherError(
                f"model: its logits are not numbers for the prompt `{requests[row].id}`; generate in another "
                "`model.dtype`, or look at how it was trained"
            )

    def close(self) -> None:
        """Do nothing: the model is the caller's."""


def batches_for(
    requests: Sequence[GenerationRequest], decoding: Decoding, tokens_per_batch: int
) -> list[tuple[int, ...]]:
    """Cut requests into batches.

    Args:
        requests: Of all items.
        decoding: Says how many tokens follow each prompt.
        tokens_per_batch: Tokens of prompts and texts at once, with padding.

    Returns:
        Numbers of the requests of each batch.
    """
    lengths = [len(request.ids) + decoding.max_new_tokens for request in requests]
    # A step takes about as long for many rows as for few, so more rows are worth their padding.
    return cut([max(one, tokens_per_batch // _MOST_ROWS) for one in lengths], tokens_per_batch, filled=0)


def text_of(
    row: Sequence[int],
    stopped: int | None,
    ends: frozenset[int],
    stop: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
) -> GeneratedText:
    """Turn new tokens into a text.

    Args:
        row: The tokens; there may be more behind the end.
        stopped: With how many of them a stop string was complete, if one was.
        ends: Tokens that end a text.
        stop: Strings that end one, and do not belong to it.
        tokenizer: The model's.
    """
    end = next((place + 1 for place, token in enumerate(row) if token in ends), None)
    known = [one for one in (end, stopped) if one is not None]
    ids = tuple(row[: min(known)] if known else row)
    text = decoded(tokenizer, ids[:-1] if end == len(ids) else ids)
    place = first_stop(text, stop)
    return GeneratedText(text[:place], ids, "stop" if known or place is not None else "length")


def padding_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return a token to fill rows with; it is masked, so that any will do."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, 0)
    return int(next(token for token in known if token is not None))


def _can_shrink(cache: Any) -> bool:
    """Tell whether rows can be taken out of a cache."""
    return isinstance(cache, DynamicCache) and all(isinstance(layer, DynamicLayer) for layer in cache.layers)


def ends_of(model: LoadedModel, end_of_turn: int | None, stop: Sequence[str] = ()) -> frozenset[int]:
    """Return the tokens that end a text: those that the model's and the tokenizer's files name, and stop strings that
    are special tokens.

    Args:
        model: The model.
        end_of_turn: Another one, if there is one.
        stop: Strings that end a text.

    Raises:
        LauncherError: a stop string holds a special token and more.
    """
    named = model.bare.generation_config.eos_token_id
    ends = [*named] if isinstance(named, Iterable) else [named]
    ends += [model.tokenizer.eos_token_id, end_of_turn, *special_stops(model.tokenizer, stop)]
    return frozenset(end for end in ends if end is not None)


def generation_settings(tokens: int, padding: int) -> GenerationConfig:
    """Return settings for `generate` that are greedy in transformers' eyes: `TokenScores` has added what makes the
    largest score a draw.

    Args:
        tokens: New tokens at most.
        padding: Token to fill rows with.
    """
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=padding,
        return_dict_in_generate=True,
    )


@contextmanager
def without_recommendations(model: Any) -> Iterator[None]:
    """Let a model forget how its publisher recommends to generate.

    transformers takes from `generation_config.json` whatever a caller leaves open: penalties, bans, forced tokens.
    """
    recommended = model.generation_config
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = recommended
