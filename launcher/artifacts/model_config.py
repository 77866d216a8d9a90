"""What a model's config.json says of it, whatever model type it is of and whatever types its values have."""

from collections.abc import Mapping
from typing import Any, TypeGuard

LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""By which model types say how many layers they have; transformers reads each under the first name, too."""
_MOST = 1 << 31
_ENCODERS = frozenset({
    "albert", "bert", "bert-generation", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2",
    "distilbert", "electra", "ernie", "eurobert", "flaubert", "funnel", "ibert", "layoutlm", "longformer", "luke",
    "megatron-bert", "mobilebert", "modernbert", "mpnet", "nomic_bert", "nystromformer", "rembert", "roberta",
    "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet",
    "xmod", "yoso",
})  # fmt: skip
"""Model types whose tokens see those after them. transformers loads many of them as causal language models, too; some
are, if their config.json says so."""


def is_size(value: object) -> TypeGuard[int]:
    """Tell whether a value can be a size: a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST


def why_not_causal(config: Mapping[str, Any]) -> str | None:
    """Say why a model is no causal language model; None if its config.json gives no reason."""
    kind = config.get("model_type")
    if config.get("is_encoder_decoder") is True:
        what = "an encoder with a decoder"
    elif isinstance(kind, str) and kind in _ENCODERS and not (config.get("is_decoder") or config.get("causal")):
        what = "an encoder, whose tokens see those after them"
    else:
        return None
    return f"is no causal language model but {what}; name another, or, for an encoder, write `kind: classify`"


def count_layers(config: Mapping[str, Any]) -> int | None:
    """Read how many layers a model has; None if it does not say."""
    key = _layer_key(config)
    return None if key is None else int(config[key])


def with_layers(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Return a configuration with another number of layers; what they are, one by one, is repeated or cut off."""
    changed = {**config, _layer_key(config) or LAYER_KEYS[0]: layers}
    if kinds := changed.get("layer_types"):
        changed["layer_types"] = [kinds[place % len(kinds)] for place in range(layers)]
    return changed


def _layer_key(config: Mapping[str, Any]) -> str | None:
    return next((key for key in LAYER_KEYS if is_size(config.get(key))), None)
