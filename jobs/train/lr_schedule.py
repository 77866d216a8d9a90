"""The learning rate as a pure function of the step."""

import math

from launcher.recipe.sections.common import Schedule


def lr_factor(step: int, schedule: Schedule, total: int) -> float:
    """Return the learning rate, as a fraction of the peak, of the step after `step` finished ones.

    Warmup is linear from 0. After it `cosine` and `linear` fall to the floor at the last step,
    `truncated_cosine` is on its way to 0 and is cut off where it meets the floor, `constant` stays,
    and `wsd` (warmup-stable-decay, https://arxiv.org/abs/2404.06395) stays until its linear decay.

    Args:
        step: Optimizer steps done.
        schedule: The recipe's section.
        total: Optimizer steps of the whole training.
    """
    warmup = schedule.warmup.steps(total)
    if step < warmup:
        return step / warmup
    if schedule.shape == "constant":
        return 1.0
    start = max(warmup, total - schedule.decay.steps(total)) if schedule.shape == "wsd" else warmup
    progress = min(1.0, max(0, step - start) / max(1, total - start))
    if schedule.shape == "truncated_cosine":
        return _truncated_cosine(progress, schedule.floor)
    height = (1 + math.cos(math.pi * progress)) / 2 if schedule.shape == "cosine" else 1 - progress
    return schedule.floor + (1 - schedule.floor) * height


def _truncated_cosine(progress: float, floor: float) -> float:
    """Follow (1 + cos) / 2 as far as it takes to come down to the floor.

    transformers' `get_cosine_schedule_with_warmup` does the same with num_cycles = arccos(2 floor - 1) / 2 pi;
    a floor of 0.1 gives the 0.39758361765 of BioMed-LLaMA (https://github.com/Coldog2333/BioMed-LLaMA).
    """
    return (1 + math.cos(progress * math.acos(2 * floor - 1))) / 2
