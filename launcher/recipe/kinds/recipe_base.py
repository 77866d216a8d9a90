"""What every recipe has, and what the rest of the program asks of its kind."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from launcher.recipe.base import Artifact, ConflictError, Direction, Input, Section, VariableName
from launcher.recipe.sections.common import Limits, Resources
from launcher.recipe.sections.search import Search
from launcher.recipe.sections.sweep import Sweep

if TYPE_CHECKING:
    from launcher.recipe.sections.chat import ChatSetup

EngineName: TypeAlias = Literal["vllm"]
"""Programs that work for a recipe in a Python of their own, which the cluster profile names."""


class RecipeBase(Section):
    """What every recipe has."""

    extras: ClassVar[tuple[str, ...]]
    """Extras of setup.cfg that every recipe of this kind needs on the nodes."""
    reads_text: ClassVar[bool]
    """Whether text is read, which messages of errors may quote; not for token ids and weights."""
    progress: ClassVar[Literal["steps", "files", "items"]]
    """What the work is counted in."""
    trains: ClassVar[bool]
    """Whether it is a `TrainingRecipe`."""
    is_tracked: ClassVar[bool]
    """Whether runs are tracked at W&B, as the section `tracking` says."""
    array: ClassVar[str | None] = None
    """The key that says over how many array elements the work is spread; None: one run does all of it."""

    incidental: ClassVar[frozenset[str]] = frozenset(
        {"name", "description", "resources", "limits", "secrets", "rehearsal"}
    )

    name: Annotated[str, Field(min_length=1, max_length=100)]
    """Name of the run; part of its folder's name."""
    description: str = ""
    """A line for people."""
    data_use: Literal["open", "credentialed"] = "open"
    """`credentialed` (MIMIC): run directories are 0700, nothing leaves the site."""
    resources: Resources
    """What it needs."""
    limits: Limits = Limits()
    """When to give up."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of data order, initialisation and dropout."""
    secrets: tuple[VariableName, ...] = ()
    """Names (never values) of environment variables the run needs, e.g. `WANDB_API_KEY`."""
    sweep: Annotated[Sweep | None, Field(exclude=True)] = None
    """Values of keys, each of which is a run of its own; no part of the recipe that a run freezes."""
    search: Annotated[Search | None, Field(exclude=True)] = None
    """Values of keys that are chosen while the search goes on; no part of the recipe that a run freezes."""
    rehearsal: dict[str, Any] | None = None
    """A partial recipe laid over this one by `--rehearse`: small, quick, same strategy."""

    def inputs(self) -> Iterator[Input]:
        """Give everything that has to exist before the recipe can be carried out."""
        raise NotImplementedError

    def optional_inputs(self) -> Iterator[Input]:
        """Give what the recipe reads if it is there."""
        return iter(())

    @property
    def makes(self) -> Artifact | None:
        """What other recipes can use by its name once this one has been carried out."""
        return None

    @property
    def reports(self) -> Mapping[str, Direction | None]:
        """Metrics that `launcher status` can compare runs of this recipe by, and which values are better.

        A name that ends in `*` stands for all that begin so; None: the recipe does not tell the direction.
        """
        return {}

    @property
    def foreign_engine(self) -> EngineName | None:
        """The engine whose Python the profile must name; None: the launcher's own does all of the work."""
        return None

    @property
    def published_at(self) -> str | None:
        """The public repository on the Hugging Face Hub where everybody will find what it makes; None: nowhere."""
        return None

    @property
    def reads_corpora_with(self) -> str | None:
        """The tokenizer, as the recipe names it, whose ids the corpora that it reads must hold; None: any."""
        return None

    @property
    def may_quote_text(self) -> bool:
        """Whether messages of errors may quote text that this recipe has read."""
        return self.reads_text

    @property
    def shares(self) -> int:
        """Array elements that the work is spread over."""
        return getattr(self, self.array) if self.array else 1

    @property
    def chat(self) -> "ChatSetup | None":
        """How to talk to the model that a run makes or uses; None: it has none that writes text."""
        return None

    @property
    def system_prompt(self) -> str | None:
        """What conversations without a system prompt are read with; None: nothing, or none are read."""
        return None

    def required_extras(self) -> tuple[str, ...]:
        """Name the extras of setup.cfg that this recipe needs on the nodes."""
        return self.extras

    @field_validator("name")
    @classmethod
    def _is_no_path(cls, name: str) -> str:
        if "/" in name or not name.strip():
            raise ValueError(f"`{name}` cannot name a folder; write a name without `/`")
        return name

    @model_validator(mode="after")
    def _refuse_unmeasured_search(self) -> Self:
        if self.search and (fault := self.search.metric_fault(self.reports)):
            raise ConflictError([f"search.{fault}"])
        return self

    @model_validator(mode="after")
    def _refuse_untracked_search(self) -> Self:
        if self.search and (faults := [*self.search.tracking_faults(getattr(self, "tracking", None))]):
            raise ConflictError(faults)
        return self
