"""What a fault is: something that is done to a run, how it is taken back, and what it needs."""

from abc import ABC, abstractmethod
from random import Random
from typing import ClassVar, Literal, TypeAlias, get_args

from launcher.devcluster.chaos.target import ChaosTarget

Phase: TypeAlias = Literal["starting", "training", "saving"]
"""Of an attempt: before its first step; between two steps; while a checkpoint is being written."""
PHASES: tuple[Phase, ...] = get_args(Phase)

Until: TypeAlias = Literal["attempt over", "steps again", "at rest"] | float
"""When a fault is taken back: when the attempt that it struck is over; when a later one has done a step; when the run
does not go on by itself; or after so many seconds."""


class ChaosFault(ABC):
    """One kind of fault. An object of it strikes once."""

    name: ClassVar[str]
    """On the command line and in reports."""
    phases: ClassVar[tuple[Phase, ...]] = PHASES
    """In which it can strike."""
    needs_checkpoint: ClassVar[bool] = False
    """Whether there must be a checkpoint to break."""
    until: Until = "attempt over"

    def why_not(self, target: ChaosTarget) -> str:  # noqa: ARG002 - some faults ask for nothing
        """Say why it cannot strike this run here; empty if it can."""
        return ""

    @abstractmethod
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Do it, and return what was done, in a few words. The ranks stand still meanwhile."""

    def undo(self, target: ChaosTarget) -> None:  # noqa: B027 - most faults leave nothing to take back
        """Take back what would keep the run from going on."""
