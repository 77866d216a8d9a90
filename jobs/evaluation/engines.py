"""What computes the texts of a `generate`: transformers in this process, or vLLM in one of its own."""

import json
import os
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from jobs.evaluation.generation_batches import Engine
from jobs.evaluation.generator import GenerationRequest, Generator
from jobs.evaluation.loaded_model import LoadedModel, load_model
from jobs.evaluation.outlined_model import OutlinedModel, outline_model
from jobs.evaluation.vllm_engine import VllmEngine
from jobs.evaluation.vllm_process import SCRIPT, VllmProcess, environment_for
from jobs.rank.context import Context
from jobs.rank.process_group import RankGroup
from launcher.errors import LauncherError
from launcher.recipe.kinds.generate import GenerateRecipe
from launcher.run.files import is_program
from launcher.run.paths import expand

_LIBRARIES = ("torch", "transformers", "tokenizers", "peft")
_VERSIONS_SECONDS = 300
"""The first start of a Python on a busy network file system takes long."""


def open_model(context: Context, recipe: GenerateRecipe, group: RankGroup) -> LoadedModel:
    """Load the model, or all of it but the weights if vLLM loads them. A collective.

    Raises:
        LauncherError: the model cannot be used, or the profile names no Python that has vLLM.
    """
    if recipe.engine == "transformers":
        return load_model(context, recipe.model, group)
    python = _python(context, recipe.engine)
    versions = group.from_main(_versions(context, python, group) if group.is_main else {})
    return outline_model(context, recipe.model, group, versions)


def open_engine(
    context: Context,
    recipe: GenerateRecipe,
    model: LoadedModel,
    requests: Sequence[GenerationRequest],
    end_of_turn: int | None,
) -> Engine:
    """Return what writes the texts.

    Args:
        context: The run and this rank.
        recipe: The run's.
        model: From `open_model`.
        requests: Of all prompts.
        end_of_turn: A token that ends a text, besides those that the model and its tokenizer name.

    Raises:
        LauncherError: vLLM cannot apply the adapter, or a stop string holds a special token and more.
    """
    if isinstance(model, OutlinedModel):
        environment = environment_for(os.environ, model.device, recipe.secrets)
        process = VllmProcess(_python(context, recipe.engine), environment, recipe.data_use == "open")
        return VllmEngine(model, requests, recipe, process, end_of_turn)
    return Generator(model, requests, recipe.decoding, recipe.seed, recipe.tokens_per_batch, end_of_turn)


def engine_versions(model: LoadedModel) -> dict[str, str]:
    """Return the versions of the libraries that compute with a model."""
    return model.versions if isinstance(model, OutlinedModel) else {name: version(name) for name in _LIBRARIES}


def _python(context: Context, engine: str) -> Path:
    named = context.record.cluster.get("engines", {}).get(engine)
    if named is None:
        raise LauncherError(
            f"engine: the profile names no Python that has {engine}; write `engines: {{{engine}: "
            "/path/to/bin/python}` in it, or `engine: transformers`"
        )
    python = expand(named)
    if not is_program(python):
        raise LauncherError(
            f"engine: `{python}`, which the profile names as `engines.{engine}`, is no program on this node; correct "
            "the path"
        )
    return python


def _versions(context: Context, python: Path, group: RankGroup) -> dict[str, str]:
    environment = environment_for(os.environ, group.device, context.recipe.secrets)
    try:
        asked = subprocess.run(
            [str(python), SCRIPT, "versions"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSIONS_SECONDS,
            check=True,
        )
        found: dict[str, str] = json.loads(asked.stdout)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().rpartition("\n")[2]
        raise LauncherError(
            f"engine: `{python}` cannot run vLLM ({said}); install vLLM there: `pip install vllm`"
        ) from None
    return found
