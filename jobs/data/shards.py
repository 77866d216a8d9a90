"""Writing shards: documents become token ids and document ends, checksummed on the way to disk."""

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from jobs.data.keys import KeyRecorder
from jobs.data.readers.intake import Intake
from jobs.data.tokenize import TextEncoder
from jobs.runtime.durable import staging_path
from launcher.corpus import SPLITS, Shard, Split

_BATCH_CHARACTERS = 2**20
"""Text tokenised at once: enough to keep all threads busy, little enough to bound the memory."""
_REPORT_SECONDS = 30


class TokenizedShards(PipelineStep):
    """The end of a datatrove pipeline: tokenises documents and writes one shard of each split."""

    type = "writer"
    name = "tokenized shards"

    def __init__(
        self, encoder: TextEncoder, validation: float, folder: Path, name: str, intake: Intake, keys: KeyRecorder
    ) -> None:
        super().__init__()
        self._encoder = encoder
        self._validation = validation
        self._folder = folder
        self._name = name
        self._intake = intake
        self._keys = keys
        self.written: dict[Split, Shard] = {}
        """What was written, once the documents have run through; splits without documents are left out."""

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:  # noqa: ARG002
        """Write all documents."""
        writers = {split: ShardWriter(self._folder, f"{split}/{self._name}", self._encoder.dtype) for split in SPLITS}
        started = reported = time.monotonic()
        for batch in batches(data):
            texts = [document.text for document in batch]
            splits = [self._split(document) for document in batch]
            encoded = self._encoder.encode(texts)
            for split, writer in writers.items():
                writer.write([ids for ids, its in zip(encoded, splits, strict=True) if its == split])
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                self._report(sum(writer.tokens for writer in writers.values()), reported - started)
        shards = {split: writer.close() for split, writer in writers.items()}
        self.written = {split: shard for split, shard in shards.items() if shard is not None}

    def _split(self, document: Document) -> Split:
        key = document.metadata.get("split_key")
        # Two patients with the same words, as in a report of a normal ECG, are two documents.
        content = text_hash(document.text if key is None else f"{key}\n{document.text}")
        split = split_of(content if key is None else text_hash(key), self._validation)
        self._keys.keep(document, split, content)
        return split

    def _report(self, tokens: int, seconds: float) -> None:
        if sys.stdout.isatty():  # there is a bar
            return
        share, speed = self._intake.share_read, tokens / seconds / 1e6
        print(f"{self._intake.path.name}: {share:.0%}, {tokens / 1e6:.1f} M tokens, {speed:.2f} M tokens/s", flush=True)


def text_hash(text: str) -> int:
    """64 bits of BLAKE2b: two of 40 million texts agree by chance once in 20,000 corpora."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def split_of(key_hash: int, validation: float) -> Split:
    """Choose the split of a document from a hash of its text or patient: not from its place, so copies stay together.

    Args:
        key_hash: 64 bits.
        validation: Share held out.
    """
    return "validation" if key_hash < validation * 2**64 else "train"


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Put documents together that are tokenised at once; the last batch may be empty."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    yield batch


class ShardWriter:
    """Writes one shard and its index; they appear under their names when it is closed."""

    def __init__(self, folder: Path, name: str, dtype: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        self._name = name
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._ids = _StagedFile(folder / name)
        self._index = _StagedFile(folder / f"{name}.index")
        self.tokens = 0
        self.documents = 0

    def write(self, documents: Sequence[Sequence[int]]) -> None:
        """Add documents.

        Args:
            documents: Token ids of each document, its end-of-document token included.
        """
        if not documents:
            return
        ids = np.fromiter(chain.from_iterable(documents), self._dtype)
        self.append(ids, np.array([len(document) for document in documents]))

    def append(self, ids: NDArray[Any], lengths: NDArray[np.int64]) -> None:
        """Add documents that lie end to end.

        Args:
            ids: Token ids of all of them, in the shard's format.
            lengths: Tokens of each.
        """
        ends = self.tokens + np.cumsum(lengths, dtype="<u8")
        self._ids.write(np.ascontiguousarray(ids, self._dtype).data)
        self._index.write(ends.data)
        self.tokens += len(ids)
        self.documents += len(lengths)

    def close(self) -> Shard | None:
        """Put both files in place, durably, and describe them; a shard without documents leaves no file."""
        if not self.documents:
            self._ids.discard()
            self._index.discard()
            return None
        return Shard(
            name=self._name,
            tokens=self.tokens,
            documents=self.documents,
            sha256=self._ids.close(),
            index_sha256=self._index.close(),
        )


class _StagedFile:
    """A file under a name of this process until it is complete: a killed writer leaves nothing half done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._staging = staging_path(path)
        self._file = self._staging.open("wb")
        self._hash = hashlib.sha256()

    def write(self, data: memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)

    def close(self) -> str:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._staging, self._path)
        return self._hash.hexdigest()

    def discard(self) -> None:
        self._file.close()
        self._staging.unlink()
