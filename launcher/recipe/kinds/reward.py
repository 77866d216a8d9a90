"""kind: reward - a head on a language model learns which of two answers people prefer."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from typing_extensions import override

from launcher.recipe.base import Scale, nearest_first
from launcher.recipe.kinds.preference import PairEvaluation, PreferenceRecipe
from launcher.recipe.quantities import Length
from launcher.recipe.sections.adapter import head_limit
from launcher.recipe.sections.task_metrics import PAIRS

PAIR_METRICS = {name: way == "minimize" for name, way in PAIRS.items()}
"""Scores of held-out pairs, and whether less is better."""


class RewardEvaluation(PairEvaluation):
    """How the model is evaluated. The result is the best checkpoint, not the last one."""

    metric: str = "accuracy"
    """Score of the held-out pairs by which the best checkpoint is chosen: `accuracy`, `margin`, `log_loss` or
    `calibration_error` (the last two: lower is better)."""

    @property
    def is_lower_better(self) -> bool:
        """Whether less is better."""
        return PAIR_METRICS[self.metric]


class RewardRecipe(PreferenceRecipe):
    """Training of a reward model."""

    predicts: ClassVar[Literal["tokens", "labels"]] = "labels"

    kind: Literal["reward"]
    """Training of a reward model."""
    center: Scale | None = None
    """Weight of the squared sum of a pair's rewards, which keeps rewards around 0 (Eisenstein et al. 2023,
    https://arxiv.org/abs/2312.09244); usually 0.01. If left out, only differences of rewards have a meaning."""
    evaluation: RewardEvaluation = RewardEvaluation()
    """How the model is evaluated."""

    @property
    @override
    def classes(self) -> int | None:
        return 1

    @property
    @override
    def evaluation_interval(self) -> Length:
        return self.evaluation.interval

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        if self.evaluation.metric not in PAIR_METRICS:
            names = nearest_first(self.evaluation.metric, PAIR_METRICS)
            yield f"evaluation.metric: `{self.evaluation.metric}` is not a score of pairs; write one of {names}"
        if self.data.is_unpaired:
            yield "data.sources: `reward` compares two answers; write sources of pairs, or `kind: dpo` with `loss: kto`"
        if not self.data.validation:
            yield "data.validation: held-out pairs choose the best checkpoint, and there are none; write e.g. `0.1`"
        if self.adapter and (reason := head_limit(self.adapter)):
            yield f"adapter.method: `{self.adapter.method}` does not work here: {reason}"
