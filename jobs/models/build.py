"""From the recipe's `model` section to a model in memory."""

from collections.abc import Iterable, Iterator, Mapping
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

from jobs.models.embeddings import add_rows
from jobs.models.folder import loading, require_no_adapter
from jobs.models.fused_loss import fuse_loss
from launcher.artifacts.corpus_manifest import Manifest
from launcher.artifacts.model_config import why_not_causal
from launcher.artifacts.positions import missing_positions
from launcher.artifacts.token_ids import missing_rows
from launcher.artifacts.tokenizer_manifest import Expansion
from launcher.errors import LauncherError
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.recipe.sections.common import Batch, Model, Quantization

ATTENTION = {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2", "flex": "flex_attention"}
"""The recipe's words in transformers' own."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def weights_dtype(recipe: TrainingRecipe) -> torch.dtype:
    """Choose the format of a model's weights: fp32 if they are trained, else the one that the recipe computes in.

    Updates of a trained weight are smaller than 16 bits resolve; a frozen one never changes.
    """
    return torch.float32 if recipe.adapter is None else DTYPES[recipe.precision.dtype]


def build_causal_lm(
    section: Model, path: str, seed: int, dtype: torch.dtype = torch.float32, expansion: Expansion | None = None
) -> PreTrainedModel:
    """Load or initialise a causal language model, with embedding rows for new tokens and a memory-saving loss.

    See `build` and `fuse_loss`.
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
        seed: For random initialisation, at least of the head; every rank draws the same weights.
        dtype: Format of the weights, and of the layers that quantisation leaves unchanged.
        settings: Changes of the model's configuration for a new head; None: no new head.

    Raises:
        LauncherError: it cannot be loaded, weights are missing, or it is no causal language model but is to be one.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call] # a log file is no terminal
    if auto is AutoModelForCausalLM:
        require_causal(section, path)
    options = {
        "trust_remote_code": section.trust_remote_code,
        "attn_implementation": ATTENTION[section.attention],
        "dtype": dtype,
    }
    model: PreTrainedModel
    set_seed(seed)
    if section.init == "random":
        config = published_config(section, path, settings)
        with loading(path, "model.path"):
            model = auto.from_config(config, **options)
    else:
        if section.quantization:
            options["quantization_config"] = _quantization(section.quantization, dtype)
        options |= {"use_safetensors": True, "output_loading_info": True}
        with loading(path, "model.path", weights=True):
            model, found = auto.from_pretrained(path, **options, **(settings or {}))
        require_no_adapter(model, f"model.path: `{path}`")
        _require_weights(model, found["missing_keys"], settings is not None)
        _tell_new_and_unused(found["missing_keys"], found["unexpected_keys"])
        _keep_layout(model)
    model.config.use_cache = False
    return model


def _require_weights(model: PreTrainedModel, missing: Iterable[str], has_new_head: bool) -> None:
    """Refuse a model for which transformers initialised missing tensors at random.

    The pooler of BERT and its kin is part of a head: language models are published without it.
    """
    body = f"{model.base_model_prefix}."
    made_up = [key for key in sorted(missing) if not has_new_head or (key.startswith(body) and ".pooler." not in key)]
    if made_up:
        raise LauncherError(
            f"model.path: the files hold no {', '.join(f'`{key}`' for key in made_up[:3])} ({len(made_up)} tensors are "
            "missing); copy the model again, or name another"
        )


def _tell_new_and_unused(new: Iterable[str], unused: Iterable[str]) -> None:
    """Say in a line each what transformers says in a table that looks like an error."""
    said = {"the new head starts from random numbers": sorted(new), "not used from its files": sorted(unused)}
    for what, keys in said.items():
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            print(f"model: {what}: {', '.join(keys[:3])}{more}", flush=True)


