"""Sending what runs tracked offline to W&B, with W&B's own command."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from launcher.cluster import Cluster, is_public_wandb
from launcher.errors import LauncherError, RunError, how_to_install
from launcher.monitor.status import read_statuses
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir

_PUBLIC = "https://api.wandb.ai"


def find_unsent(cluster: Cluster, runs: Sequence[RunDir]) -> tuple[dict[RunDir, list[Path]], tuple[str, ...]]:
    """Find the offline segments of runs that W&B has not got yet.

    Slurm is asked about runs whose newest attempt has no end in the ledger: it runs, or was lost.

    Returns:
        The segments of each run that has any, and notes about sources that did not answer.

    Raises:
        RunError: None of the runs that Slurm has to be asked about can be read.
    """
    unsent = {run: unsent_segments(run, is_running=False) for run in runs}
    unclear = [run for run, all_of_it in unsent.items() if unsent_segments(run, is_running=True) != all_of_it]
    statuses, notes = read_statuses(cluster, unclear)
    dead = {status.folder for status in statuses if status.state != "running"}
    unsent |= {run: unsent_segments(run, is_running=True) for run in unclear if str(run.root) not in dead}
    return {run: segments for run, segments in unsent.items() if segments}, notes


def unsent_segments(run: RunDir, *, is_running: bool) -> list[Path]:
    """List the offline segments that W&B has not marked as sent, oldest first.

    Args:
        run: The run.
        is_running: Whether an attempt without an end is under way. The segment that it still writes is left out: W&B
            would mark it as sent half full.
    """
    attempts = read_attempts(run.ledger)
    segments = sorted(run.wandb.rglob("offline-run-*")) if run.wandb.is_dir() else []
    if is_running and attempts and attempts[-1].ended is None:
        segments = segments[:-1]
    return [folder for folder in segments if folder.is_dir() and not any(folder.glob("*.synced"))]


def send(run: RunDir, cluster: Cluster, segments: list[Path]) -> None:
    """Send segments as parts of one W&B run; W&B marks what it has taken.

    Raises:
        RunError: The run's data must not leave the site, or W&B refused.
    """
    environ = wandb_environment(cluster, os.environ)
    _check_allowed(run, environ.get("WANDB_BASE_URL", _PUBLIC))
    program = Path(sys.executable).with_name("wandb")
    if not program.exists():
        raise LauncherError(f"`{program}` is missing; install it with {how_to_install('train')}")
    argv = [str(program), "sync", "--yes", *map(str, segments)]
    # W&B leaves logs of its own in `./wandb`.
    done = subprocess.run(argv, env=environ, cwd=run.root, capture_output=True, text=True, check=False)
    unsent = [folder.name for folder in segments if not any(folder.glob("*.synced"))]
    if done.returncode or unsent:
        printed = (done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
        raise RunError(f"`{run.root.name}`: W&B refused {', '.join(unsent) or 'something'}:\n" + "\n".join(printed))


def wandb_environment(cluster: Cluster, environ: Mapping[str, str]) -> dict[str, str]:
    """Make the environment for W&B's command: what the nodes got, except that it is to go online."""
    named = {name: value for name, value in cluster.environment.items() if name.startswith("WANDB_")}
    if cluster.wandb_base_url:
        named["WANDB_BASE_URL"] = cluster.wandb_base_url
    return {name: value for name, value in {**environ, **named}.items() if name not in ("WANDB_MODE", "WANDB_DIR")}


def _check_allowed(run: RunDir, server: str) -> None:
    recipe = json.loads(run.recipe.read_text(encoding="utf-8"))
    if recipe.get("data_use") == "credentialed" and is_public_wandb(server):
        raise RunError(
            f"`{run.root.name}`: its data is credentialed and must not go to {urlsplit(server).hostname or server}; "
            "name your institution's own W&B server as `wandb_base_url` in the profile, or do not send it"
        )
