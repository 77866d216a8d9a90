"""MinHash signatures of the documents of a source file, by datatrove's functions, kept until all files are processed.

A signature is `buckets` x `hashes` numbers of 64 bits, 896 bytes with the usual 14 x 8. The file holds blocks of
documents, each with one bucket after the other: so it is written sequentially, and one bucket is read without the
others.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import regex
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.word_tokenizers import WordTokenizer
from numpy.typing import NDArray

from jobs.data.clean.text import with_few_marks
from jobs.data.dedup.document_keys import KeyRecorder
from jobs.rank.atomic_files import replace_durably
from launcher.recipe.kinds.prepare import Minhash

_BLOCK = 4096
_COMPARED_CHARACTERS = 2**22
"""Only this much of a document is compared, which bounds the memory: 700,000 words."""
_SHINGLES_AT_ONCE = 2**12


def minhash_config(minhash: Minhash) -> MinhashConfig:
    """Return datatrove's configuration; hashes and normalisation are its defaults."""
    return MinhashConfig(n_grams=minhash.ngrams, num_buckets=minhash.buckets, hashes_per_bucket=minhash.hashes)


class ShingleTokenizer(WordTokenizer):  # type: ignore[misc]  # datatrove has no types
    """Splits text without punctuation at spaces, and around each Chinese, Japanese or Thai character.

    datatrove's default for English is spaCy. In 500 abstracts it found other words in 46 of 122,625 places (0° in two,
    can not), took 160 times as long, and it needs to know the language beforehand.
    """

    _pattern = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]|[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]+")

    def word_tokenize(self, text: str) -> list[str]:
        """Give the words of a text."""
        return text.split() if text.isascii() else self._pattern.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        """Signatures know no sentences."""
        raise NotImplementedError

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Signatures know no sentences."""
        raise NotImplementedError


class Signer(MinhashDedupSignature):  # type: ignore[misc]  # datatrove has no types
    """datatrove's signatures, of the words above."""

    def __init__(self, config: MinhashConfig) -> None:
        PipelineStep.__init__(self)  # datatrove's own __init__ asks for spaCy and an output folder
        self.config = config
        self.num_hashes = config.num_buckets * config.hashes_per_bucket
        self.word_tokenizer = ShingleTokenizer()
        self._parameters = None
        hash_bytes = create_hash_func(config.hash_config, bytes)
        self._hash_func = lambda words: hash_bytes(words.encode())  # datatrove hands over str, which xxhash 4 refuses

    def sign(self, text: str) -> NDArray[np.uint64] | None:
        """Return the signature of a text, bucket by bucket; None if it has too few words for one shingle."""
        shingles = self.get_shingles(with_few_marks(text[:_COMPARED_CHARACTERS]))  # it normalises
        # A signature is a minimum over shingles. Taking it in chunks bounds the memory: 900 bytes a shingle.
        chunks = [shingles[start : start + _SHINGLES_AT_ONCE] for start in range(0, len(shingles), _SHINGLES_AT_ONCE)]
        signatures = [np.array(self.get_signature(chunk), "<u8") for chunk in chunks]
        return np.minimum.reduce(signatures) if signatures else None


class SignatureWriter(PipelineStep):  # type: ignore[misc]  # datatrove has no types
    """Writes the signatures of the documents that pass through, and records which have one."""

    type = "dedup"
    name = "signatures"

    def __init__(self, minhash: Minhash, path: Path, keys: KeyRecorder) -> None:
        super().__init__()
        self._signer = Signer(minhash_config(minhash))
        self._path = path
        self._keys = keys

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002 - datatrove passes it
        """Pass the documents on unchanged."""
        block: list[NDArray[np.uint64]] = []
        with replace_durably(self._path) as file:
            for place, document in enumerate(data):
                signature = self._signer.sign(document.text)
                if signature is not None:
                    self._keys.signed.append(place)
                    block.append(signature)
                if len(block) == _BLOCK:
                    _write_block(file, block)
                    block = []
                yield document
            _write_block(file, block)


def _write_block(file: BinaryIO, signatures: list[NDArray[np.uint64]]) -> None:
    if signatures:
        file.write(np.stack(signatures, axis=1).tobytes())


def read_bucket(path: Path, count: int, config: MinhashConfig, bucket: int) -> Iterator[NDArray[np.uint64]]:
    """Read one bucket of the `count` signatures in a file, in blocks of documents x hashes."""
    hashes = config.hashes_per_bucket
    with path.open("rb") as file:
        for start in range(0, count, _BLOCK):
            size = min(_BLOCK, count - start)
            file.seek(8 * hashes * (start * config.num_buckets + bucket * size))
            yield np.frombuffer(file.read(8 * hashes * size), "<u8").reshape(size, hashes)
