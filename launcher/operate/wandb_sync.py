"""Sending what runs tracked offline to W&B, with W&B's own command."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import LauncherError, RunError, how_to_install
from launcher.monitor.status import read_statuses
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir
from launcher.run.typed import read_object
from launcher.run.wandb_server import DEFAULT_SERVER, host_of, is_public_wandb

_CUT_OFF = (
    (r"Failed to read .*EOF", "has nothing in it, since its attempt was ended at once"),
    (
        r"the file ends with an incomplete record",
        "was cut off when its attempt was ended; it is sent as far as it goes",
    ),
)
"""What W&B (0.31) says of a segment that a kill cut off, which it takes for one that is still written."""


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
            would mark it as sent half full. If it tracks online, all wait: two senders would overwrite each other.
    """
    attempts = read_attempts(run.ledger)
    segments = sorted(run.wandb.rglob("offline-run-*")) if run.wandb.is_dir() else []
    if segments and is_running and attempts and attempts[-1].ended is None:
        segments = [] if _tracks_online(run) else segments[:-1]
    return [folder for folder in segments if folder.is_dir() and not _is_sent(folder)]


def send(run: RunDir, cluster: Cluster, segments: Sequence[Path], tell: Callable[[str], None]) -> None:
    """Send segments as parts of one W&B run, one after the other; W&B marks what it has taken.

    Args:
        run: The run.
        cluster: The site.
        segments: Of attempts that are over, the oldest first.
        tell: Takes notes on segments that are not whole.

    Raises:
        RunError: The run's data must not leave the site, or W&B refused.
    """
    environ = wandb_environment(cluster, os.environ)
    _check_allowed(run, environ.get("WANDB_BASE_URL") or DEFAULT_SERVER)
    program = Path(sys.executable).with_name("wandb")
    if not program.exists():
        raise LauncherError(f"`{program}` is missing; install it with {how_to_install('train')}")
    for place, folder in enumerate(segments):
        # Of several at once W&B sends none if one is not whole. It leaves logs of its own in `./wandb`.
        argv = [str(program), "sync", "--yes", str(folder)]
        own = environ if _is_newest(run, folder) else environ | {"WANDB_X_UPDATE_FINISH_STATE": "false"}
        done = subprocess.run(argv, env=own, cwd=run.root, capture_output=True, text=True, check=False)
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        if done.returncode == 0 and (note := _mark_cut_off(folder, said)):
            tell(f"{run.root.name}: {folder.name} {note}")
        elif done.returncode or not _is_sent(folder):
            left = ", ".join(one.name for one in segments[place:] if not _is_sent(one))
            raise RunError(f"`{run.root.name}`: W&B refused {left or 'something'}:\n" + "\n".join(said[-5:]))


def _is_sent(segment: Path) -> bool:
    return any(segment.glob("*.synced"))


def _is_newest(run: RunDir, segment: Path) -> bool:
    """Tell whether no later attempt was tracked online: it has said how the run ended."""
    online = (folder.name for folder in run.wandb.rglob("run-*") if folder.is_dir())
    return max(online, default="") <= segment.name.removeprefix("offline-")


def _mark_cut_off(segment: Path, said: Sequence[str]) -> str | None:
    """Mark a segment as sent that a kill cut off, so that it is not sent again; return what to say of it.

    There must be no other complaint: then W&B has not got what is in it.
    """
    faults = [line for line in said if "ERROR" in line]
    note = next((note for pattern, note in _CUT_OFF if len(faults) == 1 and re.search(pattern, faults[0])), None)
    for file in segment.glob("*.wandb") if note else ():
        file.with_name(f"{file.name}.synced").touch()
    return note


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
            f"`{run.root.name}`: its data is credentialed and must not go to {host_of(server)}; "
            "name your institution's own W&B server as `wandb_base_url` in the profile, or do not send it"
        )


def _tracks_online(run: RunDir) -> bool:
    try:
        return bool(read_object(run.recipe)["tracking"]["mode"] == "online")
    except (OSError, ValueError, LookupError, TypeError):
        return False
