"""From the recipe's `model` section to a model in memory."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

from jobs.models.fused_loss import fuse_loss
from jobs.models.new_tokens import add_rows
from launcher.corpus import Manifest
from launcher.errors import LauncherError
from launcher.expansion import Expansion
from launcher.recipe.sections import Batch, Model, Quantization
from launcher.recipe.training import TrainingRecipe

_ATTENTION = {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2"}
"""The recipe's words in transformers' own."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def weights_dtype(recipe: TrainingRecipe) -> torch.dtype:
    """Choose the format of a model's weights: fp32 if they are trained, else the one that the recipe computes in.

    Training adds to a weight less than 16 bits resolve; a frozen one stays what it is.
    """
    return torch.float32 if recipe.adapter is None else _DTYPES[recipe.precision.dtype]


def build_causal_lm(
    section: Model, path: str, seed: int, dtype: torch.dtype = torch.float32, expansion: Expansion | None = None
) -> PreTrainedModel:
    """Load or initialise a causal language model, with rows for new tokens; its loss needs no logits of whole batches.

    See `build`.
    """
    model = build(AutoModelForCausalLM, section, path, seed, dtype)
    if expansion:
        add_rows(model, expansion)
    fuse_loss(model)
    return model


def build(
    auto: Any, section: Model, path: str, seed: int, dtype: torch.dtype, settings: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """Load or initialise a model.

    Weights come from safetensors only: a pickle can run code. Special tokens are left as the model has them.

    Args:
        auto: transformers' class for what the model does.
        section: The recipe's section.
        path: Folder of the model, or its Hugging Face id.
        seed: For random initialisation, of the head at least; every rank draws the same weights.
        dtype: Format of the weights, and of the layers that quantisation leaves as they are.
        settings: What to change in the model's configuration for a new head; None: it has all that it needs.

    Raises:
        LauncherError: weights are missing.
    """
    disable_progress_bar()  # a log file is no terminal
    options = {
        "trust_remote_code": section.trust_remote_code,
        "attn_implementation": _ATTENTION[section.attention],
        "dtype": dtype,
    }
    model: PreTrainedModel
    set_seed(seed)
    if section.init == "random":
        model = auto.from_config(published_config(section, path, settings), **options)
    else:
        if section.quantization:
            options["quantization_config"] = _quantization(section.quantization, dtype)
        options |= {"use_safetensors": True, "output_loading_info": True}
        model, found = auto.from_pretrained(path, **options, **(settings or {}))
        _require_weights(model, found["missing_keys"], settings is not None)
        _keep_layout(model)
    model.config.use_cache = False
    return model


def _require_weights(model: PreTrainedModel, missing: Iterable[str], has_new_head: bool) -> None:
    """Refuse a model of which transformers made up tensors that are in no file: training would go on, from noise.

    The pooler of BERT and its kin is part of a head: language models are published without.
    """
    body = f"{model.base_model_prefix}."
    made_up = [key for key in sorted(missing) if not has_new_head or (key.startswith(body) and ".pooler." not in key)]
    if made_up:
        raise LauncherError(
            f"model.path: the files hold no {', '.join(f'`{key}`' for key in made_up[:3])} ({len(made_up)} tensors are "
            "missing in all); copy the model again, or name another"
        )


def _quantization(section: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Express a section in transformers' terms.

    The bytes of 4-bit weights are stored as numbers of the model's format: sharding cuts weights where they are
    stored as one kind of number, and corrupted bytes (https://github.com/huggingface/accelerate/issues/3983).
    """
    if section.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=section.type,
        bnb_4bit_use_double_quant=section.double,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,
    )


def _keep_layout(model: PreTrainedModel) -> None:
    """Have 4-bit weights stay as they are when the model is evaluated.

    For evaluation on CPUs with bfloat16 bitsandbytes (0.50) lays them out anew, in place, and not all shapes can be;
    training, which goes on after it, and checkpoints know one layout.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def published_config(section: Model, path: str, settings: Mapping[str, Any] | None = None) -> PreTrainedConfig:
    """Read the model's configuration as it was published, but for some settings."""
    trust = section.trust_remote_code
    config: PreTrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=trust, **(settings or {}))
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
    check_positions(model, batch)


def check_positions(model: PreTrainedModel, batch: Batch) -> None:
    """Refuse sequences that the model has no positions for.

    Raises:
        LauncherError: they are too long.
    """
    positions = _positions(model)
    if positions is not None and batch.sequence_length > positions:
        raise LauncherError(
            f"batch.sequence_length: {batch.sequence_length} tokens are more than the model's {positions} positions; "
            f"write `{positions}` or less"
        )


def _positions(model: PreTrainedModel) -> int | None:
    """Tokens that a sequence may have: RoBERTa and its kin begin to count behind the number of the padding token."""
    rows: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tables = [module for name, module in model.named_modules() if name.endswith(".position_embeddings")]
    padding = getattr(tables[0], "padding_idx", None) if tables else None
    return rows if rows is None or padding is None else rows - padding - 1
