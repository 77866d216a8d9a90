"""The errors a user can fix.

LauncherError          exit 2, one line a fault, no traceback
├── RecipeError        a recipe or cluster profile that cannot work: a list of faults
├── RunError           a run that is not there, or not in the state the command needs
└── SlurmError         exit 1: a Slurm command failed or answered nonsense
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from launcher import __version__

FaultCode: TypeAlias = Literal[
    "syntax",  # not YAML, or more of YAML than a recipe needs
    "structure",  # documents, `base:`, `rehearsal` and `--set` that do not fit together
    "secret",  # a value that looks like one
    "unknown-key",
    "missing-key",
    "unknown-name",  # a value that is none of those there are
    "wrong-type",
    "out-of-range",
    "invalid-value",  # a value that its key cannot have for another reason
    "unit-missing",
    "site-path",  # an absolute path in a recipe
    "conflict",  # keys, or recipes, that contradict each other
    "not-found",  # a file, folder, model or corpus that is not there
    "damaged",  # a file of a model, adapter or tokenizer that cannot be loaded
    "no-permission",
    "name-taken",
    "mismatch",  # a model, adapter, tokenizer or corpus that does not go with the others
    "data-use",  # credentialed data in an open recipe, or on its way out of the site
    "site-limit",  # more than the site has
]
"""What kind of mistake a fault is."""


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
    code: FaultCode
    """What kind of mistake it is."""

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


def how_to_install(*extras: str) -> str:
    """Write the commands that install what extras of setup.cfg name.

    They name a checkout or the wheel: no package index has this project, and what has its name there is another one.
    """
    names = ",".join(extras)
    wheel = f"./launcher-{__version__}-py3-none-any.whl"
    return f"`pip install -e '.[{names}]'` in a checkout, or with the wheel `pip install '{wheel}[{names}]'`"
