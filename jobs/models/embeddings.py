"""New tokens of a model: embedding rows for them, each starting as the mean of the tokens that it replaces.

The mean, for the input as for the output embedding, is Gee et al.'s fast vocabulary transfer
(https://aclanthology.org/2022.emnlp-industry.41). An adapter trains these rows alone, or both embeddings as a whole.
"""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.integrations import gather_params_ctx
from transformers import PreTrainedModel

from jobs.models.tokenizer import load_encoder
from jobs.rank.context import Context
from launcher.artifacts.tokenizer_manifest import Expansion, read_expansion
from launcher.errors import LauncherError
from launcher.recipe.kinds.training import TrainingRecipe


def embedding_layers(model: PreTrainedModel) -> tuple[Any, Any]:
    """Return the modules with a row for each token, of the input and the output; either may be None."""
    return model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]


def embedding_names(model: PreTrainedModel) -> list[str]:
    """Return the last names of these modules, the input's first."""
    names = {id(module): key.rpartition(".")[2] for key, module in model.named_modules()}
    return [names[id(layer)] for layer in embedding_layers(model) if layer is not None]


def new_tokens(context: Context, recipe: TrainingRecipe) -> Expansion | None:
    """Read what the recipe's `model.tokenizer` adds to the model's own tokenizer; None if the recipe names none.

    Raises:
        LauncherError: it was not made by `kind: vocabulary` for this model, or from credentialed text while the recipe
            says `open`.
    """
    model = recipe.model
    if model.tokenizer is None:
        return None
    expansion = read_expansion(Path(context.model_path(model.tokenizer)))
    if expansion.data_use == "credentialed" and recipe.data_use == "open":
        raise LauncherError(
            f"model.tokenizer: `{model.tokenizer}` was made of credentialed text; write `data_use: credentialed`"
        )
    own = load_encoder(context.model_path(model.path), model.path).record
    if own.fingerprint != expansion.base.fingerprint:
        raise LauncherError(
            f"model.tokenizer: `{model.tokenizer}` extends the tokenizer of `{expansion.base.path}`, but "
            f"`{model.path}` has a different one; make one for this model with `kind: vocabulary`"
        )
    return expansion


def add_rows(model: PreTrainedModel, expansion: Expansion) -> None:
    """Add embedding rows for new tokens to a model, and biases where its output embedding has them.

    Args:
        model: Before it is adapted or sharded; changed.
        expansion: Which tokens are new, and what they replace.
    """
    if expansion.expanded.vocab_size > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(expansion.expanded.vocab_size, mean_resizing=False)
    layers = [layer for layer in embedding_layers(model) if layer is not None]
    found = [one for layer in layers for one in (layer.weight, getattr(layer, "bias", None)) if one is not None]
    tables = {id(one): one for one in found}  # tied ones once
    with torch.no_grad(), gather_params_ctx([*tables.values()], modifier_rank=0):
        for table in tables.values():
            for number, parts in enumerate(expansion.parts, expansion.base.vocab_size):
                table[number] = table[list(parts)].float().mean(0)


def train_embeddings(config: LoraConfig, model: PreTrainedModel, which: str, expansion: Expansion | None) -> None:
    """Have a LoRA train embeddings as well.

    Args:
        config: peft's settings; changed.
        model: The base.
        which: The recipe's `adapter.embeddings`.
        expansion: The new tokens, if there are any.
    """
    given, out = embedding_layers(model)
    names = embedding_names(model)[: 1 if out is None or given.weight is out.weight else 2]  # once if tied
    if which == "all":
        config.modules_to_save = names
        config.ensure_weight_tying = len(names) == 1
    elif which == "new":
        assert expansion is not None, "a recipe without new tokens cannot say so"
        rows = [*range(expansion.base.vocab_size, expansion.expanded.vocab_size)]
        config.trainable_token_indices = dict.fromkeys(names, rows)
