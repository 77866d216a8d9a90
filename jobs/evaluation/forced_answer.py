"""The second pass of MedCare's evaluation: after the free text and some words, which option is most likely?

MedCare (https://github.com/BlueZeros/MedCare) generates one token there, with 100 added to the logits of the letters:
that is the most likely letter.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from jobs.evaluation.encode import OptionRequest, PairEncoder
from jobs.evaluation.generator import GenerationRequest
from jobs.evaluation.loaded_model import LoadedModel
from jobs.evaluation.option_scorer import OptionScorer, takes_masks
from launcher.errors import LauncherError


@dataclass(frozen=True)
class ForcedScores:
    """What the second pass says of an item."""

    likelihoods: list[float]
    """Log-likelihood of each option."""
    cut_tokens: int
    """Tokens at the start of the prompt that did not fit into the model's positions any more."""


class ForcedAnswer:
    """Scores options after what was written. All ranks make one together.

    Args:
        model: The model.
        words: What leads to the answer, after the text.
        tokens_per_batch: Tokens computed at once.
        key: Of the task in the recipe, for messages.
    """

    def __init__(self, model: LoadedModel, words: str, tokens_per_batch: int, key: str) -> None:
        self._model = model
        self._words = words
        self._tokens_per_batch = tokens_per_batch
        self._encoder = PairEncoder(model.tokenizer, model.max_length)
        self._key = key
        self.is_shared = takes_masks(model)
        """Whether options share a row with their prompt."""

    def room(self, options: Iterable[str]) -> int:
        """Return how many tokens the words and the longest of all options take, about."""
        longest = max(len(self._model.tokenizer.encode(self._words + option)) for option in options)
        return longest + 1

    def score(
        self, prompts: Sequence[GenerationRequest], texts: Sequence[str], options: Sequence[Sequence[str]]
    ) -> list[ForcedScores]:
        """Score the options of each item.

        Args:
            prompts: Of the items.
            texts: What was written after each.
            options: Of each item.

        Raises:
            LauncherError: the options of an item cannot be scored.
        """
        requests = [self._request(number, *its) for number, its in enumerate(zip(prompts, texts, options, strict=True))]
        scorer = OptionScorer(self._model, requests, self._tokens_per_batch, self.is_shared)
        found: dict[int, list[float]] = {}
        for batch in scorer.batches:
            found |= dict(zip(batch, scorer.score(batch), strict=True))
        return [ForcedScores(found[number], request.cut_tokens) for number, request in enumerate(requests)]

    def _request(self, number: int, prompt: GenerationRequest, text: str, options: Sequence[str]) -> OptionRequest:
        """Put the prompt, as it was encoded, before the text, the words and each option."""
        try:
            after = self._encoder.encode(number, text + self._words, options)
        except ValueError as error:
            raise LauncherError(f"{self._key}.files: question `{prompt.id}`: {error}; correct or remove it") from None
        starts_anew = after.context[:1] == (self._model.tokenizer.bos_token_id,)
        context = (*prompt.ids, *after.context[1 if starts_anew else 0 :])
        room = self._model.max_length + 1 - max(map(len, after.options))
        cut = after.cut_tokens + max(0, len(context) - room)
        return replace(after, context=context[-room:], cut_tokens=cut)
