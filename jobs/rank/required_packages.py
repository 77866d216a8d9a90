"""Which packages a recipe needs on the nodes; a missing one ends the run before the work, for good."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from launcher.errors import LauncherError, how_to_install
from launcher.recipe import Recipe

MODULES = {
    "data": (
        *(
            "ahocorasick",
            "datatrove",
            "lxml",
            "numpy",
            "orjson",
            "py3langid",
            "pyarrow",
            "regex",
            "transformers",
            "xxhash",
        ),
    ),
    "train": ("accelerate", "numpy", "peft", "psutil", "safetensors", "torch", "transformers"),
    "eval": ("scipy", "sklearn"),
    "align": ("trl",),
    "chat": ("gradio",),
    "debug": ("debugpy",),
    "deepspeed": ("deepspeed",),
    "quantization": ("bitsandbytes",),
    "tensorboard": ("tensorboard",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
}
"""The modules of each extra in setup.cfg, without wandb, which only tracked runs need."""


def require_packages(recipe: Recipe) -> None:
    """Refuse a recipe that this Python cannot carry out.

    Raises:
        LauncherError: A package is not installed; the message names the extras to install.
    """
    is_tracked = recipe.is_tracked and recipe.tracking.mode != "disabled"
    events = ("tensorboard",) if recipe.is_tracked and recipe.tracking.tensorboard else ()
    extras = (*recipe.required_extras(), *events)
    require_extras(f"kind: `{recipe.kind}`", extras, ["wandb"] if is_tracked else [])


def require_extras(what: str, extras: Sequence[str], further: Sequence[str] = ()) -> None:
    """Refuse what this Python cannot carry out.

    Args:
        what: Is to be done, for the message.
        extras: Of setup.cfg, that it needs.
        further: Modules that it needs besides.

    Raises:
        LauncherError: A package is not installed; the message names the extras to install.
    """
    wanted = [*(name for extra in extras for name in MODULES[extra]), *further]
    missing = sorted({name for name in wanted if find_spec(name) is None})
    if missing:
        raise LauncherError(
            f"{what} needs {', '.join(missing)}, which {sys.executable} does not have; install them there with "
            f"{how_to_install(*extras)}"
        )
