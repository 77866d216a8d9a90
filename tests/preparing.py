"""Running `prepare` in tests: a run directory, a recipe, and a task that is not under Slurm."""

import json
import subprocess
import sys
from pathlib import Path

from jobs.runtime.context import Context, Ranks
from launcher.paths import RunDir
from launcher.recipe.prepare import PrepareRecipe
from launcher.record import RunRecord

ASSETS = Path(__file__).parent.parent / "recipes" / "assets"
ABSTRACTS = ASSETS / "pubmed_abstracts.jsonl.zst"


def make_context(folder: Path, **changes: object) -> Context:
    """A task of a prepare whose corpora lie in `folder`/corpora and whose recipe lies in `folder`."""
    fields = {
        "kind": "prepare",
        "name": "prepare",
        "corpus": "corpus",
        "sources": [{"files": "./*.jsonl*", "license": "MIT"}],
        "tokenizer": "stories260k",
        "validation": 0.1,
        "resources": {"cpus_per_task": 2, "time": "1h"},
    }
    recipe = PrepareRecipe.model_validate_json(json.dumps(fields | changes))
    roots = {"data": str(folder), "corpora": str(folder / "corpora"), "models": str(ASSETS), "runs": str(folder)}
    record = RunRecord(
        id="abc123",
        name="prepare",
        kind="prepare",
        fingerprint="",
        created=0.0,
        code_hash="hash",
        code_commit=None,
        recipe_folder=str(folder),
        wandb_id="",
        cluster={"roots": roots},
    )
    run = RunDir(folder / "run")
    run.root.mkdir(exist_ok=True)
    run.recipe.write_text(recipe.model_dump_json())
    record.write(run.record)
    return Context(run, recipe, record, attempt=0, ranks=Ranks(0, 1, 0, 1, 0))
