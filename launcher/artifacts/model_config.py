"""What a model's config.json says of its sizes, whatever model type it is of and whatever types its values have."""

from collections.abc import Mapping
from typing import Any, TypeGuard

LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""By which model types say how many layers they have; transformers reads each under the first name, too."""
_MOST = 1 << 31


def is_size(value: object) -> TypeGuard[int]:
    """Tell whether a value can be a size: a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST


def count_layers(config: Mapping[str, Any]) -> int | None:
    """Read how many layers a model has, of several parts that which reads text; None if it does not say."""
    part = _of_text(config)
    key = _layer_key(part)
    return None if key is None else int(part[key])


def with_layers(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Return a configuration with another number of layers; what they are, one by one, is repeated or cut off."""
    part = _of_text(config)
    changed = {**part, _layer_key(part) or LAYER_KEYS[0]: layers}
    if kinds := changed.get("layer_types"):
        changed["layer_types"] = [kinds[place % len(kinds)] for place in range(layers)]
    return changed if part is config else {**config, "text_config": changed}


def _of_text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    return text if isinstance(text, Mapping) and _layer_key(text) else config


def _layer_key(part: Mapping[str, Any]) -> str | None:
    return next((key for key in LAYER_KEYS if is_size(part.get(key))), None)
