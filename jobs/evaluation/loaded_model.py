"""The model of an evaluation in memory, with its adapters, and what identifies it."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from jobs.models.adapters.stack import load_beside
from jobs.models.build import ATTENTION, build, position_count, require_causal
from jobs.models.classifier import reward_head
from jobs.models.embeddings import embedding_layers
from jobs.models.folder import TOKENIZER_CONFIG, checksums, load_tokenizer, local_folder, require_data_use
from jobs.models.merge.peft_merge import load_in_fp32, merge, put_on
from jobs.models.tokenizer import padding_token
from jobs.rank.context import Context
from jobs.rank.process_group import RankGroup
from jobs.rank.watchdog import WATCHDOG
from launcher.artifacts.adapter_folder import AdapterFolder, read_adapter
from launcher.errors import LauncherError
from launcher.recipe.sections.evaluated_model import EvaluatedModel

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
_HEADS = frozenset({"score", "classifier"})
"""Names that transformers gives to heads for sequences."""
UNBOUNDED = 1 << 20
"""Positions of a model that states no limit."""


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model, ready to be used, and its tokenizer."""

    model: Any
    """transformers' model, or peft's around it."""
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    record: dict[str, Any] = field(default_factory=dict)
    """For scores.json: path, checksums, adapters, number format."""
    is_sharded: bool = False
    """Whether weights are gathered while the whole model computes: no part of it can be called by itself, and all ranks
    must call it equally often."""
    probed: dict[str, bool] = field(default_factory=dict, compare=False)
    """What was found out about it, by name."""
    group: RankGroup | None = field(default=None, compare=False)
    """All ranks, if each of them has the model; None: this process uses it by itself."""

    @property
    def identity(self) -> str:
        """Equal for equal weights, adapters and number formats."""
        return hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()

    @property
    def bare(self) -> Any:
        """transformers' model, without what peft has put around it."""
        return _bare(self.model)

    @property
    def max_length(self) -> int:
        """Positions that the model has for a text: prompts and prefixes of an adapter take some of them."""
        positions = position_count(_bare(self.model)) or UNBOUNDED
        prompt = self._prompt
        return positions - prompt.num_virtual_tokens if prompt else positions

    @property
    def window(self) -> int:
        """Tokens that a layer looks back at most: fewer than `max_length` where attention has a sliding window."""
        config = _bare(self.model).config.get_text_config()
        size = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        return size or UNBOUNDED

    @property
    def rows(self) -> int:
        """Size of the vocabulary, as the logits have it."""
        size: int = _bare(self.model).config.get_text_config().vocab_size
        return size

    @property
    def body(self) -> Any:
        """The model without its output embedding; None if adapters put prompts before the text, or it is sharded."""
        return None if self.is_sharded or self._prompt else _bare(self.model).base_model

    @property
    def _prompt(self) -> Any:
        """Configuration of the adapter that puts prompts or a prefix before the text; None if there is none."""
        config = getattr(self.model, "active_peft_config", None)
        return config if config and config.is_prompt_learning else None

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits of last hidden states, [n, vocabulary]."""
        layer: Any = embedding_layers(_bare(self.model))[1]
        logits: Tensor = layer(hidden)
        return logits


@dataclass(frozen=True)
class ModelFiles:
    """Where a model, its adapters and its tokenizer lie."""

    base: Path
    adapters: list[AdapterFolder]
    tokenizer: Path
    """Folder."""
    record: dict[str, Any]
    """As `LoadedModel.record`."""


def load_model(context: Context, section: EvaluatedModel, group: RankGroup, rewards: bool = False) -> LoadedModel:
    """Load the model that a recipe names, with its adapters. A collective.

    Args:
        context: Knows where models are, and how the recipe calls the data.
        section: The recipe's.
        group: All ranks; each loads the whole model.
        rewards: Load it with a head that computes one number for a sequence.

    Raises:
        LauncherError: a model or adapter cannot be loaded, or was made of credentialed data and the recipe says `open`.
    """
    files = find_files(context, section, group)
    tokenizer = load_tokenizer(files.tokenizer)
    if rewards:
        model = _load_with_head(section, files.base, files.adapters, tokenizer, group.device, context.recipe.seed)
    else:
        model = load_weights(section, files.base, files.adapters, group.device, context.recipe.seed)
    return LoadedModel(model.eval(), tokenizer, group.device, DTYPES[section.dtype], files.record, group=group)


def find_files(context: Context, section: EvaluatedModel, group: RankGroup) -> ModelFiles:
    """Find the files of a model and its adapters, and compute their checksums. A collective.

    Raises:
        LauncherError: some are missing, do not go together, or were made of credentialed data and the recipe says
            `open`.
    """
    base = local_folder(context.model_path(section.path), "model.path")
    adapters = _open_adapters(context, section)
    folders = [base, *(one.folder for one in adapters)]
    require_data_use(context.recipe.data_use, folders)
    record = group.from_main(_describe(section, folders) if group.is_main else {})
    return ModelFiles(base, adapters, _tokenizer_folder(context, section, folders), record)


def _open_adapters(context: Context, section: EvaluatedModel) -> list[AdapterFolder]:
    found: list[AdapterFolder] = []
    for place, one in enumerate(section.adapters):
        key = f"model.adapters.{place}.path"
        try:
            adapter = read_adapter(local_folder(context.model_path(one.path), key))
            adapter.require_base(section.path, context.model_path(section.path), one.trained_on)
            adapter.require_base_adapters(found)
        except LauncherError as error:
            raise LauncherError(f"{key}: {error}") from error
        found.append(adapter)
    return found


def load_weights(
    section: EvaluatedModel, base: Path, adapters: list[AdapterFolder], device: torch.device, seed: int
) -> Any:
    """Load a causal language model and apply adapters.

    Args:
        section: How to load it.
        base: Folder of the weights.
        adapters: In their order.
        device: Where it is to be.
        seed: For libraries that draw random numbers.

    Raises:
        LauncherError: it cannot be loaded, or adapters do not fit it or one another.
    """
    dtype = DTYPES[section.dtype]
    if section.quantization:
        model: Any = build(AutoModelForCausalLM, section.as_trained, str(base), seed, dtype)
        for adapter in adapters:
            model = put_on(model, adapter) if adapter is adapters[0] else load_beside(model, adapter)
        return model
    if not adapters:
        whole: Any = build(AutoModelForCausalLM, section.as_trained, str(base), seed, dtype)
        return whole.to(device)
    require_causal(section.as_trained, str(base))
    model = load_in_fp32(base, device, "model.path", attn_implementation=ATTENTION[section.attention])
    for adapter in adapters:
        WATCHDOG.heartbeat()
        model = put_on(model, adapter)
        if _is_mergeable(adapter):
            model = merge(model, adapter.folder.name)
        elif adapter is not adapters[-1]:
            raise LauncherError(
                f"model.adapters: `{adapter.folder.name}` cannot be merged, so no other can follow it; name it last"
            )
    return model.to(dtype)


def _load_with_head(
    section: EvaluatedModel,
    base: Path,
    adapters: list[AdapterFolder],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    seed: int,
) -> Any:
    """Load a reward model; the head is in the model's own files, or in those of an adapter."""
    if adapters and not any(set(one.config.get("modules_to_save") or ()) & _HEADS for one in adapters):
        raise LauncherError("model.adapters: none of them has a head; name one that `kind: reward` trained")
    pad = tokenizer.get_vocab()[padding_token(tokenizer, section.path)]
    settings = reward_head(pad) if adapters else None
    dtype = DTYPES[section.dtype]
    model: Any = build(AutoModelForSequenceClassification, section.as_trained, str(base), seed, dtype, settings)
    if model.config.num_labels != 1:
        raise LauncherError(f"model.path: its head computes {model.config.num_labels} numbers; name a reward model")
    if model.config.pad_token_id is None:
        model.config.pad_token_id = pad
    model = model if section.quantization else model.to(device)
    for adapter in adapters:
        model = put_on(model, adapter) if adapter is adapters[0] else load_beside(model, adapter)
    return model if section.quantization else model.to(dtype)


def _is_mergeable(adapter: AdapterFolder) -> bool:
    try:
        adapter.require_mergeable("all")
    except LauncherError:
        return False
    return True


def _tokenizer_folder(context: Context, section: EvaluatedModel, folders: list[Path]) -> Path:
    if section.tokenizer:
        return local_folder(context.model_path(section.tokenizer), "model.tokenizer")
    return next((one for one in reversed(folders) if (one / TOKENIZER_CONFIG).is_file()), folders[0])


def _describe(section: EvaluatedModel, folders: list[Path]) -> dict[str, Any]:
    files = [checksums(folder, WATCHDOG.heartbeat) for folder in folders]
    digests = [hashlib.sha256(json.dumps(one, sort_keys=True).encode()).hexdigest() for one in files]
    adapters = [{"path": one.path, "sha256": digest} for one, digest in zip(section.adapters, digests[1:], strict=True)]
    quantization = section.quantization.model_dump() if section.quantization else None
    return {
        "path": section.path,
        "sha256": digests[0],
        "adapters": adapters,
        "tokenizer": section.tokenizer,
        "dtype": section.dtype,
        "quantization": quantization,
        "attention": section.attention,
    }


def _bare(model: Any) -> PreTrainedModel:
    bare: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return bare
