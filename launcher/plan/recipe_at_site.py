"""A recipe together with the site where it is to run: what all checks start from. Reads small local files only."""

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

from launcher.cluster import Cluster, Roots
from launcher.errors import Fault, FaultCode
from launcher.load import LoadedRecipe
from launcher.plan.model_shape import read_json
from launcher.recipe import Recipe
from launcher.recipe.base import Artifact, Input
from launcher.run.locations import Locations
from launcher.run.paths import expand

Pending: TypeAlias = Mapping[str, str]
"""Names of what is not there yet, but will be when a recipe starts, and the `data_use` of each."""


Arguments = ParamSpec("Arguments")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Lookups:
    """What was found in the site's folders: they are looked at once for all recipes that are checked together."""

    known: dict[tuple[object, ...], Any] = field(default_factory=dict)

    def once(self, look: Callable[Arguments, Found], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Found:
        """Call a function, unless it was called before with these arguments."""
        key = (look, args, *kwargs.items())
        if key not in self.known:
            self.known[key] = look(*args, **kwargs)
        found: Found = self.known[key]
        return found


@dataclass(frozen=True)
class RecipeAtSite:
    """A recipe and where it is to run."""

    recipe: Recipe
    cluster: Cluster
    folder: str
    """Folder of the recipe's file, for `./` values."""
    pending: Pending
    site: Lookups = field(default_factory=Lookups)
    artifacts: Path | None = None
    """Those of the pipeline that it is a stage of."""

    @cached_property
    def locations(self) -> Locations:
        """Where names lead."""
        return self.site.once(_locations, self.cluster.roots, self.folder, self.artifacts)

    def fault(self, code: FaultCode, key: str, message: str) -> Fault:
        """Make a fault of the recipe; `LoadedRecipe.place` turns its name into file and line."""
        return Fault(self.recipe.name, None, key, message, code)

    def inputs(self, *types: str) -> Iterator[Input]:
        """Give what the recipe reads of these types."""
        return (one for one in self._inputs if one.type in types)

    @cached_property
    def _inputs(self) -> tuple[Input, ...]:
        return tuple(self.recipe.inputs())

    def model(self, name: str) -> Path:
        """Locate a model, an adapter or a tokenizer; relative if it is not on this site."""
        return self.site.once(_model, self.cluster.roots, self.folder, self.artifacts, name)

    def found(self, name: str) -> Path | None:
        """Locate a model, an adapter or a tokenizer as the recipe will find it; None if it is not here, or not yet."""
        folder = self.model(name)
        return folder if folder.is_absolute() and name not in self.pending else None

    def config(self, model: str) -> dict[str, Any] | None:
        """Read config.json of a model as the recipe will find it; None if that is not here, or not yet."""
        folder = self.found(model)
        return read_json(folder / "config.json") if folder else None

    def corpus(self, name: str) -> Path:
        """Locate a corpus, which may not be there."""
        return self.site.once(_corpus, self.cluster.roots, self.folder, self.artifacts, name)

    def files(self, pattern: str) -> str:
        """Locate files; the last part may be a pattern, and what is before the recipe's own words is escaped."""
        return self.site.once(_files, self.cluster.roots, self.folder, self.artifacts, pattern)

    def made(self, artifact: Artifact) -> Path:
        """Where what the recipe makes will lie."""
        return self.locations.folder(artifact.type, artifact.name)

    def root(self, folder: str) -> Path:
        """Expand one of the profile's folders."""
        return self.site.once(expand, folder)

    def manifest(self, corpus: str) -> dict[str, Any] | None:
        """Read the manifest of a corpus as the recipe will find it; None if that is not here, or not yet."""
        if corpus in self.pending:
            return None
        return self.site.once(read_json, self.corpus(corpus) / "manifest.json")


def at_site(loaded: LoadedRecipe, cluster: Cluster) -> RecipeAtSite:
    """Place a recipe at a site."""
    return RecipeAtSite(loaded.recipe, cluster, loaded.folder, loaded.awaited, artifacts=loaded.artifacts)


def _locations(roots: Roots, folder: str, artifacts: Path | None) -> Locations:
    return Locations(roots.model_dump(), folder, artifacts)


def _model(roots: Roots, folder: str, artifacts: Path | None, name: str) -> Path:
    return Path(_locations(roots, folder, artifacts).model(name))


def _corpus(roots: Roots, folder: str, artifacts: Path | None, name: str) -> Path:
    return _locations(roots, folder, artifacts).corpus(name)


def _files(roots: Roots, folder: str, artifacts: Path | None, pattern: str) -> str:
    return _locations(roots, folder, artifacts).data_glob(pattern)


def suggest(name: str, root: Path) -> str | None:
    """Ask whether a folder of a similar name was meant; None if there is none, or this user may not look."""
    entries = os.listdir(root) if os.access(root, os.R_OK | os.X_OK) else []
    near = difflib.get_close_matches(name, [entry for entry in entries if not entry.endswith(".partial")], n=1)
    return f"did you mean `{near[0]}`?" if near else None
