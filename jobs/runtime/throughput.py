"""Model FLOPs utilisation: what share of the GPUs' peak goes into the model's own arithmetic."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from jobs.models.parallel import Layout
from launcher.recipe.sections import Batch, Precision

PEAK_FLOPS: dict[str, dict[str, float]] = {
    # V100 data sheet (SXM2, tensor cores), https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf
    "V100": {"fp16": 125e12},
    # A100 data sheet, https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf
    "A100": {"bf16": 312e12, "fp16": 312e12, "tf32": 156e12},
    # H100 data sheet halves the printed "with sparsity" numbers, https://www.nvidia.com/en-us/data-center/h100/
    "H100 PCIe": {"bf16": 756e12, "fp16": 756e12, "tf32": 378e12},
    "H100 NVL": {"bf16": 835e12, "fp16": 835e12, "tf32": 417e12},
    "H100": {"bf16": 989e12, "fp16": 989e12, "tf32": 494e12},
    # https://www.nvidia.com/en-us/data-center/h200/
    "H200": {"bf16": 989e12, "fp16": 989e12, "tf32": 494e12},
}
"""Dense peak of one GPU in FLOP/s, by a part of its name and the format of the products; longer names first."""


def peak_flops(gpu: str, dtype: str, tf32: bool) -> float | None:
    """Return a GPU's dense peak, or None if the table does not know it.

    Args:
        gpu: Name as CUDA gives it, e.g. `NVIDIA A100-SXM4-80GB`.
        dtype: The recipe's `precision.dtype`.
        tf32: The recipe's `precision.tf32`; counts for fp32 only.
    """
    products = "tf32" if dtype == "fp32" and tf32 else dtype
    for name, peaks in PEAK_FLOPS.items():
        if name in gpu:
            return peaks.get(products)
    return None


@dataclass(frozen=True)
class ModelCost:
    """What one token costs in training."""

    parameters: int
    """That take part in matrix products: all but an embedding table that is only looked up."""
    layers: int
    hidden: int
    sequence_length: int

    @property
    def flops_per_token(self) -> float:
        """Forward and backward FLOPs: 6 N + 12 L d s.

        PaLM, appendix B (https://arxiv.org/abs/2204.02311). Recomputed activations do not count, and
        attention counts as if every sequence were one document.
        """
        return 6.0 * self.parameters + 12.0 * self.layers * self.hidden * self.sequence_length

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


def speed_of(model: PreTrainedModel, batch: Batch, precision: Precision, layout: Layout) -> Speed:
    """Read a run's speed constants off its recipe, its devices, and its model before that is sharded."""
    peak = None
    if layout.device.type == "cuda":
        peak = peak_flops(torch.cuda.get_device_name(layout.device), precision.dtype, precision.tf32)
    cost = cost_of(model, batch.sequence_length)
    return Speed(batch.sequences * batch.sequence_length, cost, peak, layout.world_size)


def cost_of(model: PreTrainedModel, sequence_length: int) -> ModelCost:
    """Count what a model computes with."""
    config = model.config.get_text_config()
    total = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in model.parameters())
    looked_up = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return ModelCost(total - looked_up, config.num_hidden_layers, config.hidden_size, sequence_length)
