"""A small pipeline whose second stage is a sweep or a search, and whose third stage evaluates the best of it."""

import json
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parents[2] / "recipes"


def write_swept_pipeline(path: Path, ranks: list[int], steps: int = 4, metric: str = "token_perplexity") -> Path:
    """Write it.

    Args:
        path: The file.
        ranks: Values of `adapter.r`, a point for each.
        steps: Steps of each training.
        metric: What is selected by.
    """
    how = {"sweep": {"grid": {"adapter.r": ranks}}, "select": {"metric": metric}}
    return _write(path, "swept", steps, {}, how)


def write_searched_pipeline(path: Path, trials: int, steps: int = 4) -> Path:
    """Write the same pipeline with a search in place of the sweep.

    Args:
        path: The file.
        trials: How many trials the search has, two at once.
        steps: Steps of each.
    """
    space = {"optim.lr": {"low": 1e-4, "high": 1e-2, "scale": "log"}}
    search = {"method": "random", "space": space, "trials": trials, "parallel": 2, "metric": "validation_loss"}
    return _write(path, "searched", steps, {"search": search}, {})


def _write(path: Path, name: str, steps: int, keys: dict[str, Any], how: dict[str, Any]) -> Path:
    corpus = [{"name": "notes"}]
    small = {"resources.gpus_per_node": 1, "schedule.length": f"{steps} steps", "checkpoint.interval": "2 steps"}
    stages: dict[str, Any] = {
        "prepare": {"recipe": f"{RECIPES}/prepare_mimic_iv.yaml", "set": {"corpus": "notes"}},
        "adapt": {
            "recipe": f"{RECIPES}/clinical_llama_lora_mimic.yaml",
            "set": {"data.corpora": corpus, "output": "clinical", "batch.global_batch": "4 sequences", **small, **keys},
            **how,
        },
        "evaluate": {
            "recipe": f"{RECIPES}/clinical_eval.yaml",
            "set": {
                "model.adapters": [{"path": "clinical"}],
                "tasks": [{"type": "perplexity", "name": "notes", "corpus": "notes", "limit": 4, "length": 64}],
            },
        },
    }
    path.write_text(json.dumps({"kind": "pipeline", "name": name, "stages": stages}))
    return path
