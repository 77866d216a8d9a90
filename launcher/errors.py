"""The errors a user can fix.

LauncherError          exit 2, one line a fault, no traceback
├── RecipeError        a recipe or cluster profile that cannot work: a list of faults
├── RunError           a run that is not there, or not in the state the command needs
└── SlurmError         exit 1: a Slurm command failed or answered nonsense
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a file the user wrote, and what to write instead."""

    file: str
    """The file as the user named it."""
    line: int | None
    """1-based line, where one can be told."""
    key: str
    """Dotted path of the key (`optim.lr`), or empty for the whole file."""
    message: str
    """What is wrong; then what to write."""

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class LauncherError(Exception):
    """Something the user can fix; shown without a traceback."""

    exit_code = 2


class RecipeError(LauncherError):
    """A recipe or a cluster profile breaks the rules; carries every fault at once."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class RunError(LauncherError):
    """A run does not exist, is ambiguous, or is not in the state that a command needs."""


class SlurmError(LauncherError):
    """A Slurm command failed; the message holds what it printed."""

    exit_code = 1
