"""What GPUs can compute, and what training costs: for MFU on the nodes and for plans. Standard library only."""

from collections.abc import Mapping

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


LINK_BYTES: dict[str, float] = {"V100": 150e9, "A100": 300e9, "H100 PCIe": 64e9, "H100": 450e9, "H200": 450e9}
"""Bytes a second that a GPU sends to others of its node: half of what the data sheets print for NVLink, which is both
ways together. Sources as above."""

POWER_WATTS: dict[str, float] = {
    "V100": 300, "A100": 400, "H100 PCIe": 350, "H100 NVL": 400, "H100": 700, "H200": 700
}  # fmt: skip
"""The most that a GPU takes, by its data sheet. Sources as above."""


def look_up(table: Mapping[str, float], gpu: str) -> float | None:
    """Look a GPU up in one of the tables; None if it does not have it."""
    return next((value for name, value in table.items() if name.casefold() in gpu.casefold()), None)


def peak_flops(gpu: str, dtype: str, tf32: bool) -> float | None:
    """Return a GPU's dense peak, or None if the table does not know it.

    Args:
        gpu: Name as CUDA gives it, e.g. `NVIDIA A100-SXM4-80GB`, or a site's type, e.g. `a100`.
        dtype: The recipe's `precision.dtype`.
        tf32: The recipe's `precision.tf32`; counts for fp32 only.
    """
    products = "tf32" if dtype == "fp32" and tf32 else dtype
    return next((by.get(products) for name, by in PEAK_FLOPS.items() if name.casefold() in gpu.casefold()), None)


def flops_per_token(parameters: int, layers: int, hidden: int, sequence_length: int, frozen: int = 0) -> float:
    """Return the FLOPs of forward and backward for one token: 6 N + 12 L d s, less 2 for each frozen parameter.

    PaLM, appendix B (https://arxiv.org/abs/2204.02311). Recomputed activations do not count, and attention counts as if
    every sequence were one document. Of the three products with a weight, a frozen one needs no gradient of its own.

    Args:
        parameters: Those that take part in matrix products: all but an embedding table that is only looked up.
        layers: Decoder layers.
        hidden: Width of attention: that of all heads.
        sequence_length: Tokens of a sequence.
        frozen: How many of the parameters are not trained.
    """
    return 6.0 * parameters - 2.0 * frozen + 12.0 * layers * hidden * sequence_length
