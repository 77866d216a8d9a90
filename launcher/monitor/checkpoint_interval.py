"""How often a run should save, by what it has seen: the interval that loses least to saving and to failures."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.monitor.time_account import TimeAccount
from launcher.run.ledger import Attempt
from launcher.run.pauses import Pause

SOURCE = (
    "Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, Future Generation Computer "
    "Systems 22 (2006), equation 37, https://doi.org/10.1016/j.future.2004.11.016; its first term is Young's, "
    "Communications of the ACM 17 (1974), https://doi.org/10.1145/361147.361115"
)
_UNSAVED = ("killed", "node_failure", "out_of_memory", "hang", "error")
"""Exit reasons of attempts that had no time to save."""


@dataclass(frozen=True)
class CheckpointAdvice:
    """What a run's own failures and saves say of its checkpoint interval."""

    save_seconds: float | None
    """Median time of a checkpoint; None if none was timed."""
    saves: int
    failures: int
    """Attempts that ended without saving."""
    hours_on_nodes: float

    @property
    def mean_seconds_between_failures(self) -> float | None:
        """Time on nodes for each failure; None if there was none."""
        return self.hours_on_nodes * 3600 / self.failures if self.failures else None

    @property
    def seconds(self) -> float | None:
        """The interval; None if the run has seen no failure, or no checkpoint."""
        between = self.mean_seconds_between_failures
        return daly_interval(self.save_seconds, between) if self.save_seconds and between else None


def advise(attempts: Sequence[Attempt], pauses: Sequence[Pause], account: TimeAccount) -> CheckpointAdvice:
    """Work out how often a run should save."""
    saves = [pause.seconds for pause in pauses if pause.what == "saving"]
    failures = sum(attempt.reason in _UNSAVED for attempt in attempts)
    return CheckpointAdvice(
        statistics.median(saves) if saves else None, len(saves), failures, account.attempt_seconds / 3600
    )


def daly_interval(save: float, between_failures: float) -> float:
    """Seconds of work between two checkpoints that lose the least time.

    sqrt(2 d M) (1 + sqrt(d / 2M) / 3 + (d / 2M) / 9) - d where d < 2 M, else M (Daly 2006, equation 37).

    Args:
        save: Seconds that a checkpoint takes (d).
        between_failures: Mean seconds between failures (M).
    """
    if save >= 2 * between_failures:
        return between_failures
    ratio = save / (2 * between_failures)
    return math.sqrt(2 * save * between_failures) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save
