"""The W&B run of an attempt: opened online, or offline, or left alone if somebody deleted it.

W&B's own page can ask the run to stop; that means the same as `launcher stop`.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from jobs.rank.context import Context
from launcher.recipe.quantities import Duration
from launcher.recipe.sections.common import Tracking
from launcher.run.ledger import StopRequest
from launcher.run.paths import RunDir

STEP_METRIC = "train/global_step"
DELETED = "deleted"
"""A file beside W&B's own, there once W&B has said that the run was deleted: no attempt waits for it again."""
STOPPED = "stopped"
"""Another one, there once an attempt was stopped on W&B's page."""
STALE_SECONDS = 60
"""If W&B says so soon after an attempt has begun that the run is to stop, it may mean the stop of an earlier attempt
(https://github.com/wandb/wandb/issues/663); W&B's client asks every 15 s."""
FINISH_TIMEOUT = 30
"""Seconds to wait for the upload of the last points; a preempted rank has little time."""
INIT_TIMEOUT = 90
"""Seconds to wait for W&B's server at the start, as W&B does by itself."""
FLUSH_SECONDS = 2.0
"""Between two writes of what is tracked offline; a kill loses what came after the last one. W&B's own choice is 15."""
_DELETED = "previously created and deleted"
"""How W&B refuses the id of a deleted run (https://github.com/wandb/wandb/issues/10669)."""


def server_of(context: Context) -> str | None:
    """Return the address of the site's own W&B server."""
    url: str | None = context.record.cluster.get("wandb_base_url")
    return url


def open_wandb(context: Context, tracking: Tracking) -> Any | None:
    """Open the W&B run; offline if it cannot be opened online, so that `launcher sync` can send it later.

    Returns:
        The run. None if somebody deleted it there, which W&B's client finds out by asking until it gives up.
    """
    mark, is_online = context.run.wandb / DELETED, tracking.mode == "online"
    if is_online and mark.exists():
        _say_deleted(context)
        return None
    try:
        return _init(context, tracking, is_online)
    except ImportError:
        raise
    except Exception as error:  # W&B's own classes are for failures of any kind
        if is_online and _DELETED in str(error):
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
            _say_deleted(context)
            return None
        # Offline a run belongs to no sweep: W&B would take this one for a run of its own.
        if not is_online or context.record.wandb_sweep:
            raise
        print(
            f"W&B: {type(error).__name__}: {error}; this attempt is tracked offline, and `launcher sync` sends that "
            "when the run is over",
            flush=True,
        )
    _end_client()
    return _init(context, tracking, is_online=False)


def _say_deleted(context: Context) -> None:
    print(
        f"W&B: run {context.record.wandb_id} was deleted there, and W&B gives no id out again; training continues "
        f"without it. If somebody restores it, remove {context.run.wandb / DELETED}",
        flush=True,
    )


def _end_client() -> None:
    """End W&B's own process, which still tries to open the run and would not open it a second time."""
    import wandb

    wandb.teardown()


def _init(context: Context, tracking: Tracking, is_online: bool) -> Any:
    import wandb

    run = wandb.init(
        id=context.record.wandb_id,
        resume="allow",
        mode="online" if is_online else "offline",
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
        settings=settings_of(
            context.recipe.data_use == "credentialed",
            server_of(context),
            context.recipe.limits.hang,
            context.record.wandb_sweep,
            partial(heed_stop, context.run, time.monotonic()),
        ),
    )
    run.define_metric(STEP_METRIC)
    run.define_metric("*", step_metric=STEP_METRIC, step_sync=True)
    return run


def heed_stop(run: RunDir, began: float) -> None:
    """Ask the ranks to stop as `launcher stop` does, since somebody asked for it on W&B's page.

    Without this, W&B sends rank 0 a SIGINT. Its client calls this once, from a thread of its own.

    Args:
        run: The run.
        began: When the attempt opened the W&B run, by the monotonic clock.
    """
    mark = run.wandb / STOPPED
    if mark.exists() and time.monotonic() - began < STALE_SECONDS:
        print(
            "W&B: says that the run is to stop, as it did in an earlier attempt; training continues. "
            "`launcher stop` stops it",
            flush=True,
        )
        return
    try:
        StopRequest().write(run.stop_request)
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
    except OSError as error:
        print(f"W&B: somebody stopped the run there, but STOP cannot be written ({error.strerror})", flush=True)
    else:
        print("W&B: somebody stopped the run there; STOP asks all ranks to save and leave", flush=True)


def settings_of(
    credentialed: bool,
    server: str | None,
    hang: Duration | None,
    sweep: str | None = None,
    stop: Callable[[], None] | None = None,
) -> Any:
    """Send numbers and the recipe, never code, console output or the state of a git checkout.

    Args:
        credentialed: Leave out the machine's name, folders and command line, too.
        server: Where to send it; W&B's own choice if None.
        hang: After how long without a heartbeat the attempt is ended; W&B gives up before.
        sweep: Id of the sweep at W&B that the run belongs to.
        stop: Called when somebody stops the run on W&B's page.
    """
    import wandb

    longest = hang.seconds / 2 if hang is not None else INIT_TIMEOUT
    is_chosen = "WANDB_INIT_TIMEOUT" in os.environ
    flush = "x_transaction_log_flush_interval"

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
        stop_fn=stop,
        **({flush: FLUSH_SECONDS} if flush in wandb.Settings.model_fields else {}),  # not all versions have it
        **({} if is_chosen else {"init_timeout": min(INIT_TIMEOUT, longest)}),
        **({"base_url": server} if server else {}),
    )
