"""Recipes and cluster profiles for tests, written and loaded."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.errors import Fault, RecipeError
from launcher.load import load_cluster, load_recipes
from launcher.recipe import CptRecipe

RECIPE = """\
kind: cpt
name: tiny
model: {path: org/model}
data:
  corpora:
    - name: abstracts
batch: {global_batch: 8 sequences}
optim:
  lr: 1e-5
schedule:
  length: 10 steps
resources:
  time: 1h
rehearsal:
  optim: {lr: 1e-3}
"""

PROFILE = """\
name: site
roots: {runs: /r, data: /d, corpora: /c, models: /m}
"""

TOKEN = "hf_" + "aB3" * 10
"""The shape of a Hugging Face token; it opens nothing."""


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    """Write a file."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, overrides: Sequence[str] = (), rehearse: bool = False) -> CptRecipe:
    """Load the one recipe of a text."""
    (loaded,) = load_recipes(write(folder, text), overrides, rehearse)
    assert isinstance(loaded.recipe, CptRecipe)
    return loaded.recipe


def find_faults(folder: Path, text: str, overrides: Sequence[str] = (), rehearse: bool = False) -> list[Fault]:
    """Return the faults of a text that is no recipe."""
    path = write(folder, text)
    with pytest.raises(RecipeError) as caught:
        load_recipes(path, overrides, rehearse)
    return list(caught.value.faults)


def faults(folder: Path, text: str, overrides: Sequence[str] = (), rehearse: bool = False) -> list[str]:
    """Return what is said about a text that is no recipe."""
    return [str(fault).replace(f"{folder}/", "") for fault in find_faults(folder, text, overrides, rehearse)]


def summarise(found: Sequence[Fault]) -> list[str]:
    """Say of faults where they are, of what kind, and about which key: `recipe.yaml:9 unknown-key optim.epps`."""
    return [
        " ".join(filter(None, [f"{Path(one.file).name}{f':{one.line}' * bool(one.line)}", one.code, one.key]))
        for one in found
    ]


def profile(folder: Path, text: str = PROFILE) -> Cluster:
    """Load a cluster profile."""
    return load_cluster(str(write(folder, text, "profile.yaml")))


def find_profile_faults(folder: Path, text: str) -> list[Fault]:
    """Return the faults of a text that is no profile."""
    with pytest.raises(RecipeError) as caught:
        profile(folder, text)
    return list(caught.value.faults)


def profile_faults(folder: Path, text: str) -> list[str]:
    """Return what is said about a text that is no profile."""
    return [str(fault).replace(f"{folder}/", "") for fault in find_profile_faults(folder, text)]
