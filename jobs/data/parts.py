"""One source file becomes one part of a corpus: a shard of each split, and a record that it is done.

A part is a pure function of its file and the plan, and appears whole or not at all. So a prepare that
was killed goes on with the files that have no record, in any number of processes, to the same bytes.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from datatrove.data import Document
from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.data.clean import Cleaner
from jobs.data.keys import KeyRecorder
from jobs.data.plan import Plan, SourcePlan, options_of
from jobs.data.progress import Gauge
from jobs.data.readers import read
from jobs.data.readers.intake import Intake
from jobs.data.shards import TokenizedShards
from jobs.data.signatures import SignatureWriter
from jobs.runtime.durable import write_durably
from jobs.runtime.watchdog import WATCHDOG
from launcher.corpus import SPLITS, Shard, SourceFile, Split, Tally
from launcher.errors import LauncherError
from launcher.recipe.sources import Source


class Part(BaseModel):
    """The record of a finished part."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    settings: str
    """Of the plan that it was made for; see `SourcePlan.settings`."""
    code: str
    """Version of the code that made it."""
    source: SourceFile
    modified_ns: int
    """Time of the file's last change: a part of an older file is made again."""
    tally: Tally
    first_bad: tuple[str, ...]
    """The first unreadable lines, as `file:line: what is wrong`."""
    shards: dict[Split, Shard]
    """Names are below `Plan.parts`."""
    contaminated: dict[str, int] = {}
    """Documents dropped for each record of the evaluation sets; see `jobs.data.clean.decontaminate`."""


def finished_part(plan: SourcePlan, number: int) -> Part | None:
    """Return the part that an earlier attempt finished, if it is all there and its source has not changed since."""
    return _read_part(plan, number, plan.parts) or _adopted_part(plan, number)


def _read_part(plan: SourcePlan, number: int, folder: Path) -> Part | None:
    try:
        part = Part.model_validate_json((folder / plan.record(number).name).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    path, source = plan.files[number]
    file = path.stat()
    wanted = (plan.settings, str(path), options_of(source), source.license, file.st_size, file.st_mtime_ns)
    of, modified_ns = part.source, part.modified_ns
    if wanted != (part.settings, of.path, of.options, of.license, of.size, modified_ns):
        return None
    # A folder that is half removed may have lost any of them.
    return part if all((folder / path).exists() for path in _files_of_part(plan, number, part)) else None


def _adopted_part(plan: SourcePlan, number: int) -> Part | None:
    """Take over the part that another try at this finished, before another file was fetched again or added."""
    for folder in sorted(plan.work.parent.glob("*/parts")):
        part = _read_part(plan, number, folder)
        if part is None:
            continue
        try:
            plan.record(number).unlink(missing_ok=True)
            for path in _files_of_part(plan, number, part):
                _link(folder / path, plan.parts / path)
            # Last: it says that everything is there.
            _link(folder / plan.record(number).name, plan.record(number))
        except OSError:  # it is being removed, or the file system has no hard links
            continue
        return part
    return None


def _files_of_part(plan: SourcePlan, number: int, part: Part) -> list[Path]:
    """Name all files of a part but its record, by their paths below the parts' folder."""
    shards = [Path(f"{shard.name}{suffix}") for shard in part.shards.values() for suffix in ("", ".index")]
    return [*shards, *(path.relative_to(plan.parts) for path in plan.beside(number))]


def _link(path: Path, target: Path) -> None:
    """Give a file a second name; files of parts are replaced when they are made anew, never written to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    os.link(path, target)


def make_part(plan: Plan, number: int, gauge: Gauge | None = None) -> Part:
    """Read, filter, split, tokenise and write one source file.

    Args:
        plan: Of the corpus.
        number: Which of its files.
        gauge: Where to show how much of the file has been read.

    Raises:
        LauncherError: somebody wrote to the file meanwhile.
    """
    path, source = plan.files[number]
    intake, keys = Intake(path), KeyRecorder(source.license)
    cleaner = Cleaner(plan.recipe.clean, plan.evaluation)
    shards = TokenizedShards(plan.encoder, plan.recipe.validation, plan.parts, f"{number:05d}.ds", intake, keys)
    minhash = plan.recipe.clean.near_duplicates
    signatures = [SignatureWriter(minhash, plan.signatures(number), keys)] if minhash else []
    documents: Iterable[Document] | None = cleaner.run(
        watched(keys.number(read(intake, source)), number, intake, gauge)
    )
    for step in (*signatures, shards):
        documents = step(documents)
    keys.save(plan.keys(number), intake)
    part = Part(
        settings=plan.settings,
        code=plan.code,
        source=source_file(intake, source),
        modified_ns=intake.modified_ns,
        tally=_tally(intake, cleaner, shards.written, keys),
        first_bad=tuple(intake.first_bad),
        shards=shards.written,
        contaminated=cleaner.contaminated,
    )
    write_durably(plan.record(number), part.model_dump_json(indent=1))
    return part


def watched(documents: Iterable[Document], number: int, intake: Intake, gauge: Gauge | None) -> Iterator[Document]:
    """Give a sign of life for every document, and show how much of the file has been read."""
    for document in documents:
        WATCHDOG.beat()
        if gauge is not None:
            gauge[number] = int(intake.share_read * intake.size)
        yield document


def source_file(intake: Intake, source: Source) -> SourceFile:
    """Describe a file that has been read to its end.

    Raises:
        LauncherError: it was written meanwhile.
    """
    file = intake.path.stat()
    if (file.st_size, file.st_mtime_ns) != (intake.size, intake.modified_ns):
        raise LauncherError(f"{intake.path}: was written while it was read; submit again when it is whole")
    return SourceFile(
        path=str(intake.path),
        format=source.format,
        options=options_of(source),
        license=source.license,
        size=intake.size,
        sha256=intake.sha256,
        records=intake.count,
    )


def _tally(intake: Intake, cleaner: Cleaner, shards: dict[Split, Shard], keys: KeyRecorder) -> Tally:
    licenses = Counter(keys.licenses)
    return Tally(
        records=intake.count,
        bad_records=intake.bad,
        dropped=cleaner.dropped,
        documents=dict.fromkeys(SPLITS, 0) | {split: shard.documents for split, shard in shards.items()},
        tokens=dict.fromkeys(SPLITS, 0) | {split: shard.tokens for split, shard in shards.items()},
        licenses={name: licenses[number] for name, number in keys.license_names.items()},
        phi=cleaner.phi,
    )
