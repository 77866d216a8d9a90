"""Documents of a corpus as text again, decoded with the tokenizer that is stored beside them."""

import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.artifacts.corpus_manifest import TOKENIZER, Shard, Split, file_sha256
from launcher.corpora.find import ID_CODES, PublishedCorpus
from launcher.errors import LauncherError, how_to_install

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MAX_TOKENS_OF_A_CHARACTER = 4
"""UTF-8 has up to four bytes for one, and a tokenizer that knows no better has a token for each."""


@dataclass(frozen=True)
class DecodedDocument:
    """One document of a split."""

    number: int
    """Counted from 0, in the order of the split."""
    tokens: int
    """All of them, with those that start and end it."""
    text: str
    is_whole: bool
    """Nothing was cut off the text."""


def draw(
    corpus: PublishedCorpus, split: Split, count: int, seed: int, characters: int, has_credentials: bool
) -> list[DecodedDocument]:
    """Decode documents that are drawn at random.

    Args:
        corpus: The corpus.
        split: Which part of it.
        count: How many documents; all if there are fewer.
        seed: The same one draws the same documents.
        characters: Longer texts are cut.
        has_credentials: The reader may see credentialed text.

    Returns:
        The documents, in the order of the split.

    Raises:
        LauncherError: The text is credentialed, `tokenizers` is not installed, or the corpus is damaged.
    """
    if corpus.manifest.data_use == "credentialed" and not has_credentials:
        raise LauncherError(
            f"{corpus.folder}: holds credentialed text, and `sample` prints text; write `--i-have-credentials` if you "
            "have signed its data use agreement and nobody else sees this output"
        )
    tokenizer = _load_tokenizer(corpus)
    total = corpus.manifest.counts.documents[split]
    # A set of its own: this draws documents to look at, nothing that has to be unpredictable.
    wanted = sorted(random.Random(seed).sample(range(total), min(count, total)))  # noqa: S311 - no secret
    return [_decode(corpus, tokenizer, *place, characters) for place in _places(corpus, split, wanted)]


def _load_tokenizer(corpus: PublishedCorpus) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise LauncherError(f"`tokenizers` is missing; install it with {how_to_install('data')}") from None
    path = corpus.folder / TOKENIZER
    if not path.is_file():
        raise LauncherError(f"{path}: is missing; copy the corpus again, or remove the folder and prepare it again")
    if file_sha256(path) != corpus.manifest.tokenizer.fingerprint:
        raise LauncherError(f"{path}: is not the tokenizer that made the corpus; prepare it again, or copy all of it")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no narrower type for what it cannot read
        raise LauncherError(f"{path}: {error}; install the version of `tokenizers` that made the corpus") from None


def _places(corpus: PublishedCorpus, split: Split, wanted: list[int]) -> Iterator[tuple[int, Shard, int]]:
    """Give for each wanted document its number, its shard and its number in that."""
    shards, first = iter(corpus.manifest.shards[split]), 0
    shard = next(shards, None)
    for number in wanted:
        while shard is not None and number >= first + shard.documents:
            first += shard.documents
            shard = next(shards, None)
        if shard is None:
            raise LauncherError(f"{corpus.folder}: its shards have fewer documents than its manifest counts")
        yield number, shard, number - first


def _decode(
    corpus: PublishedCorpus, tokenizer: "Tokenizer", number: int, shard: Shard, inner: int, characters: int
) -> DecodedDocument:
    index, frame = corpus.folder / f"{shard.name}.index", corpus.manifest.tokenizer
    start, end = _read(index, "Q", inner - 1, inner + 1) if inner else (0, *_read(index, "Q", 0, 1))
    first, last = start + len(frame.prefix), end - 1
    stop = min(last, first + characters * _MAX_TOKENS_OF_A_CHARACTER)
    ids = _read(corpus.folder / shard.name, ID_CODES[corpus.manifest.dtype], first, stop)
    text = tokenizer.decode(ids, skip_special_tokens=False)
    is_whole = stop == last and len(text) <= characters
    return DecodedDocument(number, end - start, text if is_whole else text[:characters].rstrip("\ufffd"), is_whole)


def _read(path: Path, code: str, start: int, stop: int) -> list[int]:
    width = array(code).itemsize
    try:
        with path.open("rb") as file:
            file.seek(start * width)
            block = file.read((stop - start) * width)
    except FileNotFoundError:
        block = b""
    if stop < start or len(block) != (stop - start) * width:
        raise LauncherError(f"{path}: is damaged; `launcher corpus verify` shows how")
    return array(code, block).tolist()
