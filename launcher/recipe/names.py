"""Names in a recipe that nothing has: what to say about them. Each name must have something; some do not suffice."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from launcher.recipe.base import TableInput, likeness
from launcher.recipe.kinds.vocabulary import SMALLEST_CELL
from launcher.recipe.sections.adapter import Adapter
from launcher.recipe.sections.chat_sources import ChatSourceBase, InstructSource
from launcher.recipe.sections.labelled_notes import CsvNotes
from launcher.recipe.sections.text_sources import (
    DatasetSource,
    MedlineSource,
    MimicIIISource,
    ParquetSource,
    PileSource,
    Source,
)

_SHOWN = 15
"""Names that a message lists."""


def listed(names: Iterable[str]) -> str:
    """Write names one after another."""
    return ", ".join(f"`{name}`" for name in names)


def _sorted_by_likeness(missing: Collection[str], there: Mapping[str, int]) -> list[str]:
    """Sort the names that there are: those like a missing one first, and of equals the most frequent."""

    def distance(name: str) -> tuple[float, int, str]:
        return -max((likeness(name, wrong) for wrong in missing), default=0.0), -there[name], name

    return sorted(there, key=distance)


def choices(missing: Collection[str], there: Mapping[str, int], of: str) -> str:
    """Say which names there are, and how many have each.

    Args:
        missing: Names that nothing has.
        there: How many have each name.
        of: What has them, in the plural: `modules`, `records`; empty if the numbers say nothing.
    """
    if not there:
        return "there are none"
    shown = _sorted_by_likeness(missing, there)[:_SHOWN]
    counted = [f"`{name}` ({there[name]:,} {of if there[name] != 1 else of[:-1]})" for name in shown]
    more = f", and {len(there) - _SHOWN:,} more" if len(there) > _SHOWN else ""
    return f"there are {', '.join(counted) if of else listed(shown)}{more}"


@dataclass(frozen=True)
class SourceNames:
    """What a source names in its records or files: each must be there, else nothing of what was meant is read."""

    key: str
    """In the source's section."""
    names: tuple[str, ...]
    field: str
    """What of a record has such a value, or of a file such a name."""
    of: str = "records"
    are_public: bool = False
    """Whether the names that there can be are published, whoever the data are about."""

    def fault(self, there: Mapping[str, int], data_use: str) -> str | None:
        """Say which names nothing has, and what there is; None if each has something.

        Args:
            there: How many records or files have each name.
            data_use: The recipe's. Of credentialed data only frequent values are listed: a field may be free text.
        """
        missing = [name for name in dict.fromkeys(self.names) if not there.get(name)]
        if not missing:
            return None
        least = SMALLEST_CELL if data_use == "credentialed" and not self.are_public else 1
        listable = {name: count for name, count in there.items() if count >= least}
        rare = sum(0 < count < least for count in there.values())
        hidden = f" (and {rare:,} that fewer than {least} {self.of} have, not listed: credentialed)" if rare else ""
        found = "" if rare and not listable else f"; {choices(missing, listable, self.of)}"
        return f"no {self.of[:-1]} has {listed(missing)} as {self.field}{found}{hidden}; correct or remove the name"


def names_in(source: Source | ChatSourceBase) -> SourceNames | None:
    """Return what a source names, or None if it reads whatever there is."""
    match source:
        case PileSource(subsets=names) if names:
            return SourceNames("subsets", names, "`meta.pile_set_name`")
        case InstructSource(subsets=names) if names:
            return SourceNames("subsets", names, "`source`")
        case MimicIIISource(categories=names) if names:
            return SourceNames("categories", tuple(name.strip() for name in names), "`CATEGORY`", are_public=True)
        case MedlineSource(languages=names) if names:
            return SourceNames("languages", names, "`Language`", "citations", are_public=True)
        case ParquetSource() | DatasetSource():
            return SourceNames("column", (source.column,), "a column", "files", are_public=True)
    return None


def column_faults(
    table: str,
    columns: Iterable[tuple[str, str]],
    header: Collection[str],
    data_use: str,
    fix: str = TableInput.fix,
) -> Iterator[tuple[str, str]]:
    """Name the columns that a table lacks, each with its key.

    Args:
        table: Name of the file.
        columns: Key and name of each wanted column.
        header: The names in the first row; case makes no difference.
        data_use: The recipe's. The first row of credentialed data is not listed: it may be a note.
        fix: What to do about it.
    """
    there = {name.casefold() for name in header}
    for key, name in columns:
        if name.casefold() not in there:
            found = f"; {choices([name], Counter(header), '')}" if data_use == "open" else ""
            yield key, f"the first row of `{table}` names no column `{name}`{found}; {fix}"


def class_names(data: CsvNotes) -> SourceNames:
    """Return the classes that a recipe lists; none if a file does."""
    return SourceNames("classes", data.classes, f"`{data.label_column}`", "notes")


def target_faults(adapter: Adapter, modules: Collection[str], layers: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name the layers that an adapter is to change and the model does not have, each with its key.

    peft looks only whether some of the targets are there, and the others would train nothing.

    Args:
        adapter: The recipe's section.
        modules: Full names of all modules of the model.
        layers: Those of them that can be adapted, to choose from.
    """
    last = Counter(name.rpartition(".")[2] for name in layers)
    for key in type(adapter).model_fields:
        targets = getattr(adapter, key)
        if not key.endswith("targets") or isinstance(targets, str):  # `all-linear`
            continue
        if missing := [name for name in dict.fromkeys(targets) if not _has(modules, name)]:
            said = f"the model has no module {listed(missing)}; {choices(missing, last, 'modules')}"
            yield f"adapter.{key}", f"{said}; correct or remove the name, since nothing would be trained there"


def _has(modules: Collection[str], target: str) -> bool:
    return any(name == target or name.endswith(f".{target}") for name in modules)  # as peft does it
