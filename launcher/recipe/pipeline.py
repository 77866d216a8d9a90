"""kind: pipeline - recipes as stages, in the order that their names give."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Direction, FolderName, Positive, Section, nearest_first


class Select(Section):
    """Which point of a sweep is the result of its stage."""

    metric: str
    """What points are compared by: a metric that their kind reports. Of scores that a run leaves, those of the
    validation split count; of several values, the newest."""
    direction: Direction | None = None
    """Which values are better; needed only for metrics that can be either."""
    allow_failed: Annotated[int, Field(ge=0)] = 0
    """How many points may have failed or been stopped. With more, nothing is selected until they are resumed."""


class PipelineStage(Section):
    """One stage."""

    recipe: str | dict[str, Any]
    """A recipe file, relative to this one, or a recipe. Instead of a section you can write the file alone:
    `pretrain: medicalgpt_pt.yaml`."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys of the recipe and their values in this pipeline: `{model.path: merged, optim.lr: 1e-5}`."""
    needs: tuple[FolderName, ...] = ()
    """Stages that must have finished first, although nothing is read of what they make."""
    sweep: dict[str, Any] | None = None
    """Points, in place of those that the recipe's own `sweep` has; see the section `sweep` of recipes."""
    select: Select | None = None
    """The point whose result gets the recipe's `output` as its name, once all points have ended."""


class PipelineRecipe(Section):
    """A pipeline. It has no `resources` of its own: each stage asks for what its recipe says."""

    kind: Literal["pipeline"]
    """A pipeline."""
    name: Annotated[str, Field(min_length=1, max_length=100)]
    """Name of the pipeline; part of its folder's name."""
    description: str = ""
    """A line for people."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys and values for all stages whose kind has such a key: `{tracking.project: medicalgpt}`. What a stage sets
    itself comes after it."""
    stages: Annotated[dict[FolderName, PipelineStage], Field(min_length=1)]
    """The stages by their names. A stage that reads what another makes waits for it."""
    publish: dict[FolderName, FolderName] = Field(default_factory=dict)
    """Results that get a name at the site, below the profile's roots, once they are there: the name, and the stage."""
    max_points: Positive | None = None
    """Carry out only the first so many points of each sweep: `rehearsal: {max_points: 2}`."""
    rehearsal: dict[str, Any] | None = None
    """A partial pipeline laid over this one by `--rehearse`, which also rehearses every stage."""

    @override
    def _conflicts(self) -> Iterator[str]:
        named = [(f"stages.{name}.needs", need) for name, stage in self.stages.items() for need in stage.needs]
        named += [(f"publish.{name}", stage) for name, stage in self.publish.items()]
        for key, stage in named:
            if stage not in self.stages:
                yield f"{key}: there is no stage `{stage}`; write one of {nearest_first(stage, self.stages)}"
        if "/" in self.name or not self.name.strip():
            yield f"name: `{self.name}` cannot name a folder; write a name without `/`"
