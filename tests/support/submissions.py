"""Submitting in tests, and what lies in the runs folder afterwards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.cluster import Cluster
from launcher.load import LoadedRecipe
from launcher.recipe import Recipe
from launcher.run.paths import RunDir, submissions_root
from launcher.submit.plan_submission import SubmitOptions, plan_submission
from launcher.submit.queue_all import submit as submit_recipes

MakeCluster = Callable[..., Cluster]
MakeRecipe = Callable[..., Recipe]

RATES: dict[str, Any] = {
    "kind": "cpt",
    "name": "rates",
    "model": {"path": "model"},
    "data": {"corpora": [{"name": "text"}]},
    "batch": {"global_batch": "16 sequences", "sequence_length": 64},
    "optim": {"lr": 1e-3},
    "schedule": {"length": "10 steps"},
    "resources": {"cpus_per_task": 1, "time": "10min"},
}
"""A training whose learning rate searches vary."""


def write_profile(folder: Path, cluster: Cluster) -> Path:
    """Write the profile of a cluster into a file; JSON is YAML, too."""
    path = folder / "cluster.yaml"
    path.write_text(cluster.model_dump_json(exclude_defaults=True))
    return path


def submit(recipes: list[LoadedRecipe], cluster: Cluster, options: SubmitOptions) -> list[RunDir]:
    return [frozen.folder for frozen in submit_recipes(plan_submission(recipes, cluster, options))]


def loaded(*recipes: Recipe, folder: Path = Path("/somewhere")) -> list[LoadedRecipe]:
    return [LoadedRecipe(recipe, folder / "recipe.yaml", f"name: {recipe.name}  # as written\n") for recipe in recipes]


def make_model(cluster: Cluster, name: str) -> Path:
    """Make the folder of a model of which nothing is known."""
    folder = Path(cluster.roots.models, name)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def make_corpus(cluster: Cluster, name: str) -> Path:
    """Make the folder of a corpus of which nothing is known."""
    folder = Path(cluster.roots.corpora, name)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def make_adapter(cluster: Cluster, name: str) -> Path:
    """Make the folder of an adapter, without a weight."""
    folder = Path(cluster.roots.models, name)
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return folder


def all_runs(cluster: Cluster) -> list[Path]:
    root = Path(cluster.roots.runs)
    return [path for path in root.iterdir() if not path.name.startswith(".")] if root.exists() else []


def all_submissions(cluster: Cluster) -> list[Path]:
    return list(submissions_root(Path(cluster.roots.runs)).iterdir())
