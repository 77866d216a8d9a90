"""The story of the README, told by typing its commands: a run is preempted, comes back, and finishes.

On a real Slurm (a dev cluster on this machine) where Slurm's programs are installed, else with processes of this
machine, where a stop request and `launcher resume` stand in for the preemption. `make demo` runs it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from launcher.devcluster.machine import missing_programs

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("LAUNCHER_DEMO", Path.home() / ".launcher" / "demo"))
PREPARE = ("recipes/prepare_pile_pubmed.yaml", "--rehearse")
TRAINING = ("recipes/biomed_llama_cpt.yaml", "--rehearse")
INTERRUPT_AT_STEP = 15


def main() -> None:
    """Tell the story."""
    profile, on_slurm = start_cluster()
    os.environ |= {"LAUNCHER_CLUSTER": str(profile), "HF_HUB_OFFLINE": "1"}

    say("The corpus: 500 PubMed abstracts, tokenised, split and checksummed.")
    submit(*PREPARE, "--wait")

    say("The run: 2 nodes x 2 ranks, FSDP hybrid sharding, 60 steps. It is not waited for.")
    run = submit(*TRAINING)

    wait_until(lambda: last_step(run) >= INTERRUPT_AT_STEP, run)
    if on_slurm:
        say(f"It has reached step {last_step(run)}. Somebody with a higher priority wants its nodes.")
        launcher("devcluster", "preempt", "--dir", str(FOLDER / "cluster"))
    else:
        say(f"It has reached step {last_step(run)}. It is asked to stop, and resumed.")
        launcher("stop", run.name)
        wait_until(lambda: len(events(run, "reason")) == 1 and events(run, "action") != [], run)
        launcher("resume", run.name)

    say("It saves, gives way, is queued again, and goes on where it was.")
    wait_until(lambda: "finished" in events(run, "reason") and "done" in events(run, "action"), run)
    launcher("status", run.name, "--plot")
    launcher("status")
    say(f"Everything about it is in {run}")
    if on_slurm:
        say(f"The cluster runs on; to take it down: launcher devcluster down --dir {FOLDER / 'cluster'}")


def start_cluster() -> tuple[Path, bool]:
    """Start the dev cluster, or fall back to this machine's processes; return the profile and whether it is Slurm's."""
    missing = missing_programs(accounting=False)
    if not missing:
        if launcher("devcluster", "up", "--dir", str(FOLDER / "cluster"), check=False).returncode:
            sys.exit("the dev cluster did not start; why is said above")
        return FOLDER / "cluster" / "cluster.yaml", True
    say(f"Slurm cannot be had here, for want of {', '.join(missing)}; the same story with processes of this machine.")
    profile = FOLDER / "local.yaml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    roots = "".join(f"  {name}: {json.dumps(str(FOLDER / name))}\n" for name in ("runs", "data", "corpora", "models"))
    profile.write_text(f"name: demo\nexecutor: local\nroots:\n{roots}gpus: {{device: cpu}}\n", encoding="utf-8")
    return profile, False


def submit(*arguments: str) -> Path:
    """Submit one recipe, show the command, return the run directory."""
    show("launcher", "submit", *arguments)
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "submit", *arguments, "--yes", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    [run] = json.loads(done.stdout)["runs"]
    print(f"run {run['id']}, job {run['job']}, {run['folder']}")
    return Path(run["folder"])


def launcher(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Show a command and run it."""
    show("launcher", *arguments)
    return subprocess.run([sys.executable, "-m", "launcher", *arguments], cwd=ROOT, check=check)


def show(*words: str) -> None:
    """Print a command as a person would type it."""
    print("\n$ " + " ".join(words), flush=True)


def say(text: str) -> None:
    """Print a line of the story."""
    print(f"\n# {text}", flush=True)


def rows(path: Path) -> list[dict[str, object]]:
    """Read a .jsonl file that is being written."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def last_step(run: Path) -> int:
    """Return the last step that was logged."""
    return max((int(str(row["step"])) for row in rows(run / "metrics.jsonl")), default=0)


def events(run: Path, key: str) -> list[object]:
    """Return the values of one key over the ledger."""
    return [row[key] for row in rows(run / "attempts.jsonl") if key in row]


def wait_until(reached: Callable[[], bool], run: Path, seconds: float = 600) -> None:
    """Wait, on a terminal with a line that shows the step; a run that gave up ends the story with its logs."""
    deadline = time.monotonic() + seconds
    with Console().status("") as line:
        while not reached():
            if "stop" in events(run, "action") and "stopped" not in events(run, "reason"):
                line.stop()
                launcher("logs", run.name)
                sys.exit(f"the run gave up; see {run}")
            if time.monotonic() > deadline:
                sys.exit(f"waited {seconds:.0f} s in vain; see {run}")
            line.update(f"step {last_step(run)}")
            time.sleep(0.5)


if __name__ == "__main__":
    main()
