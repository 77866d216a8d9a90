"""Merges an adapter into its base with peft's own arithmetic, in fp32, and checks what peft does not.

peft ignores tensors without a module, and merges LoRA on a tied embedding into both of its uses. Here the first is an
error, and before the second the embeddings are untied.
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from jobs.models.adapters import molora
from jobs.models.adapters.peft_warnings import silence_peft_warnings
from jobs.models.embeddings import embedding_layers, embedding_names
from jobs.models.folder import loading
from launcher.artifacts.adapter_folder import AdapterFolder
from launcher.errors import LauncherError

_PREFIX = "base_model.model."
"""What peft writes before the name of a module."""


def load_in_fp32(folder: Path, device: torch.device, key: str = "base_model", **options: Any) -> PreTrainedModel:
    """Load a causal language model onto a device, from safetensors, quantised ones too, with all weights in fp32.

    Args:
        folder: Of the model.
        device: Where it is to be.
        key: What the recipe calls it.
        **options: Of `from_pretrained`.

    Raises:
        LauncherError: it cannot be loaded, or tensors are missing.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call] # a log file is no terminal
    options |= {"dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
    with loading(folder, key, weights=True):
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise LauncherError(f"{folder}: these tensors are missing: {', '.join(missing[:5])}; copy the model again")
    full = _dequantise(model, folder) if getattr(model, "is_quantized", False) else model
    placed: PreTrainedModel = full.to(device).eval()
    return placed


def _dequantise(model: Any, folder: Path) -> Any:
    try:
        full = model.dequantize(torch.float32)
    except NotImplementedError as error:
        raise LauncherError(f"{folder}: its quantisation cannot be undone; name the full-precision model") from error
    full._weight_conversions = None  # those of the file would quantise again what is saved, and cannot
    return full


def attach(model: PreTrainedModel, adapter: AdapterFolder, only_attention: bool) -> PeftModel:
    """Put an adapter on a model, with embedding rows for new tokens if the adapter has them.

    Args:
        model: The base; changed.
        adapter: Its folder.
        only_attention: Leave out what is not on projections of attention.

    Raises:
        LauncherError: the adapter does not fit the model.
    """
    name = adapter.folder.name
    molora.register()
    try:
        config = PeftConfig.from_pretrained(str(adapter.folder))
        tensors = load_peft_weights(str(adapter.folder), device="cpu")
        if only_attention:
            tensors = _restrict_to_attention(config, tensors, model, name)
        _add_rows(model, config, tensors, name)
        adapted = _adapt(model, config, tensors, name)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise LauncherError(f"adapter `{name}` does not fit the base model: {error}") from error
    _untie_where_adapted(adapted)
    return adapted.eval()


def put_on(model: PreTrainedModel, adapter: AdapterFolder) -> PeftModel:
    """Put an adapter of any method on a model; one that changes no weights is loaded by peft alone.

    Args:
        model: The base; changed.
        adapter: Its folder.

    Raises:
        LauncherError: the adapter does not fit the model.
    """
    if not adapter.is_beside_weights:
        return attach(model, adapter, False)
    try:
        with silence_peft_warnings(), warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
            return PeftModel.from_pretrained(model, str(adapter.folder))
    except (ValueError, TypeError, KeyError, RuntimeError, UserWarning) as error:
        raise LauncherError(f"adapter `{adapter.folder.name}` does not fit the base model: {error}") from error


def merged_if_possible(model: PreTrainedModel, adapter: AdapterFolder) -> Any:
    """Make an adapter part of the weights; one that has no merged form is put on the model.

    Args:
        model: The base; changed.
        adapter: Its folder; it may bring a head.

    Raises:
        LauncherError: the adapter does not fit the model.
    """
    adapted = put_on(model, adapter)
    try:
        adapter.require_mergeable("with head")
    except LauncherError:
        return adapted
    return merge(adapted, adapter.folder.name, is_checked=False)


def merge(adapted: PeftModel, name: str, is_checked: bool = True) -> PreTrainedModel:
    """Make the adapter part of the weights, and return the bare model.

    Args:
        adapted: A model with its adapter.
        name: Of the adapter, for messages.
        is_checked: Refuse weights that would not be finite. To weights of 16 bits peft then adds an update of 16 bits;
            otherwise it rounds the sum alone.

    Raises:
        LauncherError: the method has no merged form, or the weights would not be finite.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied", UserWarning)
            merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=is_checked)
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise LauncherError(f"adapter `{name}` cannot be merged: {error}") from error
    return merged


def _adapt(model: PreTrainedModel, config: PeftConfig, tensors: Mapping[str, Tensor], name: str) -> PeftModel:
    config.inference_mode = True
    ends = embedding_names(model)
    with silence_peft_warnings(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Model (has|with) `tie_word_embeddings=True`", UserWarning)  # done below
        adapted = PeftModel(model, config)
        result: Any = set_peft_model_state_dict(adapted, dict(tensors))
    missing = sorted(get_peft_model_state_dict(adapted, save_embedding_layers=False).keys() - tensors.keys())
    again = [f".{end}." for end in ends]  # peft writes these under several names
    unexpected = sorted(key for key in result.unexpected_keys if not any(part in key for part in again))
    if missing or unexpected:
        what, keys = ("has no", missing) if missing else ("has a place for no", unexpected)
        whose = f"adapter `{name}`" if missing else "the base model"
        raise LauncherError(f"{whose} {what} {', '.join(keys[:3])} ({len(keys)} in all); check `base_model`")
    return adapted


def _restrict_to_attention(
    config: Any, tensors: Mapping[str, Tensor], model: PreTrainedModel, name: str
) -> dict[str, Tensor]:
    """Keep the tensors of attention's projections, and name only these modules in the configuration."""
    modules = dict(model.named_modules())
    owners = {key: _owner(key.removeprefix(_PREFIX), modules.keys()) for key in tensors}
    projections = {owner for owner in owners.values() if owner and _is_in_attention(owner, modules[owner])}
    # With `bias: all` an adapter holds the biases of modules, too, that it does not adapt.
    kept = {owner for key, owner in owners.items() if owner in projections and not key.endswith(".bias")}
    if not kept:
        raise LauncherError(f"adapter `{name}` changes no attention layer; write `only: all`, or leave it out")
    config.target_modules = kept
    if getattr(config, "bias", "none") == "all":
        config.bias = f"{PEFT_TYPE_TO_PREFIX_MAPPING[config.peft_type]}only"
    for key in ("exclude_modules", "modules_to_save", "trainable_token_indices", "layers_to_transform"):
        if hasattr(config, key):
            setattr(config, key, None)
    return {key: tensor for key, tensor in tensors.items() if owners[key] in ("", *projections)}


def _owner(key: str, modules: Collection[str]) -> str:
    """Return the longest prefix of a tensor's name that is a module of the base; empty if modules share the tensor."""
    parts = key.split(".")
    names = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
    return next((name for name in names if name in modules), "")


def _is_in_attention(name: str, module: nn.Module) -> bool:
    """`model.layers.0.self_attn.q_proj`, `h.0.attn.c_attn`, `layers.0.attention.dense`: models name it alike.

    Norms of queries and keys, which have vectors, are no projections.
    """
    parents, weight = name.lower().split(".")[:-1], getattr(module, "weight", None)
    is_norm = weight is not None and weight.ndim < 2
    return not is_norm and any("attn" in part or "attention" in part for part in parents)


def _add_rows(model: PreTrainedModel, config: PeftConfig, tensors: Mapping[str, Tensor], name: str) -> None:
    """Give the embeddings as many rows as the adapter was trained with."""
    ends = embedding_names(model)[: 1 if model.config.tie_word_embeddings else 2]
    indices = _token_indices(config, ends)
    had: int = embedding_layers(model)[0].weight.shape[0]
    given = {end: _rows_given(end, tensors) for end in ends}
    rows = max(had, *given.values(), *(index + 1 for its in indices.values() for index in its))
    if rows == had:
        return
    new = set(range(had, rows))
    if lacking := [end for end in ends if given[end] != rows and not new <= indices.get(end, set())]:
        raise LauncherError(
            f"adapter `{name}` was trained with {rows} tokens, the base model has {had}, and the adapter does not hold "
            f"all new rows of `{lacking[0]}`; save it again with `save_embedding_layers=True`"
        )
    model.resize_token_embeddings(rows, mean_resizing=False)


def _rows_given(end: str, tensors: Mapping[str, Tensor]) -> int:
    """Return the number of an embedding's rows, if an adapter holds all of it."""
    whole = ("weight", "modules_to_save.weight", "base_layer.weight", "token_adapter.base_layer.weight")
    keys = [key for key in tensors if key.endswith(tuple(f".{end}.{rest}" for rest in whole))]
    return max((tensors[key].shape[0] for key in keys), default=0)


def _token_indices(config: PeftConfig, ends: Sequence[str]) -> dict[str, set[int]]:
    """Return the rows that are trained one by one, by module; without a name they are the input's."""
    given = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or []
    if isinstance(given, Mapping):
        return {name.rpartition(".")[2]: set(rows) for name, rows in given.items()}
    return {ends[0]: set(given)}


def _untie_where_adapted(adapted: PeftModel) -> None:
    """Give input and output embeddings a tensor each if one of them is adapted: once merged, they differ."""
    model: Any = adapted.get_base_model()
    layers = embedding_layers(model)
    bare = [layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in layers]
    if None in bare or not any(isinstance(layer, BaseTunerLayer) for layer in layers):
        return
    weights = [getattr(layer, "weight", None) for layer in bare]
    if weights[0] is not None and weights[0] is weights[1]:
        bare[1].weight = nn.Parameter(weights[1].detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
