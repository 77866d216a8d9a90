"""Loss and perplexity of held-out text, by token and by byte, over all corpora and for each of several."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import EvalPrediction


@dataclass(frozen=True)
class Perplexity:
    """Computes the scores of an evaluation from the losses of its sequences; for Trainer's `compute_metrics`.

    The perplexity by byte does not depend on the tokenizer, so it can be compared between models of different ones.
    """

    names: Sequence[str]
    """Of the corpora."""
    sources: Sequence[int]
    """Number of the corpus that each sequence is from."""
    sizes: Sequence[float]
    """Bytes of text in the sequences of each corpus."""

    def __call__(self, evaluation: EvalPrediction) -> dict[str, float]:
        """Score an evaluation."""
        rows = np.asarray(evaluation.predictions, np.float64)
        scores = _scores(rows, sum(self.sizes))
        for number, (name, size) in enumerate(zip(self.names, self.sizes, strict=True)):
            if len(self.names) > 1:
                own = _scores(rows[np.equal(self.sources, number)], size)
                scores |= {f"{key}/{name}": value for key, value in own.items()}
        return scores


def _scores(rows: NDArray[np.float64], size: float) -> dict[str, float]:
    losses, tokens = rows.sum(0)
    with np.errstate(all="ignore"):  # nothing to predict, or a model that diverged: written as null
        by_token, by_byte = losses / np.float64(tokens), losses / np.float64(size)
        perplexities = {"token_perplexity": float(np.exp(by_token)), "byte_perplexity": float(np.exp(by_byte))}
    return {"validation_loss": float(by_token), **perplexities}
