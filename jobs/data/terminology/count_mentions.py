"""Count the mentions of each concept in text, one file at a time; finished files are kept over attempts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.data.corpus.file_list import describe_file
from jobs.data.corpus.progress import Gauge, Progress
from jobs.data.readers import read
from jobs.data.readers.source_stream import SourceStream
from jobs.data.terminology.file_list import TerminologyFiles
from jobs.data.terminology.meanings import DocumentTerms
from jobs.data.terminology.record_counts import RecordCounts, check_counts
from jobs.data.terminology.term_index import TermIndex
from jobs.rank.atomic_files import write_durably
from jobs.rank.context import Context
from jobs.rank.watchdog import WATCHDOG
from jobs.rank.worker_pool import run_tasks
from launcher.artifacts.corpus_manifest import SourceFile, Tally
from launcher.errors import LauncherError
from launcher.recipe.names import names_in
from launcher.recipe.sections.text_sources import Source
from launcher.run.ledger import append_event


class CountedFile(BaseModel):
    """The mentions in one file of text."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    index: str
    """Checksum of the terms that were counted."""
    source: SourceFile
    modified_ns: int
    documents: int
    mentions: dict[str, int]
    """By the concept's id."""
    bad: int
    first_bad: tuple[str, ...]
    values: dict[str, int] | None
    """See `SourceStream.values`."""


@dataclass
class CountedMentions:
    """The mentions in all files of text."""

    files: list[CountedFile] = field(default_factory=list)
    counts: list[RecordCounts] = field(default_factory=list)
    """Records of each source."""


def count_mentions(files: TerminologyFiles, index: TermIndex, stamp: str, context: Context) -> CountedMentions:
    """Count in all files, in worker processes.

    Args:
        files: Of the index.
        index: Without counts.
        stamp: Checksum of its terms.
        context: This run.

    Raises:
        LauncherError: too much of a source cannot be read, or a filter of the text names what nothing has.
        StopRequested: a stop was asked for before all files were done; those that are done are kept.
    """
    sizes = {number: path.stat().st_size for number, (path, _, _) in enumerate(files.counted)}
    done = {number: one for number in sizes if (one := _finished(files, number, stamp))}
    steps = {"first_step": len(done), "last_step": len(done), "total_steps": len(sizes)}
    append_event(context.run.ledger, context.attempt, **steps)
    missing = [number for number in sizes if number not in done]
    with Progress(context, sizes, dict.fromkeys(done, Tally())) as progress:
        work = partial(_count_file, files, index, stamp, progress.gauge)
        for number, one in run_tasks(work, missing, files.recipe.resources.cpus_per_task, progress.report):
            done[number] = one
            progress.count(number, Tally())
            append_event(context.run.ledger, context.attempt, last_step=len(done))
            print(
                f"{one.source.path}: {one.documents:,} documents, {sum(one.mentions.values()):,} mentions", flush=True
            )
    counted = CountedMentions([done[number] for number in sorted(done)])
    counted.counts += [RecordCounts() for _ in files.recipe.count_in]
    for one, (_, number, _) in zip(counted.files, files.counted, strict=True):
        counted.counts[number].add(one.source.records, one.bad, one.first_bad)
    check_counts("count_in", counted.counts, files.recipe.max_bad_fraction)
    _check_names(files, counted.files)
    return counted


def _finished(files: TerminologyFiles, number: int, stamp: str) -> CountedFile | None:
    try:
        one = CountedFile.model_validate_json(files.record(number).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    file = files.counted[number][0].stat()
    is_same = (one.index, one.source.size, one.modified_ns) == (stamp, file.st_size, file.st_mtime_ns)
    return one if is_same else None


def _count_file(files: TerminologyFiles, index: TermIndex, stamp: str, gauge: Gauge, number: int) -> CountedFile:
    path, _, source = files.counted[number]
    stream, mentions, documents = SourceStream(path), Counter[int](), 0
    for text in _texts(stream, source, gauge, number):
        documents += 1
        document = DocumentTerms(text, index, "told")
        mentions.update(found for one in document.mentions if (found := document.concept_of(one)) is not None)
    counted = CountedFile(
        index=stamp,
        source=describe_file(stream, source),
        modified_ns=stream.modified_ns,
        documents=documents,
        mentions={index.ids[concept]: count for concept, count in sorted(mentions.items())},
        bad=stream.bad,
        first_bad=tuple(stream.first_bad),
        values=stream.values,
    )
    write_durably(files.record(number), counted.model_dump_json())
    return counted


def _texts(stream: SourceStream, source: Source, gauge: Gauge, number: int) -> Iterator[str]:
    for document in read(stream, source):
        WATCHDOG.heartbeat()
        gauge[number] = int(stream.share_read * stream.size)
        if "drop" not in document.metadata:
            yield document.text


def _check_names(files: TerminologyFiles, counted: Sequence[CountedFile]) -> None:
    faults = []
    for number, source in enumerate(files.recipe.count_in):
        its = [one for one, (_, of, _) in zip(counted, files.counted, strict=True) if of == number]
        there = sum((Counter(one.values) for one in its if one.values), start=Counter[str]())
        named = names_in(source)
        if named and (fault := named.fault(there, files.recipe.data_use)):
            faults.append(f"count_in.{number}.{named.key}: {fault}")
    if faults:
        raise LauncherError("\n".join(faults))
