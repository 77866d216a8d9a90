"""Not a kind: the tasks of `kind: evaluate` that a training evaluates while it goes on (`during:` in its recipe)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

from jobs.models.build import DTYPES
from jobs.rank.context import Context
from jobs.rank.process_group import RankGroup
from jobs.train.during import EvaluationDuringTraining
from jobs.train.export import load_tokenizer
from jobs.train.run import TrainingRun
from jobs.train.trainer import GuardedTrainer
from launcher.artifacts.scores import TaskScores
from launcher.recipe import CptRecipe, SftRecipe
from launcher.recipe.sections.during import WHOLE, During

if TYPE_CHECKING:
    from jobs.evaluation.batches import Batches, Row
    from jobs.evaluation.report import PreparedTask


def evaluation_during(run: TrainingRun[Any], during: During | None, epoch: Fraction) -> list[EvaluationDuringTraining]:
    """Return what evaluates the tasks of a training; nothing if it has none.

    Args:
        run: The training.
        during: The recipe's section.
        epoch: Samples that it takes to read the data once.
    """
    if during is None:
        return []
    tasks = _Tasks(run.context, run.recipe, during, run.group)
    return [EvaluationDuringTraining(run.recipe.batch.steps(during.interval, epoch), tasks.evaluate)]


@dataclass
class _Tasks:
    """The tasks of a training, read when they are first evaluated."""

    context: Context
    recipe: CptRecipe | SftRecipe
    during: During
    group: RankGroup
    prepared: "list[PreparedTask]" = field(default_factory=list)

    @property
    def seed(self) -> int:
        """Seed of what is drawn."""
        return self.recipe.seed

    @property
    def max_bad_fraction(self) -> float:
        """Share of records that may be unreadable."""
        return self.during.max_bad_fraction

    @property
    def tokens_per_batch(self) -> int:
        """Tokens that a rank computes at once."""
        return self.during.tokens_per_batch

    @property
    def _is_sharded(self) -> bool:
        return self.recipe.parallel.strategy not in WHOLE

    def evaluate(self, trainer: GuardedTrainer, stops: Callable[[], bool]) -> dict[str, float] | None:
        """Score the model as it is now. A collective.

        Args:
            trainer: Trains the model.
            stops: Tells all ranks alike whether to give up.

        Raises:
            LauncherError: the items of a task cannot be used.
        """
        self.prepared = self.prepared or self._prepare(trainer)
        scores: dict[str, float] = {}
        for task in self.prepared:
            task.forget()
            rows = _carry_out(self.group, task.batches, stops, self._is_sharded)
            if rows is None:
                return None
            # A report may compute as well, which all ranks of a sharded model must do together.
            scored = task.report(rows).scores if self.group.is_main or self._is_sharded else None
            found = self.group.from_main(scored)
            assert found is not None
            scores |= _named(task.batches.name, found)
        return scores

    def _prepare(self, trainer: GuardedTrainer) -> "list[PreparedTask]":
        # Here, since they need packages that a training without tasks does not.
        from jobs.evaluation.loaded_model import LoadedModel
        from jobs.evaluation.tasks import prepare_tasks

        tokenizer = load_tokenizer(self.context, self.recipe.model, {})
        dtype = DTYPES[self.recipe.precision.dtype]
        model = LoadedModel(
            trainer.model,
            tokenizer,
            torch.device(trainer.args.device),
            dtype,
            is_sharded=self._is_sharded,
            group=self.group,
        )
        return prepare_tasks(self.context, self, self.during.tasks, model, prefix="during.")


def _carry_out(group: RankGroup, batches: "Batches", stops: Callable[[], bool], in_step: bool) -> "list[Row] | None":
    """Work on all batches, each rank on another at a time; return the rows of all items in order, None at a stop.

    Args:
        group: All ranks.
        batches: The task's.
        stops: Tells all ranks alike whether to give up.
        in_step: Ranks without a batch compute one for nothing, so that all compute equally often.
    """
    rows: list[Row] = []
    for first in range(0, len(batches.members), group.world_size):
        if stops():
            return None
        number = first + group.rank
        if number < len(batches.members):
            rows += batches.work(batches.members[number])
        elif in_step:
            batches.work(batches.members[0])
    return sorted((row for its in group.collect(rows) for row in its), key=lambda row: row["item"])


def _named(task: str, found: TaskScores) -> dict[str, float]:
    return {
        f"{task}/{name}": float("nan") if score.value is None else score.value for name, score in found.scores.items()
    }
