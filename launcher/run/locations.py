"""Where a run finds what its recipe names, and where it puts what it makes. Standard library only."""

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from launcher.run.paths import expand, locate

Root: TypeAlias = Literal["models", "corpora", "data"]

_ROOTS: dict[str, Root] = {"corpus": "corpora", "tables": "data"}
"""The root of each type of artifact; the others lie with the models."""


def root_of(artifact: str) -> Root:
    """The root that artifacts of a type (`launcher.recipe.base.ArtifactType`) lie below."""
    return _ROOTS.get(artifact, "models")


@dataclass(frozen=True)
class Locations:
    """The folders that names in a recipe belong to."""

    roots: Mapping[str, str]
    """The cluster profile's `roots`."""
    recipe_folder: str
    """Folder of the recipe file, for `./` values."""
    artifacts: Path | None = None
    """A pipeline's own artifacts, where names are looked up first, and where what is made goes."""
    made: Mapping[tuple[Root, str], str] = field(default_factory=dict)
    """Results of other stages, by root and name, that lie elsewhere; looked up before all else."""

    def model(self, name: str) -> str:
        """Where a model, an adapter, a tokenizer or an index of terms lies, or its Hugging Face id."""
        return str(self._own("models", name) or locate(name, self.roots["models"], self.recipe_folder))

    def corpus(self, name: str) -> Path:
        """Where a corpus lies, or would lie."""
        if name.startswith("."):
            return Path(locate(name, self.roots["corpora"], self.recipe_folder))
        return self._own("corpora", name) or expand(self.roots["corpora"]) / name

    def data_glob(self, pattern: str) -> str:
        """The glob of a source's files, made absolute; `**` is left to the caller's glob."""
        if pattern.startswith(("./", "../")):
            folder = Path(glob.escape(self.recipe_folder))
        else:
            own = self._own("data", pattern.partition("/")[0])
            folder = Path(glob.escape(str(own.parent if own else expand(self.roots["data"]))))
        return os.path.normpath(folder / pattern)

    def folder(self, artifact: str, name: str) -> Path:
        """Where an artifact of this type and name lies once it has been made.

        Args:
            artifact: Its type (`launcher.recipe.base.ArtifactType`).
            name: As the recipe says it.
        """
        root = root_of(artifact)
        return (self.artifacts / root if self.artifacts else expand(self.roots[root])) / name

    def _own(self, root: Root, name: str) -> Path | None:
        """Where the pipeline has such an artifact, also if the link to it leads nowhere yet."""
        if (root, name) in self.made:
            return Path(self.made[root, name])
        if self.artifacts is None or not name or name.startswith("."):
            return None
        path = self.artifacts / root / name
        return path if os.path.lexists(path) else None
