"""What config.json and a corpus's manifest.json say: the sizes that memory, cost and feasibility follow from."""

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from launcher.cluster import Cluster
from launcher.expansion import EXPANSION
from launcher.paths import locate
from launcher.recipe.training import TrainingRecipe

NEW_TOKENS = "new_tokens"
"""Our own key beside those of config.json: how many tokens `model.tokenizer` adds."""
_GATED_DECODERS = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3"})
"""Model types built of attention, a gated MLP of three matrices and two norms a layer, as in LLaMA
(https://arxiv.org/abs/2302.13971). Biases and further norms are left out: below 0.1 % of the parameters."""

_PADDED_POSITIONS = frozenset({"camembert", "longformer", "mpnet", "roberta", "xlm-roberta"})
"""Model types that begin to count positions behind the number of the padding token, which is 1 for all of them."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder with gated MLPs."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    head_size: int
    kv_heads: int
    vocabulary: int
    is_tied: bool
    """Input and output embeddings are one table."""
    caps_logits: bool = False
    """The model does more with its logits than compute them, so the loss needs all of them at once."""
    new_tokens: int = 0
    """Tokens of the vocabulary that training adds."""

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def table_parameters(self) -> int:
        """Parameters of one embedding table."""
        return self.vocabulary * self.hidden

    @property
    def tables(self) -> int:
        """Embedding tables."""
        return 1 if self.is_tied else 2

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.layers * self.layer_parameters + self.tables * self.table_parameters + self.hidden


def read_shape(config: dict[str, Any]) -> ModelShape | None:
    """Read the sizes from a model's config.json; None if it is of a type that the formulas do not cover."""
    if config.get("model_type") not in _GATED_DECODERS:
        return None
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return ModelShape(
        layers=config["num_hidden_layers"],
        hidden=hidden,
        intermediate=config["intermediate_size"],
        heads=heads,
        head_size=config.get("head_dim") or hidden // heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        vocabulary=config["vocab_size"],
        is_tied=bool(config.get("tie_word_embeddings", False)),
        caps_logits=config["model_type"] == "gemma2",
        new_tokens=config.get(NEW_TOKENS, 0),
    )


def most_tokens(config: dict[str, Any]) -> int | None:
    """Read the tokens that a sequence may have from a model's config.json; None if it does not say."""
    rows: int | None = config.get("max_position_embeddings")
    return rows - 2 if rows and config.get("model_type") in _PADDED_POSITIONS else rows


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a small JSON file, or None if there is none that can be read; kept until it changes."""
    try:
        return _read_json(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=256)
def _read_json(path: Path, _mtime_ns: int) -> dict[str, Any] | None:
    content = json.loads(path.read_bytes())
    return content if isinstance(content, dict) else None


def model_config(recipe: TrainingRecipe, cluster: Cluster, recipe_folder: str) -> dict[str, Any] | None:
    """Read config.json of a recipe's model, if the model is on this machine, as it is with new tokens."""
    located = locate(recipe.model.path, cluster.roots.models, recipe_folder)
    config = read_json(Path(located) / "config.json") if os.path.isabs(located) else None
    if config is None or recipe.model.tokenizer is None:
        return config
    added = read_json(Path(locate(recipe.model.tokenizer, cluster.roots.models, recipe_folder)) / EXPANSION) or {}
    rows = (added.get("expanded") or {}).get("vocab_size", 0)
    return config | {"vocab_size": max(rows, config.get("vocab_size", 0)), NEW_TOKENS: len(added.get("parts", ()))}
