"""Attempts that track with W&B's real client, each in a process of its own, and W&B's command that sends segments."""

import json
import os
import subprocess
import sys
from pathlib import Path

from launcher.run.paths import RunDir
from tests.support.waiting import PATIENCE
from tests.support.wandb_server import StoredRun, WandbServer

ATTEMPT = """
import json, sys, time
from pathlib import Path
from jobs.rank.context import load_context
from jobs.rank.ranks import Ranks
from jobs.train.tracking import open_tracker
from launcher.run.paths import RunDir

number, first, last, finished, waits = json.loads(sys.argv[2])
alone = Ranks(rank=0, world_size=1, local_rank=0, local_world_size=1, node_rank=0)
context = load_context(RunDir(Path(sys.argv[1])), number, alone)
if waits:  # for a stop, which W&B's client looks for every 15 s
    from wandb.sdk.lib.run_stopping import RunStopChecker
    RunStopChecker.__init__.__kwdefaults__["poll_interval"] = 0.1
tracker = open_tracker(context, context.recipe.tracking)
for step in range(first, last + 1):
    tracker.log({"time": 0.0, "step": step, "attempt": number, "loss": 10.0 - step, "mfu": None})
while waits and not context.run.stop_request.exists():
    time.sleep(0.02)
tracker.close(finished)
"""


def environment(server: WandbServer) -> dict[str, str]:
    """The environment of an attempt whose W&B is this server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return kept | {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "local-" + "k" * 40,
        "WANDB_ERROR_REPORTING": "false",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "WANDB_INIT_TIMEOUT": f"{PATIENCE}",
        "NO_PROXY": "127.0.0.1",
    }


def attempt(
    run: RunDir,
    server: WandbServer,
    number: int,
    first: int,
    last: int,
    finished: bool,
    *,
    waits: bool = False,
    **environ: str,
) -> str:
    """Log some steps in a process of its own, as an attempt does, and wait for a stop if told so."""
    arguments = [sys.executable, "-c", ATTEMPT, str(run.root), json.dumps([number, first, last, finished, waits])]
    environ = environment(server) | environ
    done = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout


def send(run: RunDir, server: WandbServer) -> int:
    """Send the offline segments in the order of their names; return their number."""
    segments = sorted(str(folder) for folder in run.wandb.glob("offline-run-*"))
    wandb = Path(sys.executable).with_name("wandb")
    subprocess.run(
        [wandb, "sync", *segments], env=environment(server), capture_output=True, timeout=PATIENCE, check=True
    )
    return len(segments)


def points(stored: StoredRun) -> list[tuple[int, int, float]]:
    """Step, attempt and loss of each point that a server got."""
    return [(line["train/global_step"], line["train/attempt"], line["train/loss"]) for line in stored.history]
