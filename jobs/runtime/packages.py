"""Which packages a recipe needs on the nodes: what is missing is told before the work, and not tried again."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec

from launcher.errors import LauncherError
from launcher.recipe import Recipe
from launcher.recipe.training import TrainingRecipe

MODULES = {
    "data": ("datatrove", "lxml", "numpy", "orjson", "py3langid", "pyarrow", "regex", "transformers", "xxhash"),
    "train": ("accelerate", "numpy", "peft", "psutil", "safetensors", "torch", "transformers"),
    "eval": ("scipy", "sklearn"),
    "deepspeed": ("deepspeed",),
    "quantization": ("bitsandbytes",),
}
"""What the extras of setup.cfg are imported as. Without wandb, which only tracked runs need."""

EXTRAS = {
    "prepare": ("data",),
    "vocabulary": ("data",),
    "cpt": ("train",),
    "sft": ("data", "train"),
    "classify": ("data", "train", "eval"),
    "merge": ("data", "train"),
}
"""Extras of each kind, whatever else its recipe says."""


def require_packages(recipe: Recipe) -> None:
    """Refuse a recipe that this Python cannot carry out.

    Raises:
        LauncherError: A package is not installed; the message names the extras to install.
    """
    extras = extras_of(recipe)
    wanted = [*(name for extra in extras for name in MODULES[extra])]
    if isinstance(recipe, TrainingRecipe) and recipe.tracking.mode != "disabled":
        wanted.append("wandb")
    missing = sorted({name for name in wanted if find_spec(name) is None})
    if missing:
        raise LauncherError(
            f"kind: `{recipe.kind}` needs {', '.join(missing)}, which {sys.executable} does not have; install the "
            f"launcher there with `pip install -e '.[{','.join(extras)}]'`"
        )


def extras_of(recipe: Recipe) -> tuple[str, ...]:
    """Name the extras of setup.cfg that a recipe needs on the nodes."""
    return (*EXTRAS[recipe.kind], *_extras_of_training(recipe))


def _extras_of_training(recipe: Recipe) -> Iterator[str]:
    if not isinstance(recipe, TrainingRecipe):
        return
    if recipe.parallel.strategy.startswith("zero"):
        yield "deepspeed"
    if recipe.model.quantization:
        yield "quantization"
