"""Writing shards: token ids and document ends, checksummed on the way to disk."""

import hashlib
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from jobs.data.manifest import Shard


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
        ends = self.tokens + np.cumsum([len(ids) for ids in documents], dtype="<u8")
        self._ids.write(np.fromiter(chain.from_iterable(documents), self._dtype).tobytes())
        self._index.write(ends.tobytes())
        self.tokens = int(ends[-1]) if documents else self.tokens
        self.documents += len(documents)

    def close(self) -> Shard:
        """Put both files in place, durably, and describe them."""
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
        self._staging = path.with_name(f".{path.name}.{os.getpid()}")
        self._file = self._staging.open("wb")
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)

    def close(self) -> str:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._staging, self._path)
        return self._hash.hexdigest()
