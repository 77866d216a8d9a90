"""How much of its peak a GPU is expected to reach (MFU), from published benchmarks and one published run."""

from launcher.gpus import peak_flops
from launcher.plan.model_shape import ModelShape

_SMALL = 500_000_000
_LONG = 4096
_STEPS = (0.6, 0.5, 0.45)
"""llm-foundry's benchmark on A100s (scripts/train/benchmarking of github.com/mosaicml/llm-foundry at 061f2c7): 56 to
64 % for 0.8 to 13 B parameters; 50 to 55 % with activation checkpointing; 45 to 52 % below 0.5 B parameters."""
_SELECTIVE = 0.1
"""What is left of the time for recomputing if only cheap operations are: Korthikanti et al.
(https://arxiv.org/abs/2205.05198) save "over 90 %" of it, though by another choice of operations."""
_PER_QUADRUPLE = 0.05
"""Its 7 B model loses about so much each time the sequence gets four times as long."""
_HOPPER = 0.7
"""Its H100s reach 40 to 46 %, of a peak three times as high."""
UNTUNED = 0.75
"""What is left of a benchmark in a real run: BioMed-LLaMA reports about a week for 63 B tokens on 32 A100s, which is
45 % where the benchmark has 60 %."""


def expected_mfu(shape: ModelShape, gpu: str, sequence_length: int, recomputes: str) -> float:
    """Return the share of the peak that a training is expected to reach.

    Args:
        shape: The model.
        gpu: Its name or the site's type for it.
        sequence_length: Tokens of a sequence.
        recomputes: The recipe's `model.activation_checkpointing`.
    """
    plain, recomputed, small = _STEPS
    partly = 1 / (1 / plain + _SELECTIVE * (1 / recomputed - 1 / plain))
    large = {"none": plain, "selective": partly, "full": recomputed}[recomputes]
    reached = small if shape.parameters < _SMALL else large
    length = sequence_length
    while length > _LONG:
        length //= 4
        reached -= _PER_QUADRUPLE
    is_hopper = (peak_flops(gpu, "bf16", True) or 0) > 500e12
    return max(0.1, reached * (_HOPPER if is_hopper else 1.0)) * UNTUNED
