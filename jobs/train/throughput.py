"""Model FLOPs utilisation: what share of the GPUs' peak goes into the model's own arithmetic."""

from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from jobs.models.embeddings import embedding_layers
from jobs.models.parallel import ParallelLayout
from launcher.gpus import flops_per_token, peak_flops
from launcher.recipe.sections.common import Batch, Precision


@dataclass(frozen=True)
class ModelCost:
    """What one token costs in training."""

    parameters: int
    """That take part in matrix products: all but an embedding table that is only looked up."""
    layers: int
    hidden: int
    """Width of attention: that of all heads."""
    sequence_length: int
    frozen: int = 0
    """Of the parameters, those that are not trained."""

    @property
    def flops_per_token(self) -> float:
        """Forward and backward FLOPs."""
        return flops_per_token(self.parameters, self.layers, self.hidden, self.sequence_length, self.frozen)

    def mfu(self, tokens_per_second: float, peak: float, gpus: int) -> float:
        """Return the utilisation at a rate of tokens over all GPUs."""
        return tokens_per_second * self.flops_per_token / (peak * gpus)


@dataclass(frozen=True)
class Speed:
    """What turns seconds per step into tokens per second and MFU."""

    tokens_per_step: int
    cost: ModelCost
    peak: float | None
    """Of one GPU in FLOP/s; None where no MFU can be told."""
    gpus: int

    def rates(self, seconds: float) -> tuple[float, float | None]:
        """Return tokens per second and MFU of a step that took so long."""
        rate = self.tokens_per_step / seconds
        return rate, None if self.peak is None else self.cost.mfu(rate, self.peak, self.gpus)


def speed_of(model: PreTrainedModel, batch: Batch, precision: Precision, layout: ParallelLayout) -> Speed:
    """Read a run's speed constants off its recipe, its devices, and its model before that is sharded."""
    peak = None
    if layout.device.type == "cuda":
        peak = peak_flops(torch.cuda.get_device_name(layout.device), precision.dtype, precision.tf32)
    cost = cost_of(model, batch.sequence_length)
    return Speed(batch.sequences * batch.sequence_length, cost, peak, layout.world_size)


def cost_of(model: PreTrainedModel, sequence_length: int) -> ModelCost:
    """Count what a model computes with."""
    config = model.config.get_text_config()
    trainable, total = count_parameters(model)
    is_multiplied_with = config.tie_word_embeddings and embedding_layers(model)[1] is not None
    looked_up = 0 if is_multiplied_with else config.vocab_size * config.hidden_size
    frozen = total - trainable - looked_up if trainable < total else 0
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return ModelCost(total - looked_up, config.num_hidden_layers, width, sequence_length, frozen)


def count_parameters(model: PreTrainedModel | PeftModel) -> tuple[int, int]:
    """Return how many parameters are trained and how many there are, as if none were sharded or in 4 bits."""
    if isinstance(model, PeftModel):
        trainable, total = model.get_nb_trainable_parameters()
        return trainable, total
    sizes = [getattr(parameter, "ds_numel", parameter.numel()) for parameter in model.parameters()]
    return sum(sizes), sum(sizes)
