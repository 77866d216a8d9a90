"""One source file becomes one part of a corpus: a shard of each split, and a record that it is done.

A part is a pure function of its file and the plan, and appears whole or not at all. So a prepare that
was killed goes on with the files that have no record, in any number of processes, to the same bytes.
"""

from collections.abc import Iterable

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.data.filters import MinimumLength, PileSubset
from jobs.data.lines import SourceLines
from jobs.data.manifest import SPLITS, Shard, SourceFile, Split, Tally, write_durably
from jobs.data.pile import PileReader
from jobs.data.plan import Plan
from jobs.data.shards import TokenizedShards
from launcher.recipe.prepare import PrepareRecipe, Source


class Part(BaseModel):
    """The record of a finished part."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    source: SourceFile
    modified_ns: int
    """Time of the file's last change: a part of an older file is made again."""
    tally: Tally
    first_bad: tuple[str, ...]
    """The first unreadable lines, as `file:line: what is wrong`."""
    shards: dict[Split, Shard]


def finished_part(plan: Plan, number: int) -> Part | None:
    """Return the part that an earlier attempt finished, if its source has not changed since."""
    try:
        part = Part.model_validate_json(plan.record(number).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    file = plan.files[number][0].stat()
    return part if (file.st_size, file.st_mtime_ns) == (part.source.size, part.modified_ns) else None


def make_part(plan: Plan, number: int) -> Part:
    """Read, filter, split, tokenise and write one source file."""
    path, source = plan.files[number]
    modified_ns = path.stat().st_mtime_ns
    lines = SourceLines(path)
    filters = _filters(plan.recipe, source)
    shards = TokenizedShards(plan.encoder, plan.recipe.validation, plan.work, f"{number:05d}.ds", lines)
    documents: Iterable[Document] | None = None
    for step in (PileReader(lines), *filters, shards):
        documents = step(documents)
    part = Part(
        source=_source_file(lines, source),
        modified_ns=modified_ns,
        tally=_tally(lines, filters, shards.written),
        first_bad=tuple(lines.first_bad),
        shards=shards.written,
    )
    write_durably(plan.record(number), part.model_dump_json(indent=1))
    return part


def _filters(recipe: PrepareRecipe, source: Source) -> list[BaseFilter]:
    subset = [PileSubset(source.subset)] if source.subset else []
    return [*subset, MinimumLength(recipe.min_characters)]


def _source_file(lines: SourceLines, source: Source) -> SourceFile:
    return SourceFile(
        path=str(lines.path),
        format=source.format,
        subset=source.subset,
        license=source.license,
        size=lines.size,
        sha256=lines.sha256,
    )


def _tally(lines: SourceLines, filters: list[BaseFilter], shards: dict[Split, Shard]) -> Tally:
    labels = [(label, stat.total) for step in filters for label, stat in step.stats.stats.items()]
    return Tally(
        lines=lines.count,
        bad_lines=lines.bad,
        dropped={label.removeprefix("dropped_"): int(n) for label, n in labels if label.startswith("dropped_")},
        documents=dict.fromkeys(SPLITS, 0) | {split: shard.documents for split, shard in shards.items()},
        tokens=dict.fromkeys(SPLITS, 0) | {split: shard.tokens for split, shard in shards.items()},
    )
