"""Comparing a corpus with its manifest.

Sizes are compared first, and files of another size are not read. What is left is read once: checksums, and what
checksums cannot tell, that the contents make sense to the training. Several processes share the files.
"""

import hashlib
import os
import signal
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from operator import ge
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from launcher.artifacts.corpus_manifest import SPLITS, TOKENIZER, Shard, file_sha256
from launcher.corpora.find import ID_CODES, PublishedCorpus
from launcher.corpora.lengths import read_ends

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

OnProgress: TypeAlias = Callable[[int], None]

_TOKENS_AT_ONCE = 2**21
_POLL_SECONDS = 0.2
_MAX_PROCESSES = 8
"""A login node is for others as well."""


@dataclass(frozen=True, order=True)
class Flaw:
    """One thing wrong with a corpus."""

    file: str
    """Path below its folder; empty for the folder itself."""
    what: str


def check_sizes(corpus: PublishedCorpus) -> list[Flaw]:
    """Look for everything that can be found without reading shards."""
    return [*_check_folder(corpus), *_check_counts(corpus), *_check_tokenizer(corpus), *_check_files(corpus)]


def check_contents(corpus: PublishedCorpus, sound: Sequence[Shard], on_progress: OnProgress) -> list[Flaw]:
    """Read shards and look for what is wrong in them.

    Args:
        corpus: The corpus.
        sound: Those whose files have the right sizes.
        on_progress: Called with the number of bytes read so far.

    Returns:
        The flaws, by file.
    """
    context = get_context("fork")  # no thread runs yet that a fork could break, and nothing is imported again
    read: Synchronized[int] = context.Value("Q")
    processes = max(1, min(len(sound), len(os.sched_getaffinity(0)), _MAX_PROCESSES))
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(read,)) as pool:
        vocabulary, code = corpus.manifest.tokenizer.vocab_size, ID_CODES[corpus.manifest.dtype]
        jobs = [pool.submit(_check_shard, corpus.folder, shard, code, vocabulary) for shard in sound]
        return sorted(_collect(jobs, lambda: on_progress(read.value)))


def sound_shards(corpus: PublishedCorpus, flaws: Iterable[Flaw]) -> list[Shard]:
    """Shards whose files are there in full length."""
    damaged = {flaw.file for flaw in flaws}
    return [shard for shard in corpus.manifest.all_shards if damaged.isdisjoint((shard.name, f"{shard.name}.index"))]


def _check_folder(corpus: PublishedCorpus) -> Iterator[Flaw]:
    mode = corpus.folder.stat().st_mode & 0o777
    if corpus.manifest.data_use == "credentialed" and mode & 0o077:
        yield Flaw("", f"is credentialed, and others may enter it (mode {mode:04o}); `chmod 700 {corpus.folder}`")


def _check_counts(corpus: PublishedCorpus) -> Iterator[Flaw]:
    counts, shards = corpus.manifest.counts, corpus.manifest.shards
    for split in SPLITS:
        for what, counted in (("documents", counts.documents[split]), ("tokens", counts.tokens[split])):
            found = sum(int(getattr(shard, what)) for shard in shards[split])
            if found != counted:
                yield Flaw("manifest.json", f"counts {counted:,} {what} in {split}, its shards have {found:,}")


def _check_tokenizer(corpus: PublishedCorpus) -> Iterator[Flaw]:
    path, expected = corpus.folder / TOKENIZER, corpus.manifest.tokenizer.fingerprint
    if not path.is_file():
        yield Flaw(TOKENIZER, "is missing")
    elif (found := file_sha256(path)) != expected:
        yield Flaw(TOKENIZER, _other_checksum(found, expected))


def _check_files(corpus: PublishedCorpus) -> Iterator[Flaw]:
    for name, expected in corpus.manifest.sizes().items():
        try:
            size = (corpus.folder / name).stat().st_size
        except FileNotFoundError:
            yield Flaw(name, "is missing")
            continue
        if size != expected:
            yield Flaw(name, f"has {size:,} bytes, not {expected:,}")


def _collect(jobs: list[Future[list[Flaw]]], look: Callable[[], None]) -> Iterator[Flaw]:
    waiting = set(jobs)
    while waiting:
        done, waiting = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
        look()
        for job in done:
            yield from job.result()


_READ: "list[Synchronized[int]]" = []
"""In a worker process: where it counts the bytes it has read."""


def _start(read: "Synchronized[int]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers without a word
    _READ[:] = [read]


def _check_shard(folder: Path, shard: Shard, code: str, vocabulary: int) -> list[Flaw]:
    try:
        return [*_check_ids(folder / shard.name, shard, code, vocabulary), *_check_index(folder, shard)]
    except OSError as error:
        return [Flaw(shard.name, f"cannot be read: {error.strerror}")]


def _check_ids(path: Path, shard: Shard, code: str, vocabulary: int) -> Iterator[Flaw]:
    checksum, largest, width = hashlib.sha256(), -1, array(code).itemsize
    with path.open("rb") as file:
        while block := file.read(_TOKENS_AT_ONCE * width):
            checksum.update(block)
            in_block = max(array(code, block))
            largest = max(largest, in_block)
            _count(len(block))
    if checksum.hexdigest() != shard.sha256:
        yield Flaw(shard.name, _other_checksum(checksum.hexdigest(), shard.sha256))
    if largest >= vocabulary:
        yield Flaw(shard.name, f"holds id {largest:,}; the vocabulary ends at {vocabulary - 1:,}")


def _check_index(folder: Path, shard: Shard) -> Iterator[Flaw]:
    path, name = folder / f"{shard.name}.index", f"{shard.name}.index"
    if (found := file_sha256(path)) != shard.index_sha256:
        yield Flaw(name, _other_checksum(found, shard.index_sha256))
    before, first = 0, 0
    for ends in read_ends(path, shard.documents):
        empty = [0] if ends[0] <= before else []
        empty += [place + 1 for place, wrong in enumerate(map(ge, ends, islice(ends, 1, None))) if wrong]
        if empty:
            yield Flaw(name, f"document {first + empty[0]:,} does not end after the one before it")
            return
        before, first = ends[-1], first + len(ends)
        _count(len(ends) * 8)
    if before != shard.tokens:
        yield Flaw(name, f"the last document ends at token {before:,}, the shard has {shard.tokens:,}")


def _count(size: int) -> None:
    [read] = _READ
    with read.get_lock():
        read.value += size


def _other_checksum(found: str, expected: str) -> str:
    return f"has another SHA-256 ({found[:12]}) than the manifest says ({expected[:12]})"
