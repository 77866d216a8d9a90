"""One source file becomes counted words and held-out documents; the files of it all."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from datatrove.data import Document

from jobs.data.clean import Cleaner
from jobs.data.corpus.file_list import FileList, cleaning_of, digest, fingerprint_of, open_sources
from jobs.data.corpus.progress import Gauge
from jobs.data.corpus.shard_writer import batches, text_hash
from jobs.data.corpus.source_file import ProcessedFile, finish, read_watched
from jobs.data.readers.source_stream import SourceStream
from jobs.data.vocabulary.base import Base, read_base
from jobs.data.vocabulary.counting import WordCounts
from jobs.rank.atomic_files import replace_durably
from jobs.rank.context import Context
from launcher.artifacts.corpus_manifest import SPLITS, Split, Tally
from launcher.artifacts.tokenizer_manifest import FORMAT
from launcher.recipe.kinds.vocabulary import VocabularyRecipe


@dataclass(frozen=True)
class VocabularyFileList(FileList):
    """The file list of an expanded tokenizer."""

    recipe: VocabularyRecipe
    base: Base

    def words(self, number: int) -> Path:
        """Path of the counted words of a source file."""
        return self.parts / f"{number:05d}.words"

    def heldout(self, number: int) -> Path:
        """Path of its held-out documents."""
        return self.parts / f"{number:05d}.heldout.gz"

    def other_files(self, number: int) -> list[Path]:
        """What was made of a source file besides its record."""
        return [self.words(number), self.heldout(number)]


def vocabulary_file_list(context: Context) -> VocabularyFileList:
    """List the source files, and load what is needed to count their words.

    Raises:
        LauncherError: source files are missing, or the tokenizer cannot be used.
    """
    recipe = cast(VocabularyRecipe, context.recipe)
    sources, encoder = open_sources(context, recipe)
    base = read_base(encoder.backend, recipe.tokenizer)
    folder = context.made_path("tokenizer", recipe.output)
    settings = settings_of(recipe, encoder.record.fingerprint)
    fingerprint = fingerprint_of(settings, sources)
    return VocabularyFileList(recipe, sources, encoder, settings, fingerprint, folder, context.code_version, base)


def settings_of(recipe: VocabularyRecipe, base: str) -> str:
    """Return a checksum of everything but the files that decides the tokens, and who may see them."""
    return digest(
        {
            "format": FORMAT,
            "data_use": recipe.data_use,
            "base": base,
            "settings": [recipe.new_tokens, recipe.min_documents, recipe.max_characters, recipe.share, recipe.heldout],
            "clean": cleaning_of(recipe),
        }
    )


def count_file(files: VocabularyFileList, number: int, gauge: Gauge | None = None) -> ProcessedFile:
    """Count the words of one source file, and set its held-out documents aside.

    Raises:
        LauncherError: the file was written to meanwhile.
    """
    path, source = files.sources[number]
    stream, cleaner = SourceStream(path), Cleaner(files.recipe.clean, None)
    counter = _Counter(files)
    with (
        replace_durably(files.heldout(number)) as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as heldout,
    ):
        for batch in batches(cleaner.run(read_watched(stream, source, number, gauge))):
            counter.add(batch, cast(BinaryIO, heldout))
    counter.words.save(files.words(number))
    return finish(files, number, stream, counter.tally(stream, cleaner))


class _Counter:
    """Counts the words of most documents, and writes the others to the held-out file."""

    def __init__(self, files: VocabularyFileList) -> None:
        self._base, self._recipe = files.base, files.recipe
        self.words = WordCounts(files.recipe.min_documents)
        self._documents = Counter[Split]()
        self._tokens = Counter[Split]()

    def add(self, batch: Sequence[Document], heldout: BinaryIO) -> None:
        measured, share = self._recipe.heldout, self._recipe.share
        first, end = measured * 2**64, (measured + (1 - measured) * share) * 2**64
        chosen = [(document.text, holder) for document in batch if (holder := _holder(document)) < end]
        for (text, holder), (words, tokens) in zip(chosen, self._base.cut([text for text, _ in chosen]), strict=True):
            split: Split = "train" if holder >= first else "validation"
            self._documents[split] += 1
            self._tokens[split] += tokens
            if split == "train":
                self.words.add(text, words, holder)
            else:
                heldout.write(json.dumps(text).encode() + b"\n")

    def tally(self, stream: SourceStream, cleaner: Cleaner) -> Tally:
        return Tally(
            records=stream.count,
            bad_records=stream.bad,
            bad_reasons=dict(sorted(stream.reasons.items())),
            dropped=cleaner.dropped,
            documents={split: self._documents[split] for split in SPLITS},
            tokens={split: self._tokens[split] for split in SPLITS},
        )


def _holder(document: Document) -> int:
    """Return a hash that documents of one patient, versions of one citation and copies of one text share."""
    key = document.metadata.get("split_key", document.metadata.get("identity"))
    return text_hash(document.text if key is None else str(key))


def heldout_batches(files: VocabularyFileList) -> Iterator[list[str]]:
    """Read the held-out documents of all source files."""
    for number in range(len(files.sources)):
        with gzip.open(files.heldout(number), "rb") as file:
            documents = (Document(text=json.loads(line), id="") for line in file)
            for batch in batches(documents):
                if batch:
                    yield [document.text for document in batch]
