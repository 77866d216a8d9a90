"""Weights & Biases: one run over all attempts.

Every attempt opens the same W&B run id (`resume="allow"`), so that curves go on where they stopped.
Points are logged against `train/global_step`: steps that an attempt does again are added again. W&B's
own step counter would drop them. Each attempt also sends the last points of the one before again: where Slurm
signals whole process trees (proctrack/linuxproc), a preemption ends W&B's own process before they are sent.

Offline, each attempt leaves one segment `RUN_DIR/wandb/offline-run-<time>-<id>/`. Sent in the order
of their names (`wandb sync SEGMENT...`) they become that one run: the second and later ones are
appended.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jobs.runtime.context import Context
from launcher.errors import LauncherError
from launcher.ledger import read_json_lines
from launcher.paths import CONTINUE, FINISHED
from launcher.recipe.sections import Tracking

if TYPE_CHECKING:
    from jobs.runtime.metrics import Row

STEP_METRIC = "train/global_step"
FINISH_TIMEOUT = 30
"""Seconds to wait for the upload of the last points; a preempted task has little time."""
SENT_AGAIN = 10
"""Points of earlier attempts that a new one sends again; a stop loses one or two."""


class Tracker:
    """One attempt's part of the W&B run, or nothing where W&B is off or failed.

    An error of W&B becomes a warning: training goes on, and metrics.jsonl has every point.
    """

    def __init__(self, run: Any | None, log_interval: int) -> None:
        self._run = run
        self._interval = log_interval
        self._unsent: Row | None = None

    def log(self, row: "Row") -> None:
        """Take a step's row; every `log_interval`-th is sent."""
        self._unsent = row
        if int(row["step"] or 0) % self._interval == 0:
            self._send()

    def log_again(self, rows: "Sequence[Row]") -> None:
        """Take rows of earlier attempts, whose points may have been lost."""
        for row in rows:
            self.log(row)
        self._send()

    def log_evaluation(self, row: "Row") -> None:
        """Send an evaluation's row."""
        named = {f"validation/{key}": value for key, value in row.items() if key not in ("time", "step", "attempt")}
        scores = {key: value for key, value in named.items() if value is not None}
        if self._run is not None:
            with _only_warn():
                self._run.log({**scores, STEP_METRIC: row["step"]})

    def close(self, finished: bool) -> None:
        """Send the last step, and end this attempt's part: the run is done, or goes on in another attempt."""
        self._send()
        if self._run is None:
            return
        with _only_warn():
            if not finished:
                self._run.mark_preempting()
            self._run.finish(exit_code=FINISHED if finished else CONTINUE)

    def _send(self) -> None:
        row, self._unsent = self._unsent, None
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
    if tracking.mode == "disabled" or not context.ranks.is_main:
        return Tracker(None, tracking.log_interval)
    if context.recipe.data_use == "credentialed" and tracking.mode == "online" and not _server(context):
        raise LauncherError(
            "tracking.mode: credentialed data must not be tracked at wandb.ai; write `offline`, or name a W&B server "
            "of your own as `wandb_base_url` in the profile"
        )
    run = None
    with _only_warn():
        run = _open_wandb(context, tracking)
    tracker = Tracker(run, tracking.log_interval)
    if context.attempt:
        tracker.log_again(read_json_lines(context.run.metrics)[-SENT_AGAIN:])
    return tracker


def _server(context: Context) -> str | None:
    """The site's own W&B server, whatever the environment says."""
    url: str | None = context.record.cluster.get("wandb_base_url")
    return url


def _open_wandb(context: Context, tracking: Tracking) -> Any:
    import wandb

    run = wandb.init(
        id=context.record.wandb_id,
        resume="allow",
        mode="offline" if tracking.mode == "offline" else "online",
        project=tracking.project,
        entity=tracking.entity,
        name=context.record.name,
        tags=tracking.tags,
        dir=str(context.run.root),
        config={
            "recipe": context.recipe.model_dump(mode="json"),
            "run_id": context.record.id,
            "attempt": context.attempt,
        },
        allow_val_change=True,
        settings=_settings(context.recipe.data_use == "credentialed", _server(context)),
    )
    run.define_metric(STEP_METRIC)
    run.define_metric("*", step_metric=STEP_METRIC, step_sync=True)
    return run


def _settings(credentialed: bool, server: str | None) -> Any:
    """Send numbers and the recipe, never code, console output or the state of a git checkout.

    Args:
        credentialed: Leave out the machine's name, folders and command line, too.
        server: Where to send it; W&B's own choice if None.
    """
    import wandb

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
        finish_timeout=FINISH_TIMEOUT,
        finish_timeout_raises=False,
        silent=True,
        **({"base_url": server} if server else {}),
    )


@contextmanager
def _only_warn() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever W&B's client or server does, it is not worth a training run
        print(f"W&B: {type(error).__name__}: {error}; going on without", flush=True)
