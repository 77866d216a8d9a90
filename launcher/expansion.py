"""expansion.json of an expanded tokenizer: what it was made of, and what a model needs to go along with it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from launcher.corpus import SourceFile
from launcher.errors import LauncherError

EXPANSION = "expansion.json"
"""Beside the tokenizer's files."""
FORMAT: Literal[1] = 1
"""Version of this file's format; also part of every fingerprint."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class TokenizerIdentity(_Record):
    """One of the two tokenizers."""

    path: str
    """As the recipe names it."""
    fingerprint: str
    """SHA-256 of its rules and vocabulary, as in the manifest of a corpus."""
    vocab_size: int
    """Its ids are smaller than this: a model's embeddings need so many rows."""


class Fertility(_Record):
    """Into how many tokens a tokenizer cuts some text."""

    tokens: int
    tokens_per_word: float
    """A word is what stands between white space."""
    characters_per_token: float


class Measurement(_Record):
    """Both tokenizers on the same held-out documents."""

    documents: int
    words: int
    characters: int
    base: Fertility
    expanded: Fertility
    new_share: float
    """Of the expanded tokenizer's tokens, those that are new."""


class Expansion(_Record):
    """Everything there is to say about an expanded tokenizer."""

    format: Literal[1] = FORMAT
    tokenizer: str
    """Its name below `roots.models`."""
    data_use: Literal["open", "credentialed"]
    """Of the text: tokens are fragments of it."""
    recipe_fingerprint: str
    """Equal for equal base, source files and settings: the tokenizer is then the same."""
    code: str
    """Version and snapshot of the code that made it, or several; as in a corpus' manifest."""
    base: TokenizerIdentity
    """Its ids mean the same in the expanded one."""
    expanded: TokenizerIdentity
    parts: tuple[tuple[int, ...], ...]
    """What each new id, from `base.vocab_size` on, replaces: ids of the base. The mean of their embeddings is a row
    to start from."""
    min_documents: int
    """So many documents, at least, hold each new token."""
    measurement: Measurement
    sources: tuple[SourceFile, ...]


def read_expansion(folder: Path) -> Expansion:
    """Read what is known about an expanded tokenizer.

    Raises:
        LauncherError: the folder holds none.
    """
    path = folder / EXPANSION
    try:
        return Expansion.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise LauncherError(f"{folder}: holds no expanded tokenizer ({EXPANSION} is missing)") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise LauncherError(f"{path}: {where}: {fault['msg']}; make the tokenizer again") from None
