"""Make the examples of one source of conversations, file by file. Messages quote no record."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jobs.data.chat.render import Renderer
from jobs.data.chat.store import ExamplesTally, PreparedSource, StoredExamples
from jobs.data.corpus.file_list import describe_file
from jobs.data.readers.bad_records import some_of_each
from jobs.data.readers.source_stream import SourceStream
from jobs.rank.atomic_files import write_durably
from launcher.artifacts.corpus_manifest import SourceFile, Split
from launcher.recipe.kinds.conversations import ConversationRecipe
from launcher.recipe.names import names_in
from launcher.recipe.sections.chat_sources import ChatSourceBase


class SourceMaker(ABC):
    """Makes the examples of one source."""

    def __init__(self, recipe: ConversationRecipe, source: ChatSourceBase, renderer: Renderer) -> None:
        self.recipe = recipe
        self.source = source
        self.renderer = renderer
        self.dropped, self.trimmed = Counter[str](), Counter[str]()
        self.truncated = 0
        self._files: list[SourceFile] = []
        self._first_bad: list[str] = []
        self._values = Counter[str]()
        self._bad_reasons = Counter[str]()
        self._bad = 0

    @abstractmethod
    def write(self, stream: SourceStream, folder: Path) -> Iterator[None]:
        """Write the examples of one file; yields after each batch."""

    @abstractmethod
    def finish(self) -> StoredExamples:
        """Finish what was written."""

    @property
    def term_counts(self) -> dict[str, int]:
        """What was done to terms; see TERMINOLOGY_COUNTS."""
        return {}

    @property
    def strata(self) -> dict[str, dict[Split, int]]:
        """Examples of each split by the value of `data.stratify_by`."""
        return {}

    def read(self, path: Path, folder: Path) -> Iterator[None]:
        """Make the examples of one file; yields after each batch."""
        stream = SourceStream(path)
        if named := names_in(self.source):
            stream.expect(named.names)
        yield from self.write(stream, folder)
        self._files.append(describe_file(stream, self.source))
        self._first_bad += stream.first_bad
        self._bad += stream.bad
        self._values.update(stream.values or {})
        self._bad_reasons += stream.reasons

    def close(self, folder: Path) -> PreparedSource:
        """Finish the source and write its record."""
        stored = self.finish()
        tally = ExamplesTally(
            records=sum(file.records for file in self._files),
            bad_records=self._bad,
            bad_reasons=dict(sorted(self._bad_reasons.items())),
            dropped=dict(sorted(self.dropped.items())),
            trimmed=dict(sorted(self.trimmed.items())),
            truncated=self.truncated,
            answer_tokens=stored.answer_tokens,
            strata=self.strata,
            terminology=self.term_counts,
        )
        prepared = PreparedSource(
            name=self.source.name,
            files=tuple(self._files),
            first_bad=tuple(some_of_each(self._first_bad)),
            tally=tally,
            examples=stored.examples,
            packs=stored.packs,
            values=self._values,
        )
        write_durably(folder / self.source.name / "source.json", prepared.model_dump_json(indent=1))
        return prepared
