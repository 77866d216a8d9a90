"""A small pipeline whose second stage is a sweep of two trainings, of which a third stage evaluates the better one."""

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
    corpus = [{"name": "notes"}]
    small = {"resources.gpus_per_node": 1, "schedule.length": f"{steps} steps", "checkpoint.interval": "2 steps"}
    stages: dict[str, Any] = {
        "prepare": {"recipe": f"{RECIPES}/prepare_mimic_iv.yaml", "set": {"corpus": "notes"}},
        "adapt": {
            "recipe": f"{RECIPES}/clinical_llama_lora_mimic.yaml",
            "set": {"data.corpora": corpus, "output": "clinical", "batch.global_batch": "4 sequences", **small},
            "sweep": {"grid": {"adapter.r": ranks}},
            "select": {"metric": metric},
        },
        "evaluate": {
            "recipe": f"{RECIPES}/clinical_eval.yaml",
            "set": {
                "model.adapters": [{"path": "clinical"}],
                "tasks": [{"type": "perplexity", "name": "notes", "corpus": "notes", "limit": 4, "length": 64}],
            },
        },
    }
    path.write_text(json.dumps({"kind": "pipeline", "name": "swept", "stages": stages}))
    return path
