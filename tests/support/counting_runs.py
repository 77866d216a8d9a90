"""Runs whose ranks only count (support/fake_jobs), so that the batch process can be tested with real processes."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.cluster import Cluster
from launcher.recipe import Recipe, read_recipe
from launcher.run.ledger import Attempt, read_attempts
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import RunRecord, fingerprint
from launcher.submit.render import Request, render
from tests.support.waiting import PATIENCE

PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Play:
    """What one run does."""

    steps: int = 4
    seconds: float = 0.05
    save_every: int = 1000
    acts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By attempt: `{"rank": 1, "at_step": 3, "exit_code": 1}`, `{"signal": 9}`, `{"block": true}`, `{"deaf": true}`,
    `{"stays": true}` (until it is stopped), `{"once": "name"}` (acts when the run directory has a file of that name),
    `{"micro_batch": 8}` and `{"announces": 78}` (noted in the ledger),
    `{"fill": true}` (the disk, up to the last byte), `{"remove": true}` (the run directory).
    While an act is to come, no rank does its last step."""
    nodes: int = 1
    gpus_per_node: int = 2
    time: str = "10min"
    max_failures: int = 3
    hang: str | None = "30min"

    @property
    def recipe(self) -> Recipe:
        """A recipe that asks for the play's resources."""
        fields = {
            "kind": "cpt",
            "name": "play",
            "model": {"path": "stories260k"},
            "data": {"corpora": [{"name": "play"}]},
            "batch": {"global_batch": f"{self.nodes * max(1, self.gpus_per_node)} sequences"},
            "optim": {"lr": 1e-4},
            "schedule": {"length": "1 epoch"},
            "resources": {
                "nodes": self.nodes,
                "gpus_per_node": self.gpus_per_node,
                "cpus_per_task": 1,
                "memory": "200MB",
                "time": self.time,
            },
            "limits": {"max_failures": self.max_failures, "hang": self.hang},
        }
        return read_recipe(json.dumps(fields))


def stage(folder: Path, cluster: Cluster, plays: Sequence[Play]) -> tuple[SubmissionDir, list[RunDir]]:
    """Write run directories and their submission directory, with the script that sbatch gets."""
    submission = SubmissionDir(folder / ".submissions" / "1")
    submission.root.mkdir(parents=True)
    request = Request(tuple(play.recipe for play in plays))
    submission.script.write_text(render(request, cluster, submission, PROJECT, sys.executable))
    runs = [_stage_run(RunDir(folder / f"play-{number}"), play, cluster) for number, play in enumerate(plays)]
    lines = [{"run": str(run.root), "fingerprint": RunRecord.read(run.record).fingerprint} for run in runs]
    submission.manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return submission, runs


def _stage_run(run: RunDir, play: Play, cluster: Cluster) -> RunDir:
    acting = {"steps": play.steps, "seconds": play.seconds, "save_every": play.save_every, "acts": play.acts}
    write_run(run, {**play.recipe.model_dump(mode="json"), "play": acting}, cluster)
    run.code.symlink_to(PROJECT / "tests" / "support" / "fake_jobs")
    return run


def write_run(run: RunDir, recipe: dict[str, Any], cluster: Cluster) -> None:
    """Write a run directory."""
    run.root.mkdir()
    run.recipe.write_text(json.dumps(recipe))
    RunRecord(
        id=run.root.name,
        name=run.root.name,
        kind=recipe["kind"],
        fingerprint=fingerprint(recipe),
        created=0.0,
        code_hash="",
        code_commit=None,
        recipe_folder="",
        wandb_id="",
        cluster=cluster.model_dump(mode="json"),
    ).write(run.record)


def start_batch(submission: SubmissionDir, option: str = "--local", **environ: str) -> "subprocess.Popen[str]":
    """Start the batch process."""
    command = [sys.executable, "-u", "-m", "jobs.batch.main", str(submission.root), *option.split()]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environ},
        cwd=submission.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_batch(
    submission: SubmissionDir, option: str = "--local", timeout: float = PATIENCE, **environ: str
) -> tuple[int, str]:
    """Run the batch process to its end; return its exit code and what it said."""
    process = start_batch(submission, option, **environ)
    said, _ = process.communicate(timeout=timeout)
    return process.returncode, said


def summary(run: RunDir) -> list[tuple[str | None, str | None]]:
    """Reason and action of each attempt."""
    return [(attempt.reason, attempt.action) for attempt in read_attempts(run.ledger)]


def last_attempt(run: RunDir) -> Attempt:
    """The newest attempt."""
    return read_attempts(run.ledger)[-1]


def seen(run: RunDir, attempt: int, rank: int) -> dict[str, Any]:
    """What a task saw of its environment."""
    found: dict[str, Any] = json.loads((run.root / f"seen-{attempt}-{rank}.json").read_text())
    return found
