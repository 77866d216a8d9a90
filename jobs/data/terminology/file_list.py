"""The files that an index of terms is made from, and where it is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from jobs.data.corpus.file_list import digest, matching
from jobs.rank.context import Context
from launcher.artifacts.terminology_manifest import FORMAT
from launcher.errors import LauncherError
from launcher.recipe.kinds.terminology import TerminologyRecipe
from launcher.recipe.sections.terminology import TermSource
from launcher.recipe.sections.text_sources import Source

_RULES = 1
"""Which terms an index has by the same settings; raised when that changes."""


@dataclass(frozen=True)
class TermFiles:
    """The files of one source of terms."""

    source: TermSource
    files: tuple[Path, ...]
    others: tuple[Path, ...]
    """MRSTY.RRF of the UMLS, tree numbers of MeSH."""


@dataclass(frozen=True)
class TerminologyFiles:
    """All files of an index, and where it goes."""

    recipe: TerminologyRecipe
    terms: tuple[TermFiles, ...]
    counted: tuple[tuple[Path, int, Source], ...]
    """Files of text, each with the number of its source."""
    fingerprint: str
    folder: Path
    """Where the index is published."""
    code: str

    @property
    def work(self) -> Path:
        """Where it is made; another list of files under the same name works elsewhere."""
        return self.folder.with_name(f"{self.folder.name}.partial") / self.fingerprint[:16]

    def record(self, number: int) -> Path:
        """Path of the counted mentions of a file of text."""
        return self.work / f"{number:05d}.json"


def terminology_files(context: Context) -> TerminologyFiles:
    """Find the files of all sources.

    Raises:
        LauncherError: there are none for one of the patterns.
    """
    if context.ranks.world_size > 1:
        raise LauncherError("resources: `terminology` runs as one process; write `nodes: 1` and `gpus_per_node: 0`")
    recipe = cast(TerminologyRecipe, context.recipe)
    terms = tuple(_term_files(context, number, source) for number, source in enumerate(recipe.terms))
    counted = tuple(
        (path, number, source)
        for number, source in enumerate(recipe.count_in)
        for path in matching(context, f"count_in.{number}.files", source.files)
    )
    folder = context.made_path("terminology", recipe.output)
    return TerminologyFiles(recipe, terms, counted, _fingerprint(recipe, terms, counted), folder, context.code_version)


def _term_files(context: Context, number: int, source: TermSource) -> TermFiles:
    files = tuple(matching(context, f"terms.{number}.files", source.files))
    others = [
        path
        for key in ("types", "tree_numbers")
        if (name := getattr(source, key, None))
        for path in matching(context, f"terms.{number}.{key}", name)
    ]
    return TermFiles(source, files, tuple(others))


def _fingerprint(
    recipe: TerminologyRecipe, terms: Sequence[TermFiles], counted: Sequence[tuple[Path, int, Source]]
) -> str:
    def described(paths: Sequence[Path], source: TermSource | Source) -> Any:
        options = source.model_dump(mode="json", exclude={"files", "types", "tree_numbers"})
        return [options, [(path.name, path.stat().st_size) for path in paths]]

    return digest(
        {
            "format": FORMAT,
            "rules": _RULES,
            "data_use": recipe.data_use,
            "exclude": sorted(recipe.exclude),
            "terms": [described([*one.files, *one.others], one.source) for one in terms],
            "counted": [described([path], source) for path, _, source in counted],
        }
    )
