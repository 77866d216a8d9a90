"""A micro batch that does not fit is halved, by the batch process as users have it. Answers with what it became."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.gpu.measurement import ROOT
from bench.gpu.trainings import CORPUS, options_of_program
from launcher.cluster import Cluster
from launcher.recipe import read_recipe
from launcher.run.ledger import read_attempts
from launcher.run.paths import FINISHED, RunDir, SubmissionDir

MICRO_BATCH = 64


def main() -> int:
    """Run a batch process to its end."""
    options = options_of_program(__doc__).parse_args()
    run = _make_run(options.work, options.device)
    submission = SubmissionDir(options.work / "submission-halving")
    submission.root.mkdir()
    entry = {"run": str(run.root), "fingerprint": json.loads(run.record.read_text())["fingerprint"]}
    submission.manifest.write_text(json.dumps(entry) + "\n")
    command = [sys.executable, "-u", "-m", "jobs.batch.main", str(submission.root), "--local"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, stdout=sys.stderr, check=False)
    attempts = read_attempts(run.ledger)
    if done.returncode != FINISHED:
        raise SystemExit(f"Error: the batch process ended with {done.returncode}")
    if len(attempts) < 2 or attempts[0].reason != "does_not_fit":
        raise SystemExit(f"Error: nothing was halved: {[attempt.reason for attempt in attempts]}")
    print(json.dumps({"from": MICRO_BATCH, "to": attempts[-1].micro_batch, "attempts": len(attempts)}))
    return 0


def _make_run(work: Path, device: str) -> RunDir:
    """Write a run whose model leaves its process little of the GPU, or on CPUs fails as CUDA does."""
    from tests.support.counting_runs import write_run
    from tests.support.memory_limits import make_limited_model, make_tight_model

    if device == "cuda":
        make_limited_model(work / "limited", limit=300_000_000)
    else:
        make_tight_model(work / "limited", fits=16, rank=0)
    sections: dict[str, Any] = {
        "kind": "cpt",
        "name": "halving",
        "model": {"path": "limited", "trust_remote_code": True},
        "data": {"corpora": [{"name": CORPUS}]},
        # About 13 MB a sequence.
        "batch": {"global_batch": f"{MICRO_BATCH} sequences", "micro_batch": MICRO_BATCH, "sequence_length": 512},
        "optim": {"lr": 1e-3},
        "schedule": {"length": "2 steps"},
        "precision": {"dtype": "fp32"},
        "parallel": {"strategy": "ddp"},
        "tracking": {"mode": "disabled"},
        "resources": {"nodes": 1, "gpus_per_node": 1, "cpus_per_task": 2, "time": "10min"},
    }
    if device == "cpu":
        sections["batch"]["sequence_length"] = 32
    roots = {"runs": str(work), "corpora": str(work / "corpora"), "models": str(work), "data": str(work)}
    cluster = Cluster.model_validate({"name": "here", "executor": "local", "roots": roots, "gpus": {"device": device}})
    run = RunDir(work / "run-halving")
    write_run(run, read_recipe(json.dumps(sections)).model_dump(mode="json"), cluster)
    run.code.symlink_to(ROOT)
    return run


if __name__ == "__main__":
    sys.exit(main())
