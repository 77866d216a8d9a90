"""From the recipe's `model` section to a model in memory."""

from collections.abc import Iterable

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, set_seed
from transformers.utils.logging import disable_progress_bar

from launcher.corpus import Manifest
from launcher.errors import LauncherError
from launcher.recipe.sections import Batch, Model

_ATTENTION = {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2"}
"""The recipe's words in transformers' own."""


def build_causal_lm(section: Model, path: str, seed: int) -> PreTrainedModel:
    """Load or initialise a causal language model, in fp32.

    Parameters and optimizer stay in fp32 whatever format the recipe computes in. Weights come from
    safetensors only: a pickle can run code. Special tokens are left as the model has them.

    Args:
        section: The recipe's section.
        path: Folder of the model, or its Hugging Face id.
        seed: For random initialisation; every rank draws the same weights.
    """
    disable_progress_bar()  # a log file is no terminal
    options = {"trust_remote_code": section.trust_remote_code, "attn_implementation": _ATTENTION[section.attention]}
    model: PreTrainedModel
    if section.init == "random":
        set_seed(seed)
        model = AutoModelForCausalLM.from_config(published_config(section, path), dtype=torch.float32, **options)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, use_safetensors=True, **options)
    model.config.use_cache = False
    return model


def published_config(section: Model, path: str) -> PreTrainedConfig:
    """Read the model's configuration as it was published."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=section.trust_remote_code)
    return config


def check_fits(model: PreTrainedModel, batch: Batch, corpora: Iterable[Manifest]) -> None:
    """Refuse data that the model has no embeddings or positions for.

    Raises:
        LauncherError: a corpus was made with another, larger vocabulary, or sequences are too long.
    """
    config = model.config.get_text_config()
    for corpus in corpora:
        if corpus.tokenizer.vocab_size > config.vocab_size:
            raise LauncherError(
                f"data.corpora: `{corpus.corpus}` was made with a tokenizer of {corpus.tokenizer.vocab_size} tokens, "
                f"but the model has {config.vocab_size}; prepare the corpus with this model's tokenizer"
            )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and batch.sequence_length > positions:
        raise LauncherError(
            f"batch.sequence_length: {batch.sequence_length} tokens are more than the model's {positions} positions; "
            f"write `{positions}` or less"
        )
