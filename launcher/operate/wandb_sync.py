"""Sending what runs tracked offline to W&B, with W&B's own command."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from launcher.cluster import Cluster, is_public_wandb
from launcher.errors import LauncherError, RunError
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir

_PUBLIC = "https://api.wandb.ai"


def unsent_segments(run: RunDir) -> list[Path]:
    """List the offline segments that W&B has not marked as sent, oldest first.

    The segment that a running attempt still writes is left out: W&B would mark it as sent half full.
    """
    attempts = read_attempts(run.ledger)
    segments = sorted(run.wandb.rglob("offline-run-*")) if run.wandb.is_dir() else []
    if attempts and attempts[-1].ended is None:
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
        raise LauncherError(f"`{program}` is missing; install the extra: `pip install 'launcher[train]'`")
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
