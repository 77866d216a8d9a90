"""kind: evaluate - scores of a model on tasks, with standard errors."""

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Direction, Fraction, Input, Positive
from launcher.recipe.kinds.recipe_base import RecipeBase
from launcher.recipe.sections.chat import ChatSetup
from launcher.recipe.sections.common import Tracking
from launcher.recipe.sections.during import task_conflicts
from launcher.recipe.sections.evaluated_model import EvaluatedModel
from launcher.recipe.sections.generation_task import AnyTask
from launcher.recipe.sections.task_metrics import task_metrics


class EvaluateRecipe(RecipeBase):
    """Evaluation of a model."""

    extras: ClassVar[tuple[str, ...]] = ("data", "train", "eval")
    reads_text: ClassVar[bool] = True
    progress: ClassVar[Literal["items"]] = "items"
    trains: ClassVar[Literal[False]] = False
    is_tracked: ClassVar[Literal[True]] = True
    array: ClassVar[str | None] = "array_size"

    incidental: ClassVar[frozenset[str]] = RecipeBase.incidental | {"array_size", "tokens_per_batch", "tracking"}

    kind: Literal["evaluate"]
    """Evaluation of a model."""
    model: EvaluatedModel | None = None
    """The model. Leave it out if no task needs one (`classification`)."""
    tasks: Annotated[tuple[AnyTask, ...], Field(min_length=1)]
    """What is measured."""
    missing_files: Literal["refuse", "leave_out"] = "refuse"
    """What happens to a task whose files are missing. A task that is left out is named in the log and in
    scores.json."""
    tokens_per_batch: Positive = 8192
    """Tokens that a rank computes at once, with padding. Write less if a GPU runs out of memory."""
    max_bad_fraction: Fraction = 0.0
    """Unreadable records are counted and left out up to this share of all records; above it the run fails. Scores of an
    incomplete set cannot be compared with published ones."""
    array_size: Positive = 1
    """Array elements that share the items, each with these `resources`. One more job computes the scores."""
    tracking: Tracking = Tracking()
    """Weights & Biases."""

    @override
    def inputs(self) -> Iterator[Input]:
        if self.model:
            yield from self.model.inputs(is_causal=not self.rewards)
        for place, task in enumerate(self.tasks if self.missing_files == "refuse" else ()):
            yield from task.inputs(f"tasks.{place}")

    @override
    def optional_inputs(self) -> Iterator[Input]:
        for place, task in enumerate(self.tasks if self.missing_files == "leave_out" else ()):
            yield from task.inputs(f"tasks.{place}")

    @property
    @override
    def reads_corpora_with(self) -> str | None:
        return (self.model.tokenizer or self.model.path) if self.model else None

    @property
    @override
    def reports(self) -> Mapping[str, Direction | None]:
        return task_metrics(self.tasks, ".")

    @property
    @override
    def chat(self) -> ChatSetup | None:
        return None if self.model is None or self.rewards else ChatSetup(model=self.model, makes_model=False)

    @override
    def required_extras(self) -> tuple[str, ...]:
        return (*self.extras, *(("quantization",) if self.model and self.model.quantization else ()))

    @property
    def rewards(self) -> bool:
        """Whether the model is a reward model, not a language model."""
        return any(task.type == "reward" for task in self.tasks)

    @override
    def _conflicts(self) -> Iterator[str]:
        needing = [place for place, task in enumerate(self.tasks) if task.needs_model]
        if needing and self.model is None:
            yield f"model: is missing, and tasks.{needing[0]} needs one; name it"
        if self.model and not needing:
            yield "model: no task uses it; leave it out"
        if others := [place for place in needing if self.rewards and self.tasks[place].type != "reward"]:
            yield (
                f"tasks.{others[0]}.type: `{self.tasks[others[0]].type}` needs a language model, and another task a "
                "reward model; write two recipes"
            )
        yield from task_conflicts(self.tasks, self.data_use)
