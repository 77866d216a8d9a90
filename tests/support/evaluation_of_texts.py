"""Evaluations by generated text in tests."""

import json
from pathlib import Path
from typing import Any

from jobs.kinds.evaluate import main
from jobs.rank.context import Context
from launcher.artifacts.scores import TaskScores, read_scores
from launcher.recipe import EvaluateRecipe
from tests.support.prepare_runs import ASSETS, context_of

DECISIONS = {"max_new_tokens": 12}


def evaluation(folder: Path, *tasks: dict[str, Any], **changes: Any) -> Context:
    """The only rank of an evaluation whose run directory lies in a folder; shipped files are below `assets/`."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "assets").exists():
        (folder / "assets").symlink_to(ASSETS)
    recipe = {
        "kind": "evaluate",
        "name": "scores",
        "model": {"path": "stories260k", "dtype": "fp32"},
        "tasks": [{"type": "generate", "decoding": DECISIONS, **one} for one in tasks],
        "tokens_per_batch": 2048,
        "tracking": {"mode": "disabled"},
        "resources": {"cpus_per_task": 1, "time": "10min"},
    }
    return context_of(folder, EvaluateRecipe.model_validate_json(json.dumps(recipe | changes)))


def scores_of(context: Context) -> dict[str, TaskScores]:
    """Carry out an evaluation; return what its tasks came to."""
    main(context)
    return read_scores(context.run.outputs).tasks
