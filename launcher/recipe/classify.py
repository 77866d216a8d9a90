"""kind: classify - a head on a language model or an encoder learns the labels of notes."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.notes import Labels, Notes
from launcher.recipe.rules import Section
from launcher.recipe.training import TrainingRecipe
from launcher.recipe.units import Length

METRICS: dict[Labels, tuple[str, ...]] = {
    "binary": ("auroc", "auprc", "f1", "micro_f1", "macro_f1", "accuracy", "log_loss"),
    "multiclass": ("auroc", "auprc", "micro_f1", "macro_f1", "accuracy", "log_loss"),
    "multilabel": ("auroc", "auprc", "micro_f1", "macro_f1", "log_loss"),
}
"""Metrics by what a note's label is (jobs/data/labelled/scores.py computes them)."""

LOWER_IS_BETTER = frozenset({"log_loss"})
"""The metrics of which less is better."""


_WITHOUT_IDS = "peft gives the model embeddings for ids, by which a head finds a note's end; write `lora` or `prefix`"
_HEADLESS = {
    "prompt": _WITHOUT_IDS,
    "p_tuning": _WITHOUT_IDS,
    "adaption_prompt": "peft has it for generation only; write `lora` or `prefix`",
}
"""Adapters that cannot be trained with a head, and why."""


class Evaluation(Section):
    """How the model is judged. The outcome is the best checkpoint, not the last."""

    metric: str = "auroc"
    """What the best checkpoint is the best by, on the validation notes: `auroc`, `auprc`, `micro_f1`, `macro_f1`,
    `log_loss`, `accuracy` (not for `multilabel`) or `f1` (`binary` only). Less is better for `log_loss`, more for the
    others."""
    interval: Length = Length("1 epoch")
    """How often, e.g. `1 epoch` or `200 steps`; the last step always."""
    resamples: Annotated[int, Field(ge=0)] = 1000
    """Bootstrap resamples of the final scores' 95 % confidence intervals; 0: none."""

    @property
    def is_lower_better(self) -> bool:
        """Whether less is better."""
        return self.metric in LOWER_IS_BETTER


class ClassifyRecipe(TrainingRecipe):
    """Classification of notes."""

    kind: Literal["classify"]
    """Classification of notes."""
    data: Notes
    """The notes and their labels."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: the loss of a note is multiplied by N / (classes x notes of its class), as scikit-learn's
    `compute_class_weight` does. Not for `multilabel`."""
    evaluation: Evaluation = Evaluation()
    """How the model is judged."""

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        known = METRICS[self.data.labels]
        if self.evaluation.metric not in known:
            names = ", ".join(f"`{name}`" for name in known)
            yield (
                f"evaluation.metric: `{self.evaluation.metric}` is no metric of {self.data.labels} labels; "
                f"write one of {names}"
            )
        for key, length in (
            ("schedule.length", self.schedule.length),
            ("evaluation.interval", self.evaluation.interval),
        ):
            if length.unit == "token":
                yield f"{key}: `{length}` depends on padding; write epochs or steps"
        if self.model.tokenizer:
            yield "model.tokenizer: heads are for models that have their tokens; train them by `cpt` first"
        if self.adapter and self.adapter.method in _HEADLESS:
            yield f"adapter.method: `{self.adapter.method}` does not work here: {_HEADLESS[self.adapter.method]}"
        if self.class_weights == "balanced" and self.data.labels == "multilabel":
            yield "class_weights: `balanced` is for notes with one label each; write `none`"
        if self.data.format == "core" and self.data_use == "open":
            yield "data.format: CORe's tables are MIMIC, under a data use agreement; write `data_use: credentialed`"
