"""`launcher demo`: the story of the README, by its own commands: a run is preempted, requeued, resumes and finishes.

It uses a real Slurm (a dev cluster on this machine) if Slurm's programs are installed. Otherwise it runs ordinary
processes, and a stop request and `launcher resume` replace the preemption.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from launcher.errors import LauncherError, how_to_install
from launcher.run.home import expand_home
from launcher.run.ledger import read_json_lines

SHIPPED = Path(__file__).parents[1]
"""The folder that holds `recipes/`, a link in a checkout."""
PREPARE = ("recipes/prepare_pile_pubmed.yaml", "--rehearse")
TRAINING = ("recipes/biomed_llama_cpt.yaml", "--rehearse")
INTERRUPT_AT_STEP = 15


def demo(
    folder: Annotated[
        Path, typer.Option("--dir", help="The folder for everything that the demo makes.", file_okay=False)
    ] = Path("~/.launcher/demo"),
) -> None:
    """Show how a run is preempted, resumes and finishes: a few minutes on this machine, without a GPU."""
    refuse_missing_packages()
    folder = expand_home(folder).absolute()
    profile, on_slurm = start_cluster(folder)
    os.environ |= {"LAUNCHER_CLUSTER": str(profile), "HF_HUB_OFFLINE": "1"}

    say("The corpus: 500 PubMed abstracts, tokenised, split and checksummed.")
    submit(*PREPARE, "--wait")

    say("The run: 2 nodes x 2 ranks, FSDP hybrid sharding, 60 steps.")
    run = submit(*TRAINING)

    wait_until(lambda: last_step(run) >= INTERRUPT_AT_STEP, run)
    if on_slurm:
        say(f"It has reached step {last_step(run)}. Now a job with a higher priority takes its nodes.")
        launcher("devcluster", "preempt", "--dir", str(folder / "cluster"))
    else:
        say(f"It has reached step {last_step(run)}. Now it is asked to stop, and then resumed.")
        launcher("stop", run.name)
        wait_until(lambda: len(events(run, "reason")) == 1 and events(run, "action") != [], run)
        launcher("resume", run.name)

    say("It saves, exits, is queued again, and resumes after its last step.")
    wait_until(lambda: "finished" in events(run, "reason") and "done" in events(run, "action"), run)
    launcher("status", run.name, "--plot")
    launcher("status")
    say(f"Everything about it is in {run}")
    if on_slurm:
        say(f"The cluster is still running; to stop it: launcher devcluster down --dir {folder / 'cluster'}")


def refuse_missing_packages() -> None:
    """Refuse to begin without what a prepare and a training import.

    Raises:
        LauncherError: Something is not installed.
    """
    from importlib.util import find_spec

    needed = ("torch", "transformers", "accelerate", "datatrove", "orjson", "wandb")
    if missing := [name for name in needed if find_spec(name) is None]:
        raise LauncherError(
            f"the demo trains, and needs {', '.join(missing)}; install them in this environment with "
            f"{how_to_install('data', 'train')}"
        )


def start_cluster(folder: Path) -> tuple[Path, bool]:
    """Start the dev cluster, or fall back to ordinary processes; return the profile and whether it is Slurm's."""
    from launcher.devcluster.machine import missing_programs

    missing = missing_programs(accounting=False)
    if not missing:
        if not succeeds("devcluster", "up", "--dir", str(folder / "cluster")):
            raise LauncherError("the dev cluster did not start; the reason is above")
        return folder / "cluster" / "cluster.yaml", True
    say(f"Slurm is not installed here ({', '.join(missing)} missing); the same story with ordinary processes.")
    profile = folder / "local.yaml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    roots = "".join(f"  {name}: {json.dumps(str(folder / name))}\n" for name in ("runs", "data", "corpora", "models"))
    profile.write_text(f"name: demo\nexecutor: local\nroots:\n{roots}gpus: {{device: cpu}}\n", encoding="utf-8")
    return profile, False


def submit(*arguments: str) -> Path:
    """Submit one recipe, show the command, return the run directory.

    Raises:
        LauncherError: It was not submitted, or with `--wait` did not finish.
    """
    show("launcher", "submit", *arguments)
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "submit", *arguments, "--yes", "--json", "--rerun"],
        cwd=SHIPPED,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    run = submitted_run(done.stdout)
    if done.returncode or run is None:
        where = f"; its run directory is {run['folder']}" if run else ""
        raise LauncherError(f"`launcher submit {' '.join(arguments)}` failed; the reason is above{where}")
    typer.echo(f"run {run['id']}, job {run['job']}, {run['folder']}")
    return Path(run["folder"])


def submitted_run(printed: str) -> dict[str, str] | None:
    """Return the one run that `launcher submit --json` told of; None if it told of none."""
    try:
        [run] = json.loads(printed)["runs"]
        return {key: str(run[key]) for key in ("id", "job", "folder")}
    except (ValueError, KeyError, TypeError):
        return None


def launcher(*arguments: str) -> None:
    """Show a command and run it.

    Raises:
        LauncherError: It failed.
    """
    if not succeeds(*arguments):
        raise LauncherError(f"`launcher {' '.join(arguments)}` failed; the reason is above")


def succeeds(*arguments: str) -> bool:
    """Show a command, run it, and tell whether it succeeded."""
    show("launcher", *arguments)
    return subprocess.run([sys.executable, "-m", "launcher", *arguments], cwd=SHIPPED, check=False).returncode == 0


def show(*words: str) -> None:
    """Print a command as a person would type it."""
    typer.echo("\n$ " + " ".join(words))


def say(text: str) -> None:
    """Print a line of the story."""
    typer.echo(f"\n# {text}")


def last_step(run: Path) -> int:
    """Return the last step that was logged."""
    return max((int(row["step"]) for row in read_json_lines(run / "metrics.jsonl")), default=0)


def events(run: Path, key: str) -> list[object]:
    """Return the values of one key over the ledger."""
    return [row[key] for row in read_json_lines(run / "attempts.jsonl") if key in row]


def wait_until(reached: Callable[[], bool], run: Path, seconds: float = 600) -> None:
    """Wait, and show the step on a terminal; if the run gives up, print its logs and exit."""
    from rich.console import Console

    deadline = time.monotonic() + seconds
    with Console().status("") as line:
        while not reached():
            if "stop" in events(run, "action") and "stopped" not in events(run, "reason"):
                line.stop()
                succeeds("logs", run.name)
                raise LauncherError(f"the run gave up; see {run}")
            if time.monotonic() > deadline:
                raise LauncherError(f"gave up waiting after {seconds:.0f} s; see {run}")
            line.update(f"step {last_step(run)}")
            time.sleep(0.5)