def _quantization(section: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Express a section in transformers' terms.

    The bytes of 4-bit weights are stored as numbers of the model's format: sharding cuts weights where they are
    stored as one kind of number, and corrupted bytes (https://github.com/huggingface/accelerate/issues/3983).
    """
    if section.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=section.type,
        bnb_4bit_use_double_quant=section.double,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,
    )


def _keep_layout(model: PreTrainedModel) -> None:
    """Keep the layout of 4-bit weights when the model is evaluated.

    For evaluation on CPUs with bfloat16 bitsandbytes (0.50) changes it in place, which fails for some shapes; training
    and checkpoints, which come later, know one layout.
    """
    modules: Iterator[Any] = model.modules()
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def published_config(section: Model, path: str, settings: Mapping[str, Any] | None = None) -> PreTrainedConfig:
    """Read the model's configuration as it was published, with some settings changed."""
    trust = section.trust_remote_code
    with loading(path, "model.path"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=trust, **(settings or {}))
    return config


def require_causal(section: Model, path: str) -> None:
    """Refuse what its config.json calls an encoder: transformers would load it as a causal language model, too.

    Raises:
        LauncherError: it is one.
    """
    if why := why_not_causal(published_config(section, path).to_dict()):
        raise LauncherError(f"model.path: `{path}` {why}")


def check_fits(
    model: PreTrainedModel, batch: Batch, virtual_tokens: int, corpora: Iterable[Manifest], own: int | None = None
) -> None:
    """Refuse data that the model has no embeddings or positions for.

    Args:
        model: The model.
        batch: The recipe's section.
        virtual_tokens: That the recipe's adapter puts before each sequence.
        corpora: What it is to be trained on.
        own: Tokens of the model's own tokenizer, if they are known.

    Raises:
        LauncherError: a corpus was made with another, larger vocabulary, or sequences are too long.
    """
    config = model.config.get_text_config()
    for corpus in corpora:
        if corpus.tokenizer.vocab_size > config.vocab_size:
            check_rows(config.vocab_size, own)  # if that is the reason, another corpus does not help
            raise LauncherError(
                f"data.corpora: `{corpus.corpus}` was made with a tokenizer of {corpus.tokenizer.vocab_size} tokens, "
                f"but the model has {config.vocab_size}; prepare the corpus with this model's tokenizer"
            )
    check_positions(model, batch, virtual_tokens)


def check_rows(rows: int, tokens: int | None) -> None:
    """Refuse a tokenizer with more tokens than the model has embedding rows.

    Args:
        rows: Of the model.
        tokens: Of its tokenizer; None if they are not known.

    Raises:
        LauncherError: a token would have no row.
    """
    if fault := missing_rows(tokens, rows):
        raise LauncherError(f"model.path: {fault}")


def check_positions(model: PreTrainedModel, batch: Batch, virtual_tokens: int) -> None:
    """Refuse sequences that the model has no positions for.

    Args:
        model: The model.
        batch: The recipe's section.
        virtual_tokens: That the recipe's adapter puts before each sequence.

    Raises:
        LauncherError: they are too long.
    """
    if fault := missing_positions(batch.sequence_length, virtual_tokens, position_count(model)):
        raise LauncherError(f"batch.sequence_length: {fault}")


def let_stop(model: PreTrainedModel, token: int) -> list[int]:
    """Make generation stop, too, where the model learns that an answer ends; return all tokens that stop it."""
    settings = model.generation_config
    known = settings.eos_token_id
    stops = known if isinstance(known, list) else [known] if known is not None else []
    if token not in stops:
        stops = [token, *stops]
        settings.eos_token_id = stops
        # Published settings may contradict each other, and those that were changed are not saved then.
        settings._original_object_hash = hash(settings)
    return stops


def position_count(model: PreTrainedModel) -> int | None:
    """Return how long a sequence may be: RoBERTa and its kin start to count after the padding token's number."""
    config = model.config.get_text_config()
    # MPT's configuration does not give its `max_seq_len` the usual name.
    rows: int | None = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    tables = [module for name, module in model.named_modules() if name.endswith(".position_embeddings")]
    padding = getattr(tables[0], "padding_idx", None) if tables else None
    return rows if rows is None or padding is None else rows - padding - 1
