"""What is known of an attempt that has ended, and the reason that follows from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jobs.batch import slurm
from launcher.run.ledger import Attempt, Reason, StopRequest

END_SIGNALS = ("SIGTERM", "SIGINT")
"""Signals that end the batch process itself."""


@dataclass(frozen=True)
class EndReason:
    """Why and how an attempt ended."""

    reason: Reason
    source: str
    """Where that was read (`scontrol`, `sacct`, `Slurm's log`, ...)."""
    detail: str = ""
    unfit: tuple[str, ...] = ()
    """Nodes that the run should not be given again."""
    exit_code: int | None = None
    """See `Evidence.exit_code`."""
    stop: StopRequest | None = None
    """The STOP file."""


@dataclass(frozen=True)
class Evidence:
    """What is known of an attempt that has ended. Slurm is asked when a probe wants its answer, not before."""

    attempts: Sequence[Attempt]
    """All attempts of the ledger up to this one."""
    exit_code: int | None
    """The one that counts among the ranks' exit codes; None: the batch process did not live to see it."""
    failed_rank: str = ""
    """Which rank on which node failed, and how."""
    stop: StopRequest | None = None
    preflight: Mapping[str, Any] | None = None
    """What the ranks found wrong with a node before the work."""
    logs: tuple[Path, ...] = ()
    """What Slurm and srun wrote, newest last."""
    witnessed: bool = True
    """Whether the attempt's own batch process saw the end; its job is still there then. Else a later start asks."""
    seen: EndReason | None = None
    """What the batch process knows first-hand: the ranks could not be started, or had not saved in time."""
    signals: tuple[str, ...] = ()
    """Names of the signals that the batch process got."""
    hang: str = ""
    """What the hang monitor found; empty if it found no hang."""
    hung: tuple[str, ...] = ()
    """Nodes of the ranks that the others waited for."""

    @property
    def attempt(self) -> Attempt:
        """The attempt that ended."""
        return self.attempts[-1]

    @property
    def is_local(self) -> bool:
        """Whether there is no Slurm to ask."""
        return self.attempt.job_id.startswith("local-")

    @cached_property
    def job(self) -> Mapping[str, str]:
        """What `scontrol show job` says; empty for a job that has ended, or when Slurm does not tell."""
        return slurm.show_job(self.attempt.job_id) if self.witnessed and not self.is_local else {}
