"""How many positions a model has, told by its config.json, and whether sequences fit into them."""

from collections.abc import Mapping
from typing import Any

_POSITION_KEYS: Mapping[str, str] = {
    "bailing_hybrid": "model_max_length",
    "codegen": "n_positions",
    "ctrl": "n_positions",
    "dbrx": "max_seq_len",
    "gpt2": "n_positions",
    "gpt_bigcode": "n_positions",
    "gptj": "n_positions",
    "kimi_linear": "model_max_length",
    "mpt": "max_seq_len",
    "openai-gpt": "n_positions",
    "rwkv": "context_length",
}
"""Where model types say it that have a name of their own for it; a test compares this with transformers."""
_USUAL_KEY = "max_position_embeddings"

_PADDED_POSITIONS = frozenset(
    {
        *("camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "markuplm", "xmod"),
        *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
    }
)
"""Model types that count positions from the number of the padding token plus one; MPNet does so from 2, whatever its
padding token is."""
_USUAL_PADDING = 1
"""Number of these models' padding token, unless their config.json says another."""


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Read the longest sequence of a model from its config.json, in tokens; None if it does not say.

    Of a model that also reads images or speech, the part that reads text counts.
    """
    if isinstance(text := config.get("text_config"), Mapping):
        config = text
    kind = str(config.get("model_type", ""))
    positions = _number(config.get(_POSITION_KEYS.get(kind, _USUAL_KEY)))
    if not positions or kind not in (*_PADDED_POSITIONS, "mpnet"):
        return positions
    padding = _USUAL_PADDING if kind == "mpnet" else _number(config.get("pad_token_id", _USUAL_PADDING))
    return None if padding is None else positions - padding - 1


def _number(value: object) -> int | None:
    """Return a whole number; None for anything else, which the model's own library will refuse."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def missing_positions(length: int, virtual_tokens: int, positions: int | None) -> str | None:
    """Say that sequences need more positions than a model has; None if they do not, or that is not known.

    Args:
        length: Tokens of a sequence.
        virtual_tokens: Those that an adapter puts before it; they take positions, too.
        positions: Of the model.
    """
    if positions is None or length + virtual_tokens <= positions:
        return None
    needed, room = f"{length} is", positions - virtual_tokens
    if virtual_tokens:
        needed = f"{length} and the {virtual_tokens} virtual tokens of the adapter are"
    fix = f"write at most {room}" if room > 0 else "write fewer `adapter.virtual_tokens`"
    return f"{needed} more than the model's {positions} positions; {fix}"


def missing_scoring_positions(name: str, positions: int | None, length: int) -> str | None:
    """Say that a model which scores what another one writes reads shorter texts; None if not, or that is not known.

    Args:
        name: Of the model that scores.
        positions: That it has for a text.
        length: Tokens of prompt and completion.
    """
    if positions is None or length <= positions:
        return None
    return (
        f"`{name}` has {positions} positions, and `batch.sequence_length` lets prompts and completions have {length} "
        "tokens; write a shorter one, or name a model that reads more"
    )
