"""What a chat template needs of a tokenizer, as far as its files say it without loading it."""

from collections.abc import Container, Iterator
from pathlib import Path

from launcher.artifacts.adapter_folder import read_object
from launcher.artifacts.token_ids import read_all_tokens

MARKERS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
"""Control tokens that our templates write."""
NO_TEMPLATE = (
    "the tokenizer has none; write the one that the model was trained with, or `alpaca`, `llama2` or `plain`, which "
    "need no extra tokens"
)


def find_missing_tokens(name: str, vocabulary: Container[str]) -> str | None:
    """Say which tokens one of our templates needs and a vocabulary lacks; None if it has all."""
    missing = [token for token in MARKERS.get(name, ()) if token not in vocabulary]
    return lacks(name, " and ".join(f"`{token}`" for token in missing)) if missing else None


def lacks(name: str, what: str) -> str:
    """Say that a template needs what the tokenizer does not have."""
    return (
        f"`{name}` needs {what}, which the tokenizer lacks; write `alpaca`, `llama2` or `plain`, or add the tokens to "
        "the model"
    )


def find_template_fault(folder: Path, name: str) -> str | None:
    """Say why a template cannot work with the tokenizer in a folder; None if nothing is known against it.

    Args:
        folder: Of the tokenizer.
        name: The recipe's `data.chat_template`.
    """
    tokens = read_all_tokens(folder)
    if tokens is None:
        return None
    if name != "tokenizer":
        return find_missing_tokens(name, {*tokens.values(), *_added_tokens(folder)})
    has_file = any((folder / file).is_file() for file in ("chat_template.jinja", "chat_template.json"))
    has_own = has_file or bool((read_object(folder / "tokenizer_config.json") or {}).get("chat_template"))
    return None if has_own else NO_TEMPLATE


def _added_tokens(folder: Path) -> Iterator[str]:
    """Give the tokens that transformers adds to those of tokenizer.json."""
    yield from read_object(folder / "added_tokens.json") or {}
    for token in ((read_object(folder / "tokenizer_config.json") or {}).get("added_tokens_decoder") or {}).values():
        yield token["content"] if isinstance(token, dict) else str(token)
