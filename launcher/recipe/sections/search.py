"""Searches: one recipe carried out again and again, with values of some keys that are chosen while it goes on."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag
from typing_extensions import override

from launcher.recipe.base import Direction, Positive, Section, nearest_first
from launcher.recipe.sections.common import Tracking
from launcher.recipe.sections.sweep import DrawnKey, Seed, Values

OPEN = "*"
"""Ends what stands for all names of metrics that begin so."""


SearchedKey: TypeAlias = Annotated[
    Annotated[Values, Tag("list")] | Annotated[DrawnKey, Tag("range")],
    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "range"),
]
"""Values to choose from, or two numbers to choose between."""


def _refuse_other_path(path: str) -> str:
    if not re.fullmatch(r"[^/\s]+/[^/\s]+/[^/\s]+", path):
        raise ValueError(f"`{path}` is no sweep of W&B; write `ENTITY/PROJECT/ID`, as `wandb sweep` prints it")
    return path


class HalvingPruner(Section):
    """Successive halving without waiting (ASHA, Li et al. 2018, https://arxiv.org/abs/1810.05934).

    At the first evaluation from `min_step` on, and from `factor` times as many steps on, and so on, a trial goes on
    only if it is among the best 1/`factor` of those that have come so far.
    """

    min_step: Positive
    """Step of the first decision."""
    factor: Annotated[int, Field(ge=2)] = 3
    """One of so many trials goes on at each decision; the steps between two decisions grow by it."""


class Search(Section):
    """Values of keys, tried one after another; which ones come next depends on what came of those before."""

    method: Literal["tpe", "random", "grid", "wandb"] = "tpe"
    """`tpe`: near what has worked (Bergstra et al. 2011), as Optuna does it. `random`: drawn from `space`. `grid`: each
    combination of the values once. `wandb`: those that a sweep of W&B gives."""
    space: dict[str, SearchedKey] = Field(default_factory=dict)
    """What is tried for each key: `[4, 8, 16]`, or `{low: 1e-6, high: 1e-3, scale: log}`. Not for `wandb`."""
    sweep: Annotated[str, AfterValidator(_refuse_other_path)] | None = Field(None, exclude_if=lambda path: path is None)
    """`ENTITY/PROJECT/ID` of the sweep at W&B, for `wandb`; its parameters are keys of the recipe, as `optim.lr`."""
    trials: Positive
    """How many combinations are tried altogether. Write more later to go on."""
    parallel: Positive = 1
    """How many are tried at once: elements of the array."""
    metric: str
    """What they are compared by: a metric that the kind reports; of several values the newest."""
    direction: Direction | None = None
    """Which values are better; needed only for metrics that can be either."""
    seed: Seed = 0
    """Seed of what is drawn."""
    pruner: HalvingPruner | None = None
    """Ends trials early that others have left behind; none if left out."""

    @property
    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """The values of keys that have a list of them."""
        return {key: found for key, one in self.space.items() if (found := _choices(one))}

    @property
    def budget(self) -> int:
        """How many trials there can be."""
        return min(self.trials, self.grid_size) if self.method == "grid" else self.trials

    @property
    def grid_size(self) -> int:
        """Combinations of the values of all keys."""
        return math.prod(map(len, self.choices.values()))

    def grid_point(self, number: int) -> dict[str, Any]:
        """The combination of a number; the first key varies slowest."""
        found = next(itertools.islice(itertools.product(*self.choices.values()), number, None))
        return dict(zip(self.choices, found, strict=True))

    def metric_fault(self, reported: Mapping[str, Direction | None]) -> str | None:
        """Say what is wrong with `metric` and `direction`; None if nothing is.

        Args:
            reported: The metrics that the recipe reports; the direction is None where it may be either.
        """
        return metric_fault(self.metric, self.direction, reported)

    @property
    def package(self) -> str | None:
        """What the nodes import to choose values, beyond the launcher itself."""
        if self.method == "wandb":
            return "wandb"
        return "optuna" if self.method == "tpe" or self.pruner else None

    def tracking_faults(self, tracking: Tracking | None) -> Iterator[str]:
        """Say why the runs of a recipe cannot be those that a sweep of W&B gives: `KEY: what is wrong; what to write`.

        Args:
            tracking: The recipe's section; None for kinds that are not tracked.
        """
        if self.sweep is None:
            return
        if tracking is None:
            yield "search.method: runs of this kind are not tracked at W&B; write another method"
            return
        entity, project, _ = self.sweep.split("/")
        wanted = {"mode": "online", "project": project, "entity": entity}
        for key, value in wanted.items():
            if getattr(tracking, key) != value:
                yield f"tracking.{key}: trials are runs of the sweep `{self.sweep}`; write `{value}`"

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from self._conflicts_of_method()
        drawn = [key for key in self.space if key not in self.choices]
        if self.method == "grid" and drawn:
            yield f"space: `grid` needs a list for `{drawn[0]}`; write one, or `method: random`"
        elif self.method == "grid" and self.space and self.trials > self.grid_size:
            yield f"trials: `grid` has {self.grid_size} combinations; write at most {self.grid_size}"
        if self.parallel > self.trials:
            yield f"parallel: {self.parallel} are more than `trials`; write at most {self.trials}"

    def _conflicts_of_method(self) -> Iterator[str]:
        if self.method != "wandb":
            if self.sweep is not None:
                yield f"sweep: `{self.method}` chooses values itself; write `method: wandb`, or remove this key"
            if not self.space:
                yield f"space: `{self.method}` needs the values of at least one key; write them"
            return
        if self.sweep is None:
            yield "sweep: `wandb` needs the sweep that gives the values; write `ENTITY/PROJECT/ID`"
        if self.space:
            yield "space: the sweep at W&B has the space; remove this key"
        if self.pruner:
            yield "pruner: is not for `wandb`, whose runs no other method ends; remove this key"


def metric_fault(metric: str, direction: Direction | None, reported: Mapping[str, Direction | None]) -> str | None:
    """Say what is wrong with the metric that runs are compared by; None if nothing is.

    Args:
        metric: Its name.
        direction: Which values are said to be better.
        reported: The metrics that the recipe reports; the direction is None where it may be either.
    """
    if not reported:
        return "metric: this kind of recipe reports no metric; name another recipe"
    known = find_metric(metric, reported)
    if known is None:
        return f"metric: `{metric}` is not reported by this recipe; write one of {nearest_first(metric, reported)}"
    right = reported[known]
    if direction is None and right is None:
        return f"direction: is not known for `{metric}`; write `minimize` or `maximize`"
    if right and direction not in (None, right):
        better = "lower" if right == "minimize" else "higher"
        return f"direction: `{metric}` is the better the {better}; write `{right}`, or leave it out"
    return None


def find_metric(name: str, reported: Mapping[str, Direction | None]) -> str | None:
    """Find what a metric's name is among those that a recipe reports; None if it is not."""
    if name in reported:
        return name
    return next((one for one in reported if one.endswith(OPEN) and name.startswith(one[:-1])), None)


def _choices(one: tuple[Any, ...] | DrawnKey) -> tuple[Any, ...] | None:
    return one.of if isinstance(one, DrawnKey) else one
