"""The tables that a run of `outcomes` reads: where they are, what identifies them, and what was wrong with them."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jobs.data.corpus.file_list import digest, matching
from jobs.data.readers.bad_records import some_of_each
from jobs.data.readers.csv_rows import column_names
from jobs.data.readers.source_stream import SourceStream
from jobs.rank.context import Context
from launcher.artifacts.outcomes_manifest import ReadTable, decisive_settings
from launcher.errors import LauncherError
from launcher.recipe.base import TableInput
from launcher.recipe.kinds.outcomes import OutcomesRecipe
from launcher.recipe.names import column_faults


@dataclass
class OutcomesPlan:
    """What is read, and where the result goes."""

    recipe: OutcomesRecipe
    paths: dict[str, Path]
    """Each table by the recipe's key."""
    fingerprint: str
    """Checksum of what decides the result: settings, and names and sizes of the tables."""
    folder: Path
    read: dict[str, ReadTable] = field(default_factory=dict)
    """What was read so far."""

    @contextlib.contextmanager
    def table(self, key: str) -> Iterator[tuple[SourceStream, Counter[str]]]:
        """Give a table to read to its end, and a counter of records that are left out, by the reason.

        Raises:
            LauncherError: afterwards, if more rows are unreadable than the recipe allows.
        """
        path = self.paths[key]
        stream, left_out = SourceStream(path), Counter[str]()
        yield stream, left_out
        if (stream.size, stream.modified_ns) != (path.stat().st_size, path.stat().st_mtime_ns):
            raise LauncherError(f"{path}: was written while it was read; submit again when it is complete")
        self._check_quality(key, stream)
        self.read[key] = ReadTable(
            path=str(path),
            size=stream.size,
            sha256=stream.sha256,
            records=stream.count,
            bad_records=stream.bad,
            bad_reasons=dict(stream.reasons),
            left_out={reason: count for reason, count in left_out.items() if count},
        )
        print(f"{key}: {describe(self.read[key])}", *some_of_each(stream.first_bad), sep="\n    ", flush=True)

    def _check_quality(self, key: str, stream: SourceStream) -> None:
        bad, records, allowed = stream.bad, stream.count, self.recipe.max_bad_fraction
        if bad / max(1, records) > allowed:
            first = some_of_each(stream.first_bad)
            raise LauncherError(
                f"{key}: {bad:,} of {records:,} records cannot be read, more than `max_bad_fraction: {allowed:g}` "
                f"allows. The first one: {first[0]}; correct the table or raise the limit, and submit again"
                + "".join(f"\n  {entry}" for entry in first[1:])
                + "".join(f"\n  in all {count:,}: {reason}" for reason, count in stream.reasons.items())
            )
        if not records:
            raise LauncherError(f"{key}: `{stream.path}` has no row; fetch it again")


def make_plan(context: Context, recipe: OutcomesRecipe) -> OutcomesPlan:
    """Find the tables.

    Raises:
        LauncherError: one is missing, a pattern matches several files, or tables lack columns.
    """
    paths = {one.key: _only_file(context, one.key, one.name) for one in recipe.inputs()}
    _require_columns(recipe, paths)
    settings = decisive_settings(recipe)
    named = {key: (path.name, path.stat().st_size) for key, path in paths.items()}
    fingerprint = digest({"settings": settings, "tables": named})
    return OutcomesPlan(recipe, paths, fingerprint, context.made_path("tables", recipe.output))


def _only_file(context: Context, key: str, name: str) -> Path:
    found = matching(context, key, name)
    if len(found) > 1:
        both = " and ".join(f"`{path}`" for path in found[:2])
        raise LauncherError(f"{key}: `{name}` matches {len(found)} files, such as {both}; name one of them")
    return found[0]


def _require_columns(recipe: OutcomesRecipe, paths: Mapping[str, Path]) -> None:
    faults: list[str] = []
    for one in recipe.inputs():
        assert isinstance(one, TableInput)
        path = paths[one.key]
        if header := column_names(path):
            found = column_faults(str(path), one.columns, header, recipe.data_use, one.fix)
            faults += [f"{key}: {message}" for key, message in found]
    if faults:
        raise LauncherError("\n".join(faults))


def describe(table: ReadTable) -> str:
    """Say in a line what was read of a table."""
    said = [f"{table.records:,} records", f"{table.bad_records:,} unreadable"]
    said += [f"{count:,} left out ({reason})" for reason, count in table.left_out.items()]
    return f"{table.path}: {', '.join(said)}"
