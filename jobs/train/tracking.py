"""Weights & Biases: one run over all attempts; beside it, where the recipe says so, TensorBoard's event files.

Every attempt opens the same W&B run id (`resume="allow"`), so that curves go on where they stopped.
Points are logged against `train/global_step`: steps that an attempt does again are added again. W&B's
own step counter would drop them. Each attempt also sends the last points of the one before again: where Slurm
signals whole process trees (proctrack/linuxproc), a preemption ends W&B's own process before they are sent.

Offline, each attempt leaves one segment `RUN_DIR/wandb/offline-run-<time>-<id>/`. Sent in the order
of their names (`wandb sync SEGMENT...`) they become that one run: the second and later ones are
appended.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from jobs.rank.context import Context
from jobs.train.event_log import EventLog, open_events
from jobs.train.wandb_run import STEP_METRIC, open_wandb, server_of
from launcher.artifacts.scores import Score
from launcher.errors import LauncherError
from launcher.recipe.sections.common import Tracking
from launcher.run.ledger import read_json_lines
from launcher.run.metrics import is_sound, is_training, read_joined_rows
from launcher.run.paths import CONTINUE, FINISHED, RunDir
from launcher.run.wandb_server import is_public_wandb

if TYPE_CHECKING:
    from jobs.train.metrics import Row

_TABLE_ROWS = 10_000
"""W&B shows no more rows of a table."""
SENT_AGAIN = 10
"""Points of the attempt before that are sent again at least."""
SENT_AGAIN_SECONDS = 60
"""So are all of its last minute: W&B's client sends every 15 s, and tries again if its server is slow."""


