"""Write shards: documents become token ids and document ends, with checksums."""

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

from jobs.data.dedup.document_keys import KeyRecorder
from jobs.data.readers.source_stream import SourceStream
from jobs.models.tokenizer import TextEncoder
from jobs.rank.atomic_files import staging_path
from launcher.artifacts.corpus_manifest import SPLITS, Shard, Split

_BATCH_CHARACTERS = 2**20
"""Text tokenised at once: keeps all threads busy in bounded memory."""
_REPORT_SECONDS = 30


class TokenizedShards(PipelineStep):  # type: ignore[misc]  # datatrove has no types
    """The last step of a datatrove pipeline: tokenises documents and writes one shard of each split."""

    type = "writer"
    name = "tokenized shards"

    def __init__(
        self, encoder: TextEncoder, validation: float, folder: Path, name: str, stream: SourceStream, keys: KeyRecorder
    ) -> None:
        super().__init__()
        self._encoder = encoder
        self._validation = validation
        self._folder = folder
        self._name = name
        self._stream = stream
        self._keys = keys
        self.written: dict[Split, Shard] = {}
        """The shards, once all documents are written; splits without documents are left out."""

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:  # noqa: ARG002 - datatrove passes it
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
        split: Split = document.metadata.get("split") or split_of_document(document, self._validation)
        self._keys.keep(document, split, content)
        return split

    def _report(self, tokens: int, seconds: float) -> None:
        if sys.stdout.isatty():  # there is a bar
            return
        share, speed = self._stream.share_read, tokens / seconds / 1e6
        print(f"{self._stream.path.name}: {share:.0%}, {tokens / 1e6:.1f} M tokens, {speed:.2f} M tokens/s", flush=True)


def text_hash(text: str) -> int:
    """Return 64 bits of BLAKE2b: two of 40 million texts agree by chance in one of 20,000 corpora."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def split_of(key_hash: int, validation: float) -> Split:
    """Choose the split of a document from a 64-bit hash of its text or patient, so that copies stay together."""
    return "validation" if key_hash < validation * 2**64 else "train"


def split_of_document(document: Document, validation: float) -> Split:
    """Choose the split of a document: that of its patient, if it has one."""
    return split_of(text_hash(document.metadata.get("split_key", document.text)), validation)


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents that are tokenised at once; the last batch may be empty."""
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
    """Writes one shard and its index, which appear under their names when it is closed."""

    def __init__(self, folder: Path, name: str, dtype: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        self._name = name
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._ids = _StagedFile(folder / name)
        self._index = _StagedFile(folder / f"{name}.index")
        self.tokens = 0
        self.documents = 0

    def write(self, documents: Sequence[Sequence[int]]) -> None:
        """Add documents: the token ids of each, with its end-of-document token."""
        if not documents:
            return
        ids = np.fromiter(chain.from_iterable(documents), self._dtype)
        self.append(ids, np.array([len(document) for document in documents]))

    def append(self, ids: NDArray[Any], lengths: NDArray[np.int64]) -> None:
        """Add documents that lie end to end: their token ids in the shard's format, and the length of each."""
        ends = self.tokens + np.cumsum(lengths, dtype="<u8")
        self._ids.write(np.ascontiguousarray(ids, self._dtype).data)
        self._index.write(ends.data)
        self.tokens += len(ids)
        self.documents += len(lengths)

    def close(self) -> Shard | None:
        """Finish both files and describe the shard; one without documents leaves no file."""
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
    """A file under a temporary name until it is complete."""

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
