"""What a task knows about the run it belongs to."""

import glob
import os
from dataclasses import dataclass
from pathlib import Path

import launcher
from launcher.paths import RunDir, expand, locate
from launcher.recipe import Recipe, recipe_adapter
from launcher.record import RunRecord


@dataclass(frozen=True)
class Ranks:
    """This task's place among all tasks of the attempt, in torch.distributed's words."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int

    @property
    def is_main(self) -> bool:
        """Rank 0 writes what is written once."""
        return self.rank == 0


@dataclass(frozen=True)
class Context:
    """One task of one attempt of a run."""

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
        return locate(name, self.record.cluster["roots"]["models"], self.record.recipe_folder)

    def corpus_path(self, name: str) -> Path:
        """Where a corpus of the recipe lies, or will lie."""
        root = self.record.cluster["roots"]["corpora"]
        return Path(locate(name, root, self.record.recipe_folder)) if name.startswith(".") else expand(root) / name

    def data_glob(self, pattern: str) -> str:
        """The glob of a source's files, made absolute."""
        is_local = pattern.startswith(("./", "../"))
        folder = self.record.recipe_folder if is_local else str(expand(self.record.cluster["roots"]["data"]))
        return os.path.normpath(Path(glob.escape(folder)) / pattern)


def load_context(run: RunDir, attempt: int, ranks: Ranks) -> Context:
    """Read the frozen recipe and the run's record."""
    recipe = recipe_adapter.validate_json(run.recipe.read_text(encoding="utf-8"))
    return Context(run, recipe, RunRecord.read(run.record), attempt, ranks)
