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
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jobs.rank.context import Context
from jobs.train.event_log import EventLog, open_events
from launcher.artifacts.scores import Score
from launcher.errors import LauncherError
from launcher.recipe.quantities import Duration
from launcher.recipe.sections.common import Tracking
from launcher.run.ledger import read_json_lines
from launcher.run.metrics import is_training
from launcher.run.paths import CONTINUE, FINISHED

if TYPE_CHECKING:
    from jobs.train.metrics import Row

STEP_METRIC = "train/global_step"
DELETED = "deleted"
"""A file beside W&B's own, there once W&B has said that the run was deleted: no attempt waits for it again."""
FINISH_TIMEOUT = 30
"""Seconds to wait for the upload of the last points; a preempted rank has little time."""
INIT_TIMEOUT = 90
"""Seconds to wait for W&B's server at the start, as W&B does by itself."""
_DELETED = "previously created and deleted"
"""How W&B refuses the id of a deleted run (https://github.com/wandb/wandb/issues/10669)."""
_TABLE_ROWS = 10_000
"""W&B shows no more rows of a table."""
SENT_AGAIN = 10
"""Points of the attempt before that are sent again; a stop loses one or two."""


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

    def log_again(self, rows: "Sequence[Row]") -> None:
        """Send rows of earlier attempts to W&B, which may have lost their points."""
        events, self._events = self._events, None  # it has them
        for row in rows:
            self.log(row)
        self._send()
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
    if context.recipe.data_use == "credentialed" and tracking.mode == "online" and not _server(context):
        raise LauncherError(
            "tracking.mode: credentialed data must not be tracked at wandb.ai; write `offline`, or name a W&B server "
            "of your own as `wandb_base_url` in the profile"
        )
    run = None
    with _only_warn():
        run = _open_unless_deleted(context, tracking)
    tracker = Tracker(run, tracking.log_interval, events)
    if context.attempt:
        steps = [row for row in read_json_lines(context.run.metrics) if is_training(row)]
        tracker.log_again(steps[-SENT_AGAIN:])
    return tracker


def _open_events(context: Context, tracking: Tracking) -> EventLog | None:
    if tracking.tensorboard:
        with _only_warn("TensorBoard"):
            return open_events(context, tracking.log_interval)
    return None


def _server(context: Context) -> str | None:
    url: str | None = context.record.cluster.get("wandb_base_url")
    return url


def _open_unless_deleted(context: Context, tracking: Tracking) -> Any | None:
    """Open the W&B run; None if somebody deleted it there, which W&B's client finds out by asking until it gives up."""
    mark, online = context.run.wandb / DELETED, tracking.mode == "online"
    if not (online and mark.exists()):
        try:
            return _open_wandb(context, tracking)
        except Exception as error:  # W&B's own classes are for failures of any kind
            if not online or _DELETED not in str(error):
                raise
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
    print(
        f"W&B: run {context.record.wandb_id} was deleted there, and W&B gives no id out again; training continues "
        f"without it. If somebody restores it, remove {mark}",
        flush=True,
    )
    return None


def _open_wandb(context: Context, tracking: Tracking) -> Any:
    import wandb

    run = wandb.init(
        id=context.record.wandb_id,
        resume="allow",
        mode="offline" if tracking.mode == "offline" else "online",
        project=tracking.project,
        entity=tracking.entity,
        name=context.record.name,
        group=context.record.sweep,
        tags=tracking.tags,
        dir=str(context.run.root),
        config={
            "recipe": context.recipe.model_dump(mode="json"),
            "run_id": context.record.id,
            "attempt": context.attempt,
            **((context.record.point or {}) if context.record.wandb_sweep else {}),
        },
        allow_val_change=True,
        settings=_settings(
            context.recipe.data_use == "credentialed",
            _server(context),
            context.recipe.limits.hang,
            context.record.wandb_sweep,
        ),
    )
    run.define_metric(STEP_METRIC)
    run.define_metric("*", step_metric=STEP_METRIC, step_sync=True)
    return run


def _settings(credentialed: bool, server: str | None, hang: Duration | None, sweep: str | None = None) -> Any:
    """Send numbers and the recipe, never code, console output or the state of a git checkout.

    Args:
        credentialed: Leave out the machine's name, folders and command line, too.
        server: Where to send it; W&B's own choice if None.
        hang: After how long without a heartbeat the attempt is ended; W&B gives up before.
        sweep: Id of the sweep at W&B that the run belongs to.
    """
    import wandb

    longest = hang.seconds / 2 if hang is not None else INIT_TIMEOUT
    is_chosen = "WANDB_INIT_TIMEOUT" in os.environ

    return wandb.Settings(
        console="off",
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_save_requirements=False,
        host="" if credentialed else None,
        x_disable_meta=credentialed,
        x_disable_machine_info=credentialed,
        finish_timeout=min(FINISH_TIMEOUT, longest),
        finish_timeout_raises=False,
        silent=True,
        sweep_id=sweep,
        **({} if is_chosen else {"init_timeout": min(INIT_TIMEOUT, longest)}),
        **({"base_url": server} if server else {}),
    )


@contextmanager
def _only_warn(what: str = "W&B") -> Iterator[None]:
    try:
        yield
    except Exception as error:  # no failure of W&B's client or server, and no full disk, may end a training
        print(f"{what}: {type(error).__name__}: {error}; training continues without it", flush=True)
