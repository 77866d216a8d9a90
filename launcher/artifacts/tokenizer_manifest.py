"""expansion.json of an expanded tokenizer: what it was made from, and what a model needs to use it."""

from pathlib import Path
from typing import Literal

from launcher.artifacts.corpus_manifest import ManifestPart, SourceFile, read_valid

EXPANSION = "expansion.json"
"""Next to the tokenizer's files."""
FORMAT: Literal[1] = 1
"""Version of this file's format; also part of every fingerprint."""


class TokenizerIdentity(ManifestPart):
    """One of the two tokenizers."""

    path: str
    """As the recipe names it."""
    fingerprint: str
    """SHA-256 of its rules and vocabulary, as in the manifest of a corpus."""
    vocab_size: int
    """Its ids are smaller than this: a model's embeddings need so many rows."""


class Fertility(ManifestPart):
    """How many tokens a tokenizer makes of a text."""

    tokens: int
    tokens_per_word: float
    """A word is what stands between white space."""
    characters_per_token: float


class Measurement(ManifestPart):
    """Both tokenizers on the same held-out documents."""

    documents: int
    words: int
    characters: int
    base: Fertility
    expanded: Fertility
    new_share: float
    """Of the expanded tokenizer's tokens, those that are new."""


class Expansion(ManifestPart):
    """What is known about an expanded tokenizer."""

    format: Literal[1] = FORMAT
    tokenizer: str
    """Its name below `roots.models`."""
    data_use: Literal["open", "credentialed"]
    """Of the text: tokens are fragments of it."""
    recipe_fingerprint: str
    """Equal for equal base, source files and settings, which give the same tokenizer."""
    code: str
    """Version and snapshot of the code that made it, or several; as in a corpus' manifest."""
    base: TokenizerIdentity
    """Its ids mean the same tokens in the expanded one."""
    expanded: TokenizerIdentity
    parts: tuple[tuple[int, ...], ...]
    """The ids of the base that each new id, from `base.vocab_size` on, replaces. Its embedding starts as the mean of
    theirs."""
    min_documents: int
    """Each new token occurs in at least this many documents, by itself or inside of a longer new token."""
    only_inside: int = 0
    """New tokens that stand nowhere by themselves: longer ones are built from them."""
    measurement: Measurement
    sources: tuple[SourceFile, ...]


def read_expansion(folder: Path) -> Expansion:
    """Read what is known about an expanded tokenizer.

    Raises:
        LauncherError: the folder holds none.
    """
    missing = "is not an expanded tokenizer ({} is missing); submit the `vocabulary` recipe that makes it"
    return read_valid(Expansion, folder / EXPANSION, missing, "make the tokenizer again")
