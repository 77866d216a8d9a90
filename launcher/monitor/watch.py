"""Runs as `launcher watch` shows them: the same look at all of them, again and again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.cluster import Cluster
from launcher.monitor.goodput import Goodput, compute_goodput, measure_goodput
from launcher.monitor.logs import attempts_with_logs, read_tail
from launcher.monitor.status import RunStatus, read_statuses
from launcher.run.ledger import parse_json_lines
from launcher.run.log_tail import Tail
from launcher.run.metrics import Row
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord

_LOG_BYTES = 1 << 14
"""How much of the end of a log is read at each look."""


@dataclass(frozen=True)
class WatchedRun:
    """One run at one look."""

    status: RunStatus
    losses: tuple[tuple[int, float], ...]
    """Step and loss, over all attempts."""
    goodput: Goodput
    lines: tuple[str, ...]
    """The newest lines that rank 0 printed."""


@dataclass(frozen=True)
class Look:
    """All runs at one time."""

    time: float
    runs: tuple[WatchedRun, ...]
    notes: tuple[str, ...]
    """Runs that cannot be read, and sources that did not answer."""


@dataclass
class GrowingCurve:
    """What a run logged, read on from where the last look ended: metrics.jsonl may be huge."""

    tail: Tail
    losses: dict[int, float] = field(default_factory=dict)
    newest: dict[int, Row] = field(default_factory=dict)
    """Of each attempt its largest step, and when it last logged one: all that the goodput is computed from."""

    def read_on(self) -> None:
        """Read what is new."""
        for row in parse_json_lines("\n".join(self.tail.read()).encode()):
            if "step" in row:
                self._take(row)

    def _take(self, row: dict[str, Any]) -> None:
        step, attempt = int(row["step"]), int(row.get("attempt", 0))
        if isinstance(row.get("loss"), int | float):
            self.losses[step] = float(row["loss"])
        largest = max(step, self.newest.get(attempt, row)["step"])
        self.newest[attempt] = {"attempt": attempt, "step": largest, "time": row["time"]}


class RunWatch:
    """Looks at runs; Slurm is asked once a look, whatever their number.

    Args:
        cluster: The site.
        choose: Returns the runs, anew at each look: a pipeline makes some of its runs while it goes on.
        log_lines: How many of the newest lines of each log to keep.
    """

    def __init__(self, cluster: Cluster, choose: Callable[[], Sequence[RunDir]], log_lines: int = 1) -> None:
        self._cluster = cluster
        self._choose = choose
        self._log_lines = log_lines
        self._curves: dict[Path, GrowingCurve] = {}

    def look(self) -> Look:
        """Look at all runs.

        Raises:
            RunError: None of them can be read.
        """
        statuses, notes = read_statuses(self._cluster, self._choose())
        return Look(time.time(), tuple(map(self._read, statuses)), tuple(notes))

    def _read(self, status: RunStatus) -> WatchedRun:
        run = RunDir(Path(status.folder))
        curve = self._curves.setdefault(run.root, GrowingCurve(Tail(run.metrics)))
        curve.read_on()
        if status.group is None:
            goodput = compute_goodput(RunRecord.read(run.record), status.attempts, [*curve.newest.values()])
        else:
            goodput = measure_goodput(run)
        return WatchedRun(status, tuple(sorted(curve.losses.items())), goodput, self._newest_lines(run))

    def _newest_lines(self, run: RunDir) -> tuple[str, ...]:
        attempts = attempts_with_logs(run)
        log = run.rank_log(attempts[-1], 0) if attempts else None
        return tuple(read_tail(log, self._log_lines, _LOG_BYTES)) if log else ()


class LiveRuns:
    """Chooses the runs that are not over, and those that were not when the watch began.

    Args:
        cluster: The site.
        list_all: Lists all runs of the site.
    """

    def __init__(self, cluster: Cluster, list_all: Callable[[], Sequence[RunDir]]) -> None:
        self._cluster = cluster
        self._list_all = list_all
        self._known: set[RunDir] = set()
        self._shown: list[RunDir] = []

    def __call__(self) -> list[RunDir]:
        """Choose; what was over when it was first seen is not looked at again."""
        new = [run for run in self._list_all() if run not in self._known]
        if new:
            statuses, _ = read_statuses(self._cluster, new)
            alive = {one.folder for one in statuses if not one.is_over}
            self._known.update(new)
            self._shown = [run for run in new if str(run.root) in alive] + self._shown
        return [*self._shown]
