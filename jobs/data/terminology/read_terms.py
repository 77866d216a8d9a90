"""Read all sources of terms of a recipe, and refuse what nothing has and what cannot be read."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from jobs.data.corpus.file_list import options_of
from jobs.data.readers.source_stream import SourceStream
from jobs.data.terminology.concept import Concept
from jobs.data.terminology.file_list import TermFiles
from jobs.data.terminology.index_tables import IndexTables
from jobs.data.terminology.record_counts import RecordCounts, check_counts
from jobs.data.terminology.term_sources import read_abbreviations, read_mesh, read_obo
from jobs.data.terminology.umls import UmlsValues, read_umls
from launcher.artifacts.corpus_manifest import SourceFile
from launcher.errors import LauncherError
from launcher.recipe.kinds.terminology import TerminologyRecipe
from launcher.recipe.names import SourceNames
from launcher.recipe.sections.terminology import AbbreviationTerms, MeshTerms, OboTerms, TermSource, UmlsTerms


@dataclass
class Reading:
    """What was read so far."""

    tables: IndexTables
    files: list[SourceFile] = field(default_factory=list)
    counts: list[RecordCounts] = field(default_factory=list)
    """Of each source."""
    faults: list[str] = field(default_factory=list)
    """What the recipe names and nothing has."""

    def close(self, stream: SourceStream, source: TermSource) -> None:
        """Note a file of the last source that was read to its end; one without a record counts as a bad one."""
        if not stream.count:
            stream.count = 1
            stream.record_error(1, "the file holds no record; fetch it again")
        self.counts[-1].add(stream.count, stream.bad, stream.first_bad)
        self.files.append(
            SourceFile(
                path=str(stream.path),
                format=source.format,
                options=options_of(source),
                license=source.license,
                size=stream.size,
                sha256=stream.sha256,
                records=stream.count,
            )
        )


def read_terms(recipe: TerminologyRecipe, sources: Sequence[TermFiles]) -> Reading:
    """Read all sources of terms.

    Raises:
        LauncherError: a recipe's filter names what nothing has, or too much of a source cannot be read.
    """
    reading = Reading(IndexTables(recipe.exclude))
    for number, one in enumerate(sources):
        _read_source(reading, number, one)
    if unknown := reading.tables.unknown_exclusions():
        named = ", ".join(f"`{term}`" for term in unknown)
        reading.faults.append(f"exclude: no source has the term {named}; correct or remove it")
    check_counts("terms", reading.counts, recipe.max_bad_fraction)
    if reading.faults:
        raise LauncherError("\n".join(reading.faults))
    reading.tables.decide()
    if not reading.tables.terms:
        raise LauncherError("terms: no term is left for the index; check files and filters")
    return reading


def _read_source(reading: Reading, number: int, one: TermFiles) -> None:
    streams, others = ([SourceStream(path) for path in paths] for paths in (one.files, one.others))
    source, left_out = one.source, Counter[str]()
    reading.counts.append(RecordCounts())
    if isinstance(source, AbbreviationTerms):
        reading.tables.add_meanings(read_abbreviations(streams), source.type)
    else:
        values = UmlsValues()
        reading.tables.add(_concepts(source, streams, others, left_out, values), left_out)
        if isinstance(source, UmlsTerms):
            reading.faults += [f"terms.{number}.{key}: {fault}" for key, fault in values.faults(source)]
        if isinstance(source, MeshTerms) and source.trees:
            reading.faults += _tree_faults(number, source, others)
    for stream in (*streams, *others):
        reading.close(stream, source)


def _concepts(
    source: OboTerms | UmlsTerms | MeshTerms,
    streams: Sequence[SourceStream],
    others: Sequence[SourceStream],
    left_out: Counter[str],
    values: UmlsValues,
) -> Iterator[Concept]:
    match source:
        case OboTerms():
            return read_obo(streams, source, left_out)
        case MeshTerms():
            return read_mesh(streams, source, left_out, others)
        case UmlsTerms():
            return read_umls(streams, source, left_out, others, values)
        case _:
            assert_never(source)


def _tree_faults(number: int, source: MeshTerms, tables: Sequence[SourceStream]) -> list[str]:
    there = sum((table.values or Counter() for table in tables), start=Counter[str]())
    fault = SourceNames("trees", source.trees, "`mesh_tree_number`", "rows", are_public=True).fault(there, "open")
    return [f"terms.{number}.trees: {fault}"] if fault else []
