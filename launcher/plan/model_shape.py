"""Sizes of models, read from config.json, from which memory, cost and feasibility follow."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.artifacts.adapter_folder import read_object
from launcher.artifacts.model_config import is_size
from launcher.artifacts.tokenizer_manifest import EXPANSION

if TYPE_CHECKING:
    from launcher.plan.recipe_at_site import RecipeAtSite
    from launcher.recipe.kinds.training import TrainingRecipe

NEW_TOKENS = "new_tokens"
"""Our own key beside those of config.json: how many tokens `model.tokenizer` adds."""
_GATED_DECODERS = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3"})
"""Model types built of attention, a gated MLP of three matrices and two norms a layer, as in LLaMA
(https://arxiv.org/abs/2302.13971)."""
_NEEDED = frozenset({"hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"})
"""Keys of their config.json without which the sizes are not known."""
_OPTIONAL = ("head_dim", "num_key_value_heads")
"""Keys that may be left out, or null."""
_NEVER_BIASED = frozenset({"mistral", "phi3"})
"""Those whose attention has no biases, whatever a config.json says."""
_OMITTED: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 256, "num_key_value_heads": 16, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 256, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "mistral": {"num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"head_dim": 128, "num_key_value_heads": 32},
}
"""What transformers takes for keys that a config.json leaves out: Gemma's published files have no
`tie_word_embeddings`. Of the other types embeddings are not tied, and the number and the size of the key heads follow
from the hidden size and the query heads."""


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
    """The model caps its logits, so the loss needs all of them at once."""
    new_tokens: int = 0
    """Tokens of the vocabulary that training adds."""
    small_parameters: int = 0
    """Biases of a layer, and norms besides its two."""
    is_fused: bool = False
    """One matrix makes queries, keys and values, and one both parts of the MLP's gate."""
    outputs: int = 0
    """Outputs of a head that takes the place of the output embedding; 0: there is none."""

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        return attention + self.mlp_parameters + 2 * self.hidden + self.small_parameters

    @property
    def mlp_parameters(self) -> int:
        """Parameters of the three matrices of a layer's MLP."""
        return 3 * self.hidden * self.intermediate

    @property
    def table_parameters(self) -> int:
        """Parameters of one embedding table."""
        return self.vocabulary * self.hidden

    @property
    def tables(self) -> int:
        """Embedding tables."""
        return 1 if self.is_tied or self.outputs else 2

    @property
    def parameters(self) -> int:
        """All parameters."""
        tables = self.tables * self.table_parameters + self.outputs * self.hidden
        return self.layers * self.layer_parameters + tables + self.hidden

    @property
    def scoring_parameters(self) -> int:
        """Parameters with a head of one output in place of the output embedding."""
        return replace(self, outputs=1).parameters


def wrong_size(config: Mapping[str, Any]) -> str | None:
    """Say which key of a config.json cannot be what it should; None if the formulas do not read it, or all can."""
    kind = config.get("model_type")
    if kind is not None and not isinstance(kind, str):
        return f"model_type: `{kind}` is not the name of a model type"
    if kind not in _GATED_DECODERS:
        return None
    given = [key for key in sorted(_NEEDED) if key in config]
    given += [key for key in _OPTIONAL if config.get(key) is not None]
    wrong = next((key for key in given if not is_size(config[key])), None)
    return wrong and f"{wrong}: {json.dumps(config[wrong])[:40]} is not a positive whole number"


def read_shape(config: dict[str, Any]) -> ModelShape | None:
    """Read the sizes from config.json.

    Returns:
        None if it lacks some or has others than positive whole numbers, or is of a model type that the formulas do not
        cover.
    """
    if wrong_size(config) or config.get("model_type") not in _GATED_DECODERS or not config.keys() >= _NEEDED:
        return None
    kind: str = config["model_type"]
    config = _OMITTED.get(kind, {}) | config
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
        caps_logits=kind == "gemma2",
        new_tokens=config.get(NEW_TOKENS, 0),
        small_parameters=_small_parameters(config),
        is_fused=kind == "phi3",
    )


def find_head_size(config: Mapping[str, Any]) -> int | None:
    """Read the size of a model's attention heads from config.json, whatever its type is; None if it does not say."""
    config = _OMITTED.get(str(config.get("model_type")), {}) | dict(config)
    if is_size(size := config.get("head_dim")):
        return size
    hidden, heads = (
        config.get("hidden_size", config.get("n_embd")),
        config.get("num_attention_heads", config.get("n_head")),
    )
    return hidden // heads if is_size(hidden) and is_size(heads) else None


def _small_parameters(config: dict[str, Any]) -> int:
    """Count a layer's biases and further norms, as transformers builds them of a config.json."""
    kind, hidden, heads = config["model_type"], config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    inner = (heads + 2 * (config.get("num_key_value_heads") or heads)) * size
    biases = 0
    if kind == "qwen2":
        biases = inner
    elif config.get("attention_bias") and kind not in _NEVER_BIASED:
        biases = inner + hidden
    if kind == "llama" and config.get("mlp_bias"):
        biases += 2 * config["intermediate_size"] + hidden
    further: int = {"qwen3": 2 * size, "gemma2": 2 * hidden}.get(kind, 0)
    return biases + further


def find_shape(recipe: "TrainingRecipe", here: "RecipeAtSite") -> ModelShape | None:
    """Read the sizes of a recipe's model; None if it is not on this machine, or not covered by the formulas."""
    shape = read_shape(model_config(recipe, here) or {})
    return with_head(shape, recipe) if shape else None


def with_head(shape: ModelShape, recipe: "TrainingRecipe") -> ModelShape:
    """Put the recipe's head in the place of the output embedding, if it has one; of unknown classes, one of two."""
    return replace(shape, outputs=recipe.classes or 2) if recipe.predicts == "labels" else shape


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a small JSON file, or None if there is none that can be read; kept until it changes."""
    try:
        return _read_json(path, path.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=256)
def _read_json(path: Path, _mtime_ns: int) -> dict[str, Any] | None:
    return read_object(path)


def model_config(recipe: "TrainingRecipe", here: "RecipeAtSite") -> dict[str, Any] | None:
    """Read config.json of a recipe's model, with the recipe's new tokens; None if it is not on this machine."""
    config = here.config(recipe.model.path)
    tokenizer = recipe.model.tokenizer and here.found(recipe.model.tokenizer)
    if config is None or not tokenizer:
        return config
    added = read_json(tokenizer / EXPANSION) or {}
    if wrong_expansion(added):
        return config
    rows = [(added.get("expanded") or {}).get("vocab_size"), config.get("vocab_size")]
    known = {"vocab_size": max(filter(is_size, rows))} if any(map(is_size, rows)) else {}
    return config | known | {NEW_TOKENS: len(added.get("parts", ()))}


def wrong_expansion(found: Mapping[str, Any]) -> str | None:
    """Say which key of an expansion.json cannot be what it should; None if all can."""
    expanded, parts = found.get("expanded", {}), found.get("parts", [])
    if not isinstance(expanded, Mapping) or not is_size(expanded.get("vocab_size", 1)):
        return "expanded.vocab_size: is not a positive whole number"
    return None if isinstance(parts, list) else "parts: is not a list"


def scoring_shapes(recipe: "TrainingRecipe", shape: ModelShape, here: "RecipeAtSite") -> list[ModelShape]:
    """Read the sizes of the models that score completions; of one that is not on this machine, take the policy's.

    Args:
        recipe: The recipe.
        shape: Of its own model, the policy.
        here: Where it runs.
    """
    return [read_shape(here.config(name) or {}) or shape for name in recipe.scoring_models]
