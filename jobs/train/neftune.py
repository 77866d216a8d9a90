"""NEFTune: uniform noise on the embeddings while training (Jain et al. 2023, https://arxiv.org/abs/2310.05914).

    embedding + alpha / sqrt(L d) * uniform(-1, 1)

L is the number of tokens of an example, d the width (section 2). transformers' own takes all tokens of a row for L:
where examples share a row, each would get less noise the more others there are, and where rows are padded the less the
longer another one is.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override


class EmbeddingNoise(TrainerCallback):
    """Adds the noise from the beginning of a training on."""

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._lengths: Tensor

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Hook into the model, which is whole by now."""
        self.disturb(others["model"])

    def disturb(self, model: PreTrainedModel) -> None:
        """Add noise to the embeddings of a model, adapted or not, whenever it is trained."""
        model.register_forward_pre_hook(self._measure, with_kwargs=True)
        model.get_input_embeddings().register_forward_hook(self._add)

    def _measure(self, model: nn.Module, _: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        if model.training:
            self._lengths = example_lengths(inputs["position_ids"], inputs["labels"])

    def _add(self, table: nn.Module, _: tuple[Tensor, ...], embeddings: Tensor) -> Tensor:
        if not table.training:
            return embeddings
        bound = self._alpha / torch.sqrt(self._lengths * embeddings.shape[-1])
        noise = torch.empty_like(embeddings).uniform_(-1, 1)
        return embeddings + noise * bound[..., None].to(noise.dtype)


def example_lengths(positions: Tensor, labels: Tensor) -> Tensor:
    """Return for each token how many its example has, up to the last answer of the row: what follows is padding.

    Args:
        positions: (rows, tokens), starting from 0 with each example.
        labels: Less than 0 where no answer stands.
    """
    example = (positions == 0).cumsum(1)
    is_text = (labels >= 0).flip(1).cumsum(1).flip(1) > 0
    sizes = torch.zeros_like(positions).scatter_add(1, example - 1, is_text.to(positions.dtype))
    return sizes.gather(1, example - 1)
