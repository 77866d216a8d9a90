"""kind: classify - a head on a language model or an encoder learns the labels of notes."""

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Direction, Input, Section, nearest_first
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.recipe.quantities import Length
from launcher.recipe.sections.adapter import head_limit
from launcher.recipe.sections.labelled_notes import Labels, Notes

METRICS: dict[Labels, tuple[str, ...]] = {
    "binary": ("auroc", "auprc", "f1", "micro_f1", "macro_f1", "accuracy", "log_loss"),
    "multiclass": ("auroc", "auprc", "micro_f1", "macro_f1", "accuracy", "log_loss"),
    "multilabel": ("auroc", "auprc", "micro_f1", "macro_f1", "log_loss"),
}
"""Metrics for each kind of label (jobs/scoring/classification.py computes them)."""

LOWER_IS_BETTER = frozenset({"log_loss"})
"""Metrics that are better the lower they are."""


class Evaluation(Section):
    """How the model is evaluated. The result is the best checkpoint, not the last one."""

    metric: str = "auroc"
    """Metric of the validation notes by which the best checkpoint is chosen: `auroc`, `auprc`, `micro_f1`, `macro_f1`,
    `log_loss` (the lower, the better), `accuracy` (not for `multilabel`) or `f1` (`binary` only)."""
    interval: Length = Length("1 epoch")
    """How often, e.g. `1 epoch` or `200 steps`; always after the last step."""
    resamples: Annotated[int, Field(ge=0)] = 1000
    """Bootstrap resamples of the final scores' 95 % confidence intervals; 0: none."""

    @property
    def is_lower_better(self) -> bool:
        """Whether less is better."""
        return self.metric in LOWER_IS_BETTER


class ClassifyRecipe(TrainingRecipe):
    """Classification of notes."""

    extras: ClassVar[tuple[str, ...]] = ("data", "train", "eval")
    reads_text: ClassVar[bool] = True
    predicts: ClassVar[Literal["tokens", "labels"]] = "labels"
    is_traceable: ClassVar[bool] = True

    kind: Literal["classify"]
    """Classification of notes."""
    data: Notes
    """The notes and their labels."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: the loss of a note is multiplied by N / (classes x notes of its class), as scikit-learn's
    `compute_class_weight` does. Not for `multilabel`."""
    evaluation: Evaluation = Evaluation()
    """How the model is evaluated."""

    @override
    def inputs(self) -> Iterator[Input]:
        yield from super().inputs()
        yield from self.data.inputs()

    @property
    @override
    def classes(self) -> int | None:
        return len(self.data.classes) or None

    @property
    @override
    def reports(self) -> Mapping[str, Direction | None]:
        names = METRICS[self.data.labels]
        scores: Mapping[str, Direction] = {
            name: "minimize" if name in LOWER_IS_BETTER else "maximize" for name in names
        }
        return {**super().reports, **scores}

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        known = METRICS[self.data.labels]
        if self.evaluation.metric not in known:
            names = nearest_first(self.evaluation.metric, known)
            yield (
                f"evaluation.metric: `{self.evaluation.metric}` is not a metric of {self.data.labels} labels; "
                f"write one of {names}"
            )
        for key, length in (
            ("schedule.length", self.schedule.length),
            ("evaluation.interval", self.evaluation.interval),
        ):
            if length.unit == "token":
                yield f"{key}: `{length}` depends on padding; write epochs or steps"
        if self.model.tokenizer:
            yield "model.tokenizer: `classify` adds no tokens to a model; train it with them by `cpt` first"
        if self.adapter and (reason := head_limit(self.adapter)):
            yield f"adapter.method: `{self.adapter.method}` does not work here: {reason}"
        if self.class_weights == "balanced" and self.data.labels == "multilabel":
            yield "class_weights: `balanced` needs notes with one label each; write `none`"
        if self.data.format == "core" and self.data_use == "open":
            yield "data.format: CORe's tables are MIMIC, under a data use agreement; write `data_use: credentialed`"
