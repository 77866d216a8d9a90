"""What GPUs can compute, and what training costs: for MFU on the nodes and for plans. Standard library only."""

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

_Value = TypeVar("_Value")

PEAK_FLOPS: dict[str, dict[str, float]] = {
    # V100 data sheet (tensor cores), https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf
    "V100 PCIe": {"fp16": 112e12},
    "V100": {"fp16": 125e12},
    # A100 data sheet, https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf
    "A100": {"bf16": 312e12, "fp16": 312e12, "tf32": 156e12},
    # H100 data sheet halves the printed "with sparsity" numbers, https://www.nvidia.com/en-us/data-center/h100/
    "H100 PCIe": {"bf16": 756e12, "fp16": 756e12, "tf32": 378e12},
    "H100 NVL": {"bf16": 835e12, "fp16": 835e12, "tf32": 417e12},
    "H100": {"bf16": 989e12, "fp16": 989e12, "tf32": 494e12},
    # https://www.nvidia.com/en-us/data-center/h200/
    "H200 NVL": {"bf16": 835e12, "fp16": 835e12, "tf32": 417e12},
    "H200": {"bf16": 989e12, "fp16": 989e12, "tf32": 494e12},
}
"""Dense peak of one GPU in FLOP/s, by the words of its name and the format of the products; more words first."""


LINK_BYTES: dict[str, float] = {
    "V100 PCIe": 16e9, "V100": 150e9, "A100 PCIe": 32e9, "A100": 300e9, "H100 PCIe": 64e9, "H100 NVL": 64e9,
    "H100": 450e9, "H200": 450e9,
}  # fmt: skip
"""Bytes a second that a GPU sends to others of its node: half of what the data sheets print for NVLink, which is both
ways together; for PCIe where NVLink joins pairs only. Sources as above."""

MEMORY_BYTES: dict[str, float] = {
    "V100": 900e9, "A100": 2039e9, "H100 PCIe": 2.0e12, "H100 NVL": 3.9e12, "H100": 3.35e12, "H200": 4.8e12
}  # fmt: skip
"""Bytes a second that a GPU reads from its own memory; of an A100 those of the 80 GB, the fastest. Sources as above."""

POWER_WATTS: dict[str, float] = {
    "V100 PCIe": 250, "V100": 300, "A100 PCIe": 300, "A100": 400, "H100 PCIe": 350, "H100 NVL": 400, "H100": 700,
    "H200 NVL": 600, "H200": 700,
}  # fmt: skip
"""The most that a GPU takes, by its data sheet. Sources as above."""

_PART = re.compile(r"(?<![0-9])[1-7]g[. ]\d+gb|(?<![a-z])mig(?![a-z])")
"""In the name of a part of a GPU (MIG), such as `a100_1g.10gb`: what a whole one can do says nothing of it."""


def look_up(table: Mapping[str, _Value], gpu: str) -> _Value | None:
    """Look a GPU up in one of the tables; None if it does not have it, or if it is a part of one.

    Args:
        table: One of those above.
        gpu: Name as CUDA gives it, e.g. `NVIDIA A100-SXM4-80GB`, or a site's type, e.g. `a100` or `h100_nvl`.
    """
    called = re.sub(r"[_\s-]+", " ", gpu.casefold())
    if _PART.search(called):
        return None
    return next((value for name, value in table.items() if _has_words(called, name.casefold().split())), None)


def _has_words(called: str, words: Sequence[str]) -> bool:
    """Tell whether a name has all words: `a100` is in `a100 sxm4` and not in `rtx a1000`, `nvl` not in `nvlink`."""
    model, *variant = words
    return bool(re.search(rf"{model}(?!\d)", called)) and all(
        re.search(rf"{word}(?![a-z])", called) for word in variant
    )


def peak_flops(gpu: str, dtype: str, tf32: bool) -> float | None:
    """Return a GPU's dense peak, or None if the table does not know it.

    Args:
        gpu: Its name or the site's type for it, as for `look_up`.
        dtype: The recipe's `precision.dtype`.
        tf32: The recipe's `precision.tf32`; counts for fp32 only.
    """
    return (look_up(PEAK_FLOPS, gpu) or {}).get("tf32" if dtype == "fp32" and tf32 else dtype)


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