class Tracker:
    """One attempt's part of the W&B run, or nothing where W&B is off or failed; and the same of TensorBoard.

    An error of either becomes a warning: training continues, and metrics.jsonl has every point.
    """

    def __init__(self, run: Any | None, log_interval: int, events: EventLog | None = None) -> None:
        self._run = run
        self._events = events
        self._interval = log_interval
        self._unsent: Row | None = None

    def log(self, row: "Row") -> None:
        """Take a step's row; every `log_interval`-th is sent."""
        self._unsent = row
        if int(row["step"] or 0) % self._interval == 0:
            self._send()

    def log_again(self, run: RunDir) -> None:
        """Send the end of earlier attempts to W&B, which may have lost it."""
        events, self._events = self._events, None  # it has them
        rows = [row for row in read_json_lines(run.metrics) if is_training(row) and "step" in row and is_sound(row)]
        points = last_points(rows, self._interval)
        for row in points:
            self.log(row)
        self._send()
        first = min((row["step"] for row in points), default=math.inf)
        for row in read_joined_rows(run.evaluations):
            if row["step"] >= first:
                self.log_evaluation(row)
        self._events = events

    def log_evaluation(self, row: "Row") -> None:
        """Send an evaluation's row."""
        if self._events is not None:
            with _only_warn("TensorBoard"):
                self._events.log_evaluation(row)
        named = {
            f"validation/{key.removeprefix('validation_')}": value
            for key, value in row.items()
            if key not in ("time", "step", "attempt")
        }
        scores = {key: value for key, value in named.items() if value is not None}
        if self._run is not None:
            with _only_warn():
                self._run.log({**scores, STEP_METRIC: row["step"]})

    def log_scores(
        self, scores: Mapping[str, Mapping[str, Score]], items: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Send the scores of tasks with their standard errors, and a table of items.

        Args:
            scores: By task and metric.
            items: Rows of the table, all with the same keys; None: none may be sent.
        """
        point: dict[str, Any] = {}
        for task, its in scores.items():
            for metric, score in its.items():
                numbers = {metric: score.value, f"{metric}_standard_error": score.standard_error}
                point |= {f"evaluate/{task}/{name}": value for name, value in numbers.items() if value is not None}
        self._log_events("evaluate", point, "evaluate/")
        if self._run is None:
            return
        with _only_warn():
            if items:
                import wandb

                rows = [[*row.values()] for row in items[:_TABLE_ROWS]]
                point["evaluate/items"] = wandb.Table(columns=[*items[0]], data=rows)
            self._run.log(point)

    def log_numbers(self, name: str, numbers: Mapping[str, float]) -> None:
        """Send what a run came to, as `NAME/...`."""
        self._log_events(name, numbers)
        if self._run is not None:
            with _only_warn():
                self._run.log({f"{name}/{key}": value for key, value in numbers.items()})

    def log_samples(self, step: int, samples: "Sequence[Mapping[str, Any]]") -> None:
        """Send some texts as a table; not to be called for credentialed data."""
        if self._run is None or not samples:
            return
        with _only_warn():
            import wandb

            rows = [
                [json.dumps(value) if isinstance(value, dict) else value for value in one.values()] for one in samples
            ]
            table = wandb.Table(columns=[*samples[0]], data=rows)
            self._run.log({"samples": table, STEP_METRIC: step})

    def close(self, finished: bool) -> None:
        """Send the last step, and end this attempt's part: the run is done, or goes on in another attempt."""
        self._send()
        if self._events is not None:
            with _only_warn("TensorBoard"):
                self._events.close()
        if self._run is None:
            return
        with _only_warn():
            if not finished:
                self._mark_preempting()
            self._run.finish(exit_code=FINISHED if finished else CONTINUE)

    def _mark_preempting(self) -> None:
        """Say that the run goes on, unless it is one of a sweep: W&B would give that to another agent."""
        assert self._run is not None
        if self._run.sweep_id is None:
            self._run.mark_preempting()

    def _log_events(self, group: str, numbers: Mapping[str, Any], prefix: str = "") -> None:
        if self._events is not None:
            with _only_warn("TensorBoard"):
                self._events.log(group, {**numbers, "step": 0}, prefix)

    def _send(self) -> None:
        row, self._unsent = self._unsent, None
        if self._events is not None and row is not None:
            with _only_warn("TensorBoard"):
                self._events.log_training(row)
        if self._run is None or row is None:
            return
        point = {
            f"train/{key}": value for key, value in row.items() if key not in ("time", "step") and value is not None
        }
        with _only_warn():
            self._run.log({**point, STEP_METRIC: row["step"]})


def open_tracker(context: Context, tracking: Tracking) -> Tracker:
    """Start or continue the W&B run; on other ranks than 0, or if that fails, track nothing.

    Raises:
        LauncherError: The data is credentialed and the cluster profile names no W&B server of the site.
    """
    if not context.ranks.is_main:
        return Tracker(None, tracking.log_interval)
    events = _open_events(context, tracking)
    if tracking.mode == "disabled":
        return Tracker(None, tracking.log_interval, events)
    server = server_of(context)
    is_ours = server is not None and not is_public_wandb(server)
    if context.recipe.data_use == "credentialed" and tracking.mode == "online" and not is_ours:
        raise LauncherError(
            "tracking.mode: credentialed data must not be tracked at W&B's public server; write `offline`, or name a "
            "W&B server of your own as `wandb_base_url` in the profile"
        )
    run = None
    with _only_warn():
        run = open_wandb(context, tracking)
    tracker = Tracker(run, tracking.log_interval, events)
    if context.attempt and run is not None:
        tracker.log_again(context.run)
    return tracker


def last_points(rows: Sequence[dict[str, Any]], interval: int) -> list[dict[str, Any]]:
    """Choose of the rows of all steps so far which points are sent again.

    Args:
        rows: In the order in which they were logged.
        interval: Steps between two points; the last row is one in any case.
    """
    points = [row for row in rows[:-1] if row["step"] % interval == 0] + [*rows[-1:]]
    times = [row.get("time", 0.0) for row in reversed(points)]
    recent = takewhile(lambda time: abs(times[0] - time) <= SENT_AGAIN_SECONDS, times)
    return points[-max(SENT_AGAIN, len(list(recent))) :]


def _open_events(context: Context, tracking: Tracking) -> EventLog | None:
    if tracking.tensorboard:
        with _only_warn("TensorBoard"):
            return open_events(context, tracking.log_interval)
    return None


@contextmanager
def _only_warn(what: str = "W&B") -> Iterator[None]:
    try:
        yield
    except Exception as error:  # no failure of W&B's client or server, and no full disk, may end a training
        print(f"{what}: {type(error).__name__}: {error}; training continues without it", flush=True)
