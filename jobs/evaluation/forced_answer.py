"""The second pass of MedCare's evaluation: after the free text and some words, which option is most likely?

MedCare (https://github.com/BlueZeros/MedCare) generates one token there, with 100 added to the logits of the letters:
that is the most likely letter.
"""

from collections.abc import Sequence
from dataclasses import replace

from jobs.evaluation.encode import OptionRequest, PairEncoder
from jobs.evaluation.generator import GenerationRequest
from jobs.evaluation.loaded_model import LoadedModel
from jobs.evaluation.option_scorer import OptionScorer, takes_masks


class ForcedAnswer:
    """Scores options after what was written.

    Args:
        model: The model.
        words: What leads to the answer, after the text.
        tokens_per_batch: Tokens computed at once.
    """

    def __init__(self, model: LoadedModel, words: str, tokens_per_batch: int) -> None:
        self._model = model
        self._words = words
        self._tokens_per_batch = tokens_per_batch
        self._encoder = PairEncoder(model.tokenizer, model.max_length)
        self._is_shared: bool | None = None

    def room(self, options: Sequence[str]) -> int:
        """Return how many tokens the words and the longest option take, about."""
        longest = max(len(self._model.tokenizer.encode(self._words + option)) for option in options)
        return longest + 1

    def score(
        self, prompts: Sequence[GenerationRequest], texts: Sequence[str], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Return the log-likelihood of each option of each item.

        Args:
            prompts: Of the items.
            texts: What was written after each.
            options: Of each item.
        """
        if self._is_shared is None:
            self._is_shared = takes_masks(self._model)
        requests = [self._request(number, *its) for number, its in enumerate(zip(prompts, texts, options, strict=True))]
        scorer = OptionScorer(self._model, requests, self._tokens_per_batch, self._is_shared)
        found: dict[int, list[float]] = {}
        for batch in scorer.batches:
            found |= dict(zip(batch, scorer.score(batch), strict=True))
        return [found[number] for number in range(len(requests))]

    def _request(self, number: int, prompt: GenerationRequest, text: str, options: Sequence[str]) -> OptionRequest:
        """Put the prompt, as it was encoded, before the text, the words and each option."""
        after = self._encoder.encode(number, text + self._words, options)
        starts_anew = after.context[:1] == (self._model.tokenizer.bos_token_id,)
        context = (*prompt.ids, *after.context[1 if starts_anew else 0 :])
        room = self._model.max_length + 1 - max(map(len, after.options))
        return replace(after, context=context[-room:])
