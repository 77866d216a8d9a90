"""Modules of a model, told without torch: from the heads of its weights' files, or from its config.json."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.artifacts.model_config import count_layers
from launcher.artifacts.model_folder import INDEX, WEIGHTS, shard_names
from launcher.plan.model_shape import read_json

NAMED_AS_SAVED = """
albert bert biogpt bloom camembert codegen cohere deberta deberta-v2 distilbert electra falcon gemma gemma2 gpt2
gpt_bigcode gpt_neo gpt_neox gptj granite llama longformer mistral mobilebert mpnet mpt olmo olmo2 opt phi phi3 qwen2
qwen3 roberta roformer stablelm starcoder2 xglm xlm-roberta
""".split()  # noqa: SIM905 - a list would take a line each
"""Model types whose tensors have the same names in files and in memory, as far as modules go. Others, such as mixtures
of experts, are converted while they are loaded; only the node can tell their modules."""

_LLAMA_LIKE = frozenset({"gemma", "gemma2", "llama", "mistral", "qwen2", "qwen3"})
_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
MADE_ON_THE_NODE = frozenset({"classifier", "embed_out", "lm_head", "out_proj", "pre_classifier", "score"})
"""Heads: a file may hold none, and the model has one all the same."""
_MOST_LAYERS = 10_000
"""More than any model has; their names would take all memory."""
_LONGEST_HEAD = 2**26
"""Of a safetensors file, in bytes; that of a model with 100,000 tensors takes 12 MB."""


@dataclass(frozen=True)
class ModelModules:
    """What can be told of a model's modules."""

    names: frozenset[str]
    """Full names, as far as they have weights or hold modules with weights."""
    layers: tuple[str, ...]
    """Those of linear layers and embeddings."""


def find_modules(folder: Path, config: Mapping[str, Any]) -> ModelModules | None:
    """Tell the modules of a model; None if only the node can.

    Args:
        folder: Where the model lies.
        config: Its config.json.
    """
    if config.get("model_type") not in NAMED_AS_SAVED:
        return None
    if tensors := _tensors(folder):
        return _modules_of(tensors)
    count = count_layers(config)
    if config["model_type"] in _LLAMA_LIKE and count and count <= _MOST_LAYERS:
        layers = range(count)
        return _modules_of(
            {f"model.layers.{number}.{part}.weight": 2 for number in layers for part in _linear_parts()}
            | {"model.embed_tokens.weight": 2}
        )
    return None


def _linear_parts() -> Iterator[str]:
    for block, names in (("self_attn", _ATTENTION), ("mlp", _MLP)):
        yield from (f"{block}.{name}" for name in names)


def _modules_of(tensors: Mapping[str, int]) -> ModelModules:
    names, layers = set[str](), []
    for tensor, dimensions in tensors.items():
        parts = tensor.split(".")
        names.update(".".join(parts[:end]) for end in range(1, len(parts)))
        if parts[-1] == "weight" and dimensions == 2:
            layers.append(".".join(parts[:-1]))
    return ModelModules(frozenset(names), tuple(layers))


def _tensors(folder: Path) -> dict[str, int]:
    """Name the tensors of a folder's safetensors files, and how many dimensions each has; none if one is unreadable."""
    index = read_json(folder / INDEX)
    found: dict[str, int] = {}
    for file in [WEIGHTS] if index is None else shard_names(index):
        head = read_head(folder / file)
        if not head:
            return {}
        try:
            found |= {name: len(tensor["shape"]) for name, tensor in head.items() if name != "__metadata__"}
        except (LookupError, TypeError):
            return {}
    return found


def read_head(path: Path) -> dict[str, Any] | None:
    """Read the head of a safetensors file, which says what is in it; None if it has none.

    It is JSON, after its length in 8 bytes (https://huggingface.co/docs/safetensors#format).
    """
    try:
        with path.open("rb", buffering=0) as file:
            length = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(length)) if 0 < length < _LONGEST_HEAD else None
    except (OSError, ValueError, RecursionError):
        return None
    return head if isinstance(head, dict) else None
