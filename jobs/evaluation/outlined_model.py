"""A model of which only the configuration is in memory: another process holds its weights."""

from contextlib import suppress
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from jobs.evaluation.loaded_model import DTYPES, LoadedModel, ModelFiles, find_files
from jobs.models.build import published_config
from jobs.models.folder import load_tokenizer, loading
from jobs.rank.context import Context
from jobs.rank.process_group import RankGroup
from launcher.recipe.sections.evaluated_model import EvaluatedModel


@dataclass(frozen=True, kw_only=True)
class OutlinedModel(LoadedModel):
    """A model whose weights have shapes and no values, on torch's meta device, and its tokenizer."""

    files: ModelFiles
    versions: dict[str, str]
    """Of the libraries that compute with the weights."""


def outline_model(
    context: Context, section: EvaluatedModel, group: RankGroup, versions: dict[str, str]
) -> OutlinedModel:
    """Read all of a model but its weights. A collective.

    Args:
        context: Knows where models are, and how the recipe calls the data.
        section: The recipe's.
        group: All ranks.
        versions: Of the libraries that compute with the weights.

    Raises:
        LauncherError: files are missing or do not go together, or were made of credentialed data and the recipe says
            `open`.
    """
    files = find_files(context, section, group)
    config = published_config(section.as_trained, str(files.base))
    with loading(files.base, "model.path", weights=True), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with suppress(OSError):  # there is none: transformers has made one from the model's configuration
        model.generation_config = GenerationConfig.from_pretrained(files.base)
    return OutlinedModel(
        model.eval(),
        load_tokenizer(files.tokenizer),
        group.device,
        DTYPES[section.dtype],
        files.record,
        files=files,
        versions=versions,
    )
