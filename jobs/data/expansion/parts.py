"""One source file becomes counted words and held-out documents; the plan of it all."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from datatrove.data import Document

from jobs.data.clean import Cleaner
from jobs.data.clean.language import load_identifier
from jobs.data.expansion.base import Base, read_base
from jobs.data.expansion.counting import Words
from jobs.data.parts import Part, source_file, watched
from jobs.data.plan import SourcePlan, digest, find_files, fingerprint_of, load_tokenizer
from jobs.data.progress import Gauge
from jobs.data.readers import read
from jobs.data.readers.intake import Intake
from jobs.data.shards import batches, text_hash
from jobs.runtime.context import Context
from jobs.runtime.durable import replace_durably, write_durably
from launcher.corpus import SPLITS, Split, Tally
from launcher.errors import LauncherError
from launcher.expansion import FORMAT
from launcher.paths import expand
from launcher.recipe.vocabulary import VocabularyRecipe


@dataclass(frozen=True)
class VocabularyPlan(SourcePlan):
    """Everything that decides the tokens of an expanded tokenizer."""

    recipe: VocabularyRecipe
    base: Base

    def words(self, number: int) -> Path:
        """Where the counted words of a source file lie."""
        return self.parts / f"{number:05d}.words"

    def heldout(self, number: int) -> Path:
        """Where its held-out documents lie."""
        return self.parts / f"{number:05d}.heldout.gz"

    def beside(self, number: int) -> list[Path]:
        """Name what was made of a source file besides its record."""
        return [self.words(number), self.heldout(number)]


def make_plan(context: Context) -> VocabularyPlan:
    """Work out what the recipe asks for.

    Raises:
        LauncherError: source files are missing, or the tokenizer cannot be used.
    """
    recipe = context.recipe
    assert isinstance(recipe, VocabularyRecipe), recipe.kind
    if context.ranks.world_size > 1:
        raise LauncherError("resources: `vocabulary` is one task; write `nodes: 1` and `gpus_per_node: 0`")
    files = find_files(context, recipe.sources)
    encoder = load_tokenizer(context, recipe)
    if recipe.clean.languages:
        load_identifier()
    base = read_base(encoder.backend, recipe.tokenizer)
    folder = expand(context.record.cluster["roots"]["models"]) / recipe.output
    settings = settings_of(recipe, encoder.record.fingerprint)
    fingerprint = fingerprint_of(settings, files)
    return VocabularyPlan(recipe, files, encoder, settings, fingerprint, folder, context.code_version, base)


def settings_of(recipe: VocabularyRecipe, base: str) -> str:
    """Sum up everything but the files that decides the tokens, and who may see them."""
    return digest(
        {
            "format": FORMAT,
            "data_use": recipe.data_use,
            "base": base,
            "settings": [recipe.new_tokens, recipe.min_documents, recipe.max_characters, recipe.share, recipe.heldout],
            "clean": recipe.clean.model_dump(mode="json"),
        }
    )


def count_part(plan: VocabularyPlan, number: int, gauge: Gauge | None = None) -> Part:
    """Count the words of one source file, and put its held-out documents aside.

    Args:
        plan: Of the tokenizer.
        number: Which of its files.
        gauge: Where to show how much of the file has been read.

    Raises:
        LauncherError: somebody wrote to the file meanwhile.
    """
    path, source = plan.files[number]
    intake, cleaner = Intake(path), Cleaner(plan.recipe.clean, None)
    counter = _Counter(plan)
    with (
        replace_durably(plan.heldout(number)) as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as heldout,
    ):
        for batch in batches(cleaner.run(watched(read(intake, source), number, intake, gauge))):
            counter.add(batch, cast(BinaryIO, heldout))
    counter.words.save(plan.words(number))
    part = Part(
        settings=plan.settings,
        code=plan.code,
        source=source_file(intake, source),
        modified_ns=intake.modified_ns,
        tally=counter.tally(intake, cleaner),
        first_bad=tuple(intake.first_bad),
        shards={},
    )
    write_durably(plan.record(number), part.model_dump_json(indent=1))
    return part


class _Counter:
    """Deals documents to the words to learn from and to those held out."""

    def __init__(self, plan: VocabularyPlan) -> None:
        self._base, self._recipe = plan.base, plan.recipe
        self.words = Words(plan.recipe.min_documents)
        self._documents = Counter[Split]()
        self._tokens = Counter[Split]()

    def add(self, batch: Sequence[Document], heldout: BinaryIO) -> None:
        """Count some documents, or write them to those held out."""
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

    def tally(self, intake: Intake, cleaner: Cleaner) -> Tally:
        """Sum up what became of the file's records."""
        return Tally(
            records=intake.count,
            bad_records=intake.bad,
            dropped=cleaner.dropped,
            documents={split: self._documents[split] for split in SPLITS},
            tokens={split: self._tokens[split] for split in SPLITS},
        )


def _holder(document: Document) -> int:
    """A hash that documents of one patient, versions of one citation and copies of one text have in common."""
    key = document.metadata.get("split_key", document.metadata.get("identity"))
    return text_hash(document.text if key is None else str(key))


def heldout_batches(plan: VocabularyPlan) -> Iterator[list[str]]:
    """Read the held-out documents of all parts."""
    for number in range(len(plan.files)):
        with gzip.open(plan.heldout(number), "rb") as file:
            documents = (Document(text=json.loads(line), id="") for line in file)
            for batch in batches(documents):
                if batch:
                    yield [document.text for document in batch]
