"""`launcher doctor --submit`: queue a check of the site, ask it to stop once, and wait for what it shows."""

import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from launcher.artifacts.site_measurements import MEASUREMENTS, measurements_of_run, site_folder
from launcher.cluster import Cluster
from launcher.doctor.site_check import SiteCheck
from launcher.errors import LauncherError, RecipeError
from launcher.load import load_all
from launcher.monitor.status import read_statuses
from launcher.run.index import make_shared
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir
from launcher.slurm.queue import warn_batch
from launcher.submit.plan_submission import SubmitOptions, plan_submission
from launcher.submit.queue_all import submit

POLL_SECONDS = 2.0


def check_site(
    recipe: Path, cluster: Cluster, nodes: int, rehearse: bool, on_change: Callable[[str], None]
) -> SiteCheck:
    """Carry out a check of a site; its measurements are kept for `launcher plan`.

    Args:
        recipe: Of `kind: site_check`.
        cluster: The site.
        nodes: How many nodes take part.
        rehearse: Whether small files and messages are enough.
        on_change: Told what happens, a line each.

    Raises:
        LauncherError: The profile does without Slurm, or the recipe does not fit the site.
        SlurmError: Slurm refuses.
    """
    if cluster.executor != "slurm":
        raise LauncherError(f"--submit: cluster profile `{cluster.name}` has no Slurm to check; leave it out")
    run = _queue(recipe, cluster, nodes, rehearse)
    on_change(f"{run.root}: queued; Ctrl-C leaves it there")
    asked, asked_attempt, shown = None, 0, ""
    while True:
        [status], _ = read_statuses(cluster, [run])
        if status.state != shown:
            on_change(f"{status.id}  {status.state}" + (f": {status.why}" if status.why else ""))
            shown = status.state
        if status.is_over:
            break
        attempt = _attempt_to_ask(run) if asked is None and status.state == "running" else None
        if attempt is not None and status.job_id:
            asked, asked_attempt = time.time(), attempt
            on_change("measured; asking it to stop, as Slurm does before a time limit")
            warn_batch(status.job_id, cluster)
        time.sleep(POLL_SECONDS)
    measured = measurements_of_run(run)
    if measured is not None:
        _keep(run)
    return SiteCheck(run.root.name, status.state, measured, tuple(read_attempts(run.ledger)), asked, asked_attempt)


def _attempt_to_ask(run: RunDir) -> int | None:
    """Number the attempt that is under way and can be asked to stop; None if nothing is measured yet, or none is."""
    attempts = read_attempts(run.ledger)
    is_under_way = bool(attempts) and attempts[-1].ended is None
    return attempts[-1].number if is_under_way and measurements_of_run(run) is not None else None


def _queue(recipe: Path, cluster: Cluster, nodes: int, rehearse: bool) -> RunDir:
    settings = [f"resources.nodes={nodes}"]
    if cluster.gpus.per_node:
        settings.append(f"resources.gpus_per_node={cluster.gpus.per_node}")
    loaded, faults = load_all([recipe], settings, rehearse, ())
    if faults:
        raise RecipeError(faults)
    [frozen] = submit(plan_submission(loaded, cluster, SubmitOptions(rehearsal=rehearse)))
    return frozen.folder


def _keep(run: RunDir) -> None:
    """Leave the measurements beside the runs, for everybody."""
    folder = site_folder(run.root.parent)
    make_shared(folder, run.root.parent)
    staging = folder / f".{uuid.uuid4().hex}"
    shutil.copyfile(run.outputs / MEASUREMENTS, staging)
    staging.replace(folder / MEASUREMENTS)
