"""Which token each id means, by tokenizer.json: a corpus and the model that reads it must agree."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from launcher.artifacts.corpus_manifest import TOKENIZER
from launcher.run.typed import read_object

Tokens: TypeAlias = Mapping[int, str]
"""The token of each id, without special ones, which fine-tuned models often rename."""


def read_tokens(folder: Path) -> Tokens | None:
    """Read what the ids of a model or a corpus mean; None if it has no tokenizer.json."""
    content = _content(folder)
    if content is None:
        return None
    special = {one["id"] for one in content.get("added_tokens") or [] if one.get("special")}
    return {number: token for number, token in _all_tokens(content).items() if number not in special}


def read_all_tokens(folder: Path) -> Tokens | None:
    """Read the tokens of a tokenizer, special ones too; None if it has no tokenizer.json."""
    content = _content(folder)
    return None if content is None else _all_tokens(content)


def count_ids(folder: Path) -> int | None:
    """Count the token ids of a model's tokenizer, special ones too; None if it has no tokenizer.json."""
    tokens = read_all_tokens(folder)
    return None if tokens is None else max(tokens, default=-1) + 1


def missing_rows(tokens: int | None, rows: int | None) -> str | None:
    """Say that a model's own tokenizer has more tokens than the model; None if it has not, or that is not known."""
    if tokens is None or rows is None or tokens <= rows:
        return None
    return (
        f"its own tokenizer has {tokens} tokens, but it has {rows} embedding rows: tokens were added (for padding, "
        "perhaps) and the embeddings were not resized; load both with transformers, call "
        f"`model.resize_token_embeddings({tokens})`, and save both in one folder"
    )


def tokenizer_mismatches(folders: Iterable[tuple[str, Path]], model: Path | None) -> Iterator[tuple[int, str]]:
    """Find corpora whose ids mean other tokens than the model's, or than those of the corpora before them.

    Ids that only one of two tokenizers has do not count: an expanded tokenizer reads the corpora of its base.

    Args:
        folders: Names and folders of corpora.
        model: Folder of the model, if it is on this machine.

    Yields:
        Number of the corpus, and what is wrong with it.
    """
    owner, known = "the model", read_tokens(model) if model else None
    for number, (name, folder) in enumerate(folders):
        tokens = read_tokens(folder)
        if known is None:
            owner, known = f"`{name}`", tokens
        elif tokens is not None and (different := _different(tokens, known)):
            yield (
                number,
                f"tokenizer mismatch: {len(different):,} of the {len(tokens):,} ids of `{name}` mean other tokens than "
                f"those of {owner}, such as {different[0]}; prepare it with the model's own tokenizer",
            )


def _content(folder: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = read_object(folder / TOKENIZER)
        _all_tokens(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # loading the tokenizer will say what is wrong with it
    return content


def _all_tokens(content: Mapping[str, Any]) -> dict[int, str]:
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores
        tokens = {number: piece for number, (piece, _) in enumerate(vocabulary)}
    else:
        tokens = {number: token for token, number in vocabulary.items()}
    return tokens | {one["id"]: one["content"] for one in content.get("added_tokens") or []}


def _different(tokens: Tokens, known: Tokens) -> list[int]:
    return sorted(number for number in tokens.keys() & known.keys() if tokens[number] != known[number])
