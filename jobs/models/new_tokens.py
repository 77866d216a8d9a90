"""New tokens of a model: rows for them in its embeddings, each starting as the mean of what it replaces.

The mean, for the input as for the output embedding, is Gee et al.'s fast vocabulary transfer
(https://aclanthology.org/2022.emnlp-industry.41). An adapter trains these rows alone, or both embeddings as a whole.
"""

from pathlib import Path

import torch
from peft import LoraConfig
from peft.utils.integrations import gather_params_ctx
from transformers import PreTrainedModel

from jobs.data.tokenize import load_encoder
from jobs.runtime.context import Context
from launcher.errors import LauncherError
from launcher.expansion import Expansion, read_expansion
from launcher.recipe.training import TrainingRecipe


def new_tokens(context: Context, recipe: TrainingRecipe) -> Expansion | None:
    """Read what the recipe's `model.tokenizer` adds to the model's own; None if it has none.

    Raises:
        LauncherError: it was not made by `kind: vocabulary` for this model, or is bound by an agreement that the recipe
            denies.
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
            f"model.tokenizer: `{model.tokenizer}` adds to the tokenizer of `{expansion.base.path}`, and that of "
            f"`{model.path}` is another; make one for this model by `kind: vocabulary`"
        )
    return expansion


def add_rows(model: PreTrainedModel, expansion: Expansion) -> None:
    """Give a model's embeddings rows for new tokens.

    Args:
        model: Before it is adapted or sharded; changed.
        expansion: Which tokens are new, and what they replace.
    """
    if expansion.expanded.vocab_size > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(expansion.expanded.vocab_size, mean_resizing=False)
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = {id(layer.weight): layer.weight for layer in layers if layer is not None}
    with torch.no_grad(), gather_params_ctx([*weights.values()], modifier_rank=0):
        for weight in weights.values():
            for number, parts in enumerate(expansion.parts, expansion.base.vocab_size):
                weight[number] = weight[list(parts)].float().mean(0)


def train_embeddings(config: LoraConfig, model: PreTrainedModel, which: str, expansion: Expansion | None) -> None:
    """Have a LoRA train embeddings as well.

    Args:
        config: peft's settings; changed.
        model: The base.
        which: The recipe's `adapter.embeddings`.
        expansion: The new tokens, if there are some.
    """
    names = _embedding_names(model)
    if which == "all":
        config.modules_to_save = names
        config.ensure_weight_tying = len(names) == 1
    elif which == "new":
        assert expansion is not None, "a recipe without new tokens cannot say so"
        rows = [*range(expansion.base.vocab_size, expansion.expanded.vocab_size)]
        config.trainable_token_indices = dict.fromkeys(names, rows)


def _embedding_names(model: PreTrainedModel) -> list[str]:
    """Last names of the modules that have rows for tokens: the input's, and the output's if it has its own."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {id(module): key.rpartition(".")[2] for key, module in model.named_modules()}
    is_tied = layers[1] is None or layers[0].weight is layers[1].weight
    return [names[id(layer)] for layer in layers[: 1 if is_tied else 2]]
