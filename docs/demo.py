"""The story of the README, by its own commands: a run is preempted, requeued, resumes and finishes.

It uses a real Slurm (a dev cluster on this machine) if Slurm's programs are installed. Otherwise it runs ordinary
processes, and a stop request and `launcher resume` replace the preemption. `make demo` runs it.
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

    say("The run: 2 nodes x 2 ranks, FSDP hybrid sharding, 60 steps.")
    run = submit(*TRAINING)

    wait_until(lambda: last_step(run) >= INTERRUPT_AT_STEP, run)
    if on_slurm:
        say(f"It has reached step {last_step(run)}. Now a job with a higher priority takes its nodes.")
        launcher("devcluster", "preempt", "--dir", str(FOLDER / "cluster"))
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
        say(f"The cluster is still running; to stop it: launcher devcluster down --dir {FOLDER / 'cluster'}")


def start_cluster() -> tuple[Path, bool]:
    """Start the dev cluster, or fall back to ordinary processes; return the profile and whether it is Slurm's."""
    missing = missing_programs(accounting=False)
    if not missing:
        if launcher("devcluster", "up", "--dir", str(FOLDER / "cluster"), check=False).returncode:
            sys.exit("the dev cluster did not start; the reason is above")
        return FOLDER / "cluster" / "cluster.yaml", True
    say(f"Slurm is not installed here ({', '.join(missing)} missing); the same story with ordinary processes.")
    profile = FOLDER / "local.yaml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    roots = "".join(f"  {name}: {json.dumps(str(FOLDER / name))}\n" for name in ("runs", "data", "corpora", "models"))
    profile.write_text(f"name: demo\nexecutor: local\nroots:\n{roots}gpus: {{device: cpu}}\n", encoding="utf-8")
    return profile, False


def submit(*arguments: str) -> Path:
    """Submit one recipe, show the command, return the run directory."""
    show("launcher", "submit", *arguments)
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "submit", *arguments, "--yes", "--json", "--rerun"],
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
    """Wait, and show the step on a terminal; if the run gives up, print its logs and exit."""
    deadline = time.monotonic() + seconds
    with Console().status("") as line:
        while not reached():
            if "stop" in events(run, "action") and "stopped" not in events(run, "reason"):
                line.stop()
                launcher("logs", run.name)
                sys.exit(f"the run gave up; see {run}")
            if time.monotonic() > deadline:
                sys.exit(f"gave up waiting after {seconds:.0f} s; see {run}")
            line.update(f"step {last_step(run)}")
            time.sleep(0.5)


if __name__ == "__main__":
    main()
