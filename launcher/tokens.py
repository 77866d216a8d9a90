"""Which token each id stands for, by tokenizer.json: ids of a corpus must mean the same to the model that reads it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from launcher.corpus import TOKENIZER

Tokens: TypeAlias = Mapping[int, str]
"""The token of each id, but for special ones: models that were trained further often rename these."""


def read_tokens(folder: Path) -> Tokens | None:
    """Read what the ids of a model's or a corpus's tokenizer stand for; None if it has no tokenizer.json."""
    try:
        content = json.loads((folder / TOKENIZER).read_bytes())
        return _tokens_in(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # loading the tokenizer tells what is wrong with it


def strangers(folders: Iterable[tuple[str, Path]], model: Path | None) -> Iterator[tuple[int, str]]:
    """Find corpora whose ids mean other tokens than the model's, or than those of the corpora before them.

    Ids that only one of two tokenizers has are no difference: an expanded tokenizer reads the corpora of its base.

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
                f"`{name}` was made with another tokenizer than that of {owner}: {len(different):,} of its "
                f"{len(tokens):,} ids stand for other tokens, such as {different[0]}; prepare it with the model's own",
            )


def _tokens_in(content: Mapping[str, Any]) -> Tokens:
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores
        tokens = {number: piece for number, (piece, _) in enumerate(vocabulary)}
    else:
        tokens = {number: token for token, number in vocabulary.items()}
    added = content.get("added_tokens") or []
    tokens |= {one["id"]: one["content"] for one in added}
    special = {one["id"] for one in added if one.get("special")}
    return {number: token for number, token in tokens.items() if number not in special}


def _different(tokens: Tokens, known: Tokens) -> list[int]:
    return sorted(number for number in tokens.keys() & known.keys() if tokens[number] != known[number])
