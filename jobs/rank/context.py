"""What a rank knows about the run it belongs to."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

import launcher
from jobs.rank.ranks import Ranks
from launcher.errors import LauncherError
from launcher.recipe import Recipe, read_recipe
from launcher.recipe.base import ArtifactType
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord


@dataclass(frozen=True)
class Context:
    """One rank of one attempt of a run."""

    run: RunDir
    recipe: Recipe
    record: RunRecord
    attempt: int
    ranks: Ranks

    @property
    def code_version(self) -> str:
        """Which code this is."""
        return f"{launcher.__version__} {self.record.code_commit or self.record.code_hash}"

    def model_path(self, name: str) -> str:
        """Where a model or tokenizer of the recipe lies, or its Hugging Face id."""
        return self.record.locations.model(name)

    def corpus_path(self, name: str) -> Path:
        """Where a corpus of the recipe lies, or would lie."""
        return self.record.locations.corpus(name)

    def data_glob(self, pattern: str) -> str:
        """The glob of a source's files, made absolute."""
        return self.record.locations.data_glob(pattern)

    def made_path(self, artifact: ArtifactType, name: str) -> Path:
        """Where what the recipe makes will lie."""
        return self.record.locations.folder(artifact, name)


def load_context(run: RunDir, attempt: int, ranks: Ranks) -> Context:
    """Read the frozen recipe and the run's record.

    Raises:
        LauncherError: the recipe is not valid for this code.
    """
    try:
        recipe = read_recipe(run.recipe.read_text(encoding="utf-8"))
    except ValidationError as error:
        text = "; ".join(_describe(fault) for fault in error.errors(include_input=False, include_url=False))
        raise LauncherError(f"{run.recipe}: {text}; correct the recipe and submit it again") from None
    return Context(run, recipe, RunRecord.read(run.record), attempt, ranks)


def _describe(fault: ErrorDetails) -> str:
    key = ".".join(map(str, fault["loc"]))
    return ": ".join(filter(None, [key, fault["msg"].removeprefix("Value error, ")]))
