"""One source file becomes a shard of each split, and a record that it is done.

The result is a pure function of the file and the settings, and appears whole or not at all. So a killed prepare
goes on with the files that have no record, in any number of processes, to the same bytes.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.data.clean import Cleaner
from jobs.data.clean.terminology import TerminologyStep
from jobs.data.corpus.changes import record_changes
from jobs.data.corpus.file_list import CorpusFileList, FileList, describe_file, options_of
from jobs.data.corpus.progress import Gauge
from jobs.data.corpus.shard_writer import TokenizedShards
from jobs.data.dedup.document_keys import KeyRecorder
from jobs.data.dedup.minhash import SignatureWriter
from jobs.data.readers import read
from jobs.data.readers.source_stream import SourceStream
from jobs.rank.atomic_files import replace_durably, write_durably
from jobs.rank.watchdog import WATCHDOG
from launcher.artifacts.corpus_manifest import SPLITS, Shard, SourceFile, Split, Tally
from launcher.errors import LauncherError
from launcher.recipe.sections.text_sources import Source


class ProcessedFile(BaseModel):
    """The record of a source file that has been processed."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    settings: str
    """See `FileList.settings`."""
    code: str
    """Version of the code that made it."""
    source: SourceFile
    modified_ns: int
    """Time of the file's last change; a file that has changed since is processed again."""
    tally: Tally
    first_bad: tuple[str, ...]
    """The first unreadable lines for each reason, as `file:line: what is wrong`."""
    shards: dict[Split, Shard] = {}
    """Names are below `FileList.parts`."""
    contaminated: dict[str, int] = {}
    """Documents dropped for each record of the evaluation sets; see `jobs.data.clean.decontaminate`."""
    values: dict[str, int] | None = None
    """How many records have each value that the source's filter is compared with; see `launcher.recipe.names`.
    None: the source has no filter, or an earlier version of the code has not counted them."""


def finished_file(files: FileList, number: int) -> ProcessedFile | None:
    """Return the record of a file that an earlier attempt processed, if all is there and the source has not changed."""
    return _read_record(files, number, files.parts) or _adopt(files, number)


def _read_record(files: FileList, number: int, folder: Path) -> ProcessedFile | None:
    try:
        processed = ProcessedFile.model_validate_json((folder / files.record(number).name).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    path, source = files.sources[number]
    file, its = path.stat(), processed.source
    wanted = (files.settings, str(path), options_of(source), source.license, file.st_size, file.st_mtime_ns)
    if wanted != (processed.settings, its.path, its.options, its.license, its.size, processed.modified_ns):
        return None
    # A folder that is half removed may have lost any of them.
    return processed if all((folder / path).exists() for path in _files_of(files, number, processed)) else None


def _adopt(files: FileList, number: int) -> ProcessedFile | None:
    """Reuse a file processed under an earlier file list."""
    for folder in sorted(files.work.parent.glob("*/parts")):
        processed = _read_record(files, number, folder)
        if processed is None:
            continue
        try:
            files.record(number).unlink(missing_ok=True)
            for path in _files_of(files, number, processed):
                _link(folder / path, files.parts / path)
            # Last: it says that everything is there.
            _link(folder / files.record(number).name, files.record(number))
        except OSError:  # it is being removed, or the file system has no hard links
            continue
        return processed
    return None


def _files_of(files: FileList, number: int, processed: ProcessedFile) -> list[Path]:
    """Paths below the folder of the parts, without the record's."""
    shards = [Path(f"{shard.name}{suffix}") for shard in processed.shards.values() for suffix in ("", ".index")]
    return [*shards, *(path.relative_to(files.parts) for path in files.other_files(number))]


def _link(path: Path, target: Path) -> None:
    # Both names share one file: safe, since these files are replaced and never written to.
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    os.link(path, target)


def process_file(files: CorpusFileList, number: int, gauge: Gauge | None = None) -> ProcessedFile:
    """Read, filter, split, tokenise and write one source file.

    Args:
        files: Of the corpus.
        number: Which of them.
        gauge: Shows how much of the file has been read.

    Raises:
        LauncherError: the file was written to meanwhile.
    """
    (path, source), clean = files.sources[number], files.recipe.clean
    step = TerminologyStep(files.terminology, files.recipe.validation) if files.terminology else None
    stream, keys, cleaner = SourceStream(path), KeyRecorder(source.license), Cleaner(clean, files.evaluation, step)
    documents = cleaner.run(keys.number(read_watched(stream, source, number, gauge)))
    if clean.near_duplicates:
        documents = SignatureWriter(clean.near_duplicates, files.signatures(number), keys)(documents)
    shards = TokenizedShards(files.encoder, files.recipe.validation, files.parts, f"{number:05d}.ds", stream, keys)
    if files.terminology:
        with replace_durably(files.changes(number)) as changes:
            shards(record_changes(documents, changes))
    else:
        shards(documents)
    keys.save(files.keys(number), stream)
    tally = _tally(stream, cleaner, shards.written, keys)
    return finish(files, number, stream, tally, shards=shards.written, contaminated=cleaner.contaminated)


def finish(files: FileList, number: int, stream: SourceStream, tally: Tally, **results: Any) -> ProcessedFile:
    """Write the record of a source file that has been read to its end and processed.

    Raises:
        LauncherError: the file was written to meanwhile.
    """
    file = stream.path.stat()
    if (file.st_size, file.st_mtime_ns) != (stream.size, stream.modified_ns):
        raise LauncherError(f"{stream.path}: was written while it was read; submit again when it is whole")
    processed = ProcessedFile(
        settings=files.settings,
        code=files.code,
        source=describe_file(stream, files.sources[number][1]),
        modified_ns=stream.modified_ns,
        tally=tally,
        first_bad=tuple(stream.first_bad),
        values=stream.values,
        **results,
    )
    write_durably(files.record(number), processed.model_dump_json(indent=1))
    return processed


def read_watched(stream: SourceStream, source: Source, number: int, gauge: Gauge | None) -> Iterator[Document]:
    """Read a source file; for each document feed the watchdog and show how much of the file has been read."""
    for document in read(stream, source):
        WATCHDOG.heartbeat()
        if gauge is not None:
            gauge[number] = int(stream.share_read * stream.size)
        yield document


def _tally(stream: SourceStream, cleaner: Cleaner, shards: dict[Split, Shard], keys: KeyRecorder) -> Tally:
    licenses = Counter(keys.licenses)
    return Tally(
        records=stream.count,
        bad_records=stream.bad,
        bad_reasons=dict(sorted(stream.reasons.items())),
        dropped=cleaner.dropped,
        documents=dict.fromkeys(SPLITS, 0) | {split: shard.documents for split, shard in shards.items()},
        tokens=dict.fromkeys(SPLITS, 0) | {split: shard.tokens for split, shard in shards.items()},
        licenses={name: licenses[number] for name, number in keys.license_names.items()},
        phi=cleaner.phi,
        terminology=cleaner.terminology,
    )
