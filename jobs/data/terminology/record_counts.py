"""How many records of one source were read, and what was wrong with those that could not be."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jobs.data.readers.bad_records import some_of_each
from launcher.errors import LauncherError


@dataclass
class RecordCounts:
    """The records of one source, over all its files."""

    records: int = 0
    bad: int = 0
    first_bad: list[str] = field(default_factory=list)
    """The first of them in each file for each reason, as `file:line: what is wrong`."""

    def add(self, records: int, bad: int, first_bad: Iterable[str]) -> None:
        """Add those of a file."""
        self.records += records
        self.bad += bad
        self.first_bad += first_bad

    @property
    def examples(self) -> list[str]:
        """The first bad records for each reason."""
        return some_of_each(self.first_bad)

    def fault(self, key: str, allowed: float) -> str | None:
        """Say that more records are bad than a recipe allows, and name the first; None if they are not."""
        if self.bad / max(1, self.records) <= allowed:
            return None
        said = (
            f"{key}: {self.bad:,} of {self.records:,} records cannot be read, more than `max_bad_fraction: "
            f"{allowed:g}` allows; correct the files or raise the limit"
        )
        return "\n  ".join([said, *self.examples])

    def describe(self, key: str) -> str:
        """Say for the log how many were read and how many were not, and name the first of these."""
        return "\n    ".join([f"{key}: {self.records:,} records, {self.bad:,} unreadable", *self.examples])


def check_counts(key: str, counts: Sequence[RecordCounts], allowed: float) -> None:
    """Tell the log what was read of each source.

    Args:
        key: Of the sources in the recipe.
        counts: Of each source.
        allowed: Share of the records of a source that may be bad.

    Raises:
        LauncherError: more are; names these sources.
    """
    named = {f"{key}.{number}": one for number, one in enumerate(counts)}
    if faults := [fault for name, one in named.items() if (fault := one.fault(name, allowed))]:
        raise LauncherError("\n".join(faults))
    for name, one in named.items():
        print(one.describe(name), flush=True)


def bad_examples(*groups: Iterable[RecordCounts]) -> tuple[str, ...]:
    """Name the first bad records for each reason of several groups of sources."""
    return tuple(some_of_each(line for group in groups for one in group for line in one.first_bad))
