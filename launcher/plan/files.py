"""Whether the files that a recipe reads are there."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from launcher.paths import closed_folder
from launcher.recipe import ClassifyRecipe, PrepareRecipe, Recipe, SftRecipe, VocabularyRecipe
from launcher.recipe.chat import PubMedQaSource


def missing_files(recipe: Recipe, data: Path, recipe_folder: str) -> Iterator[tuple[str, str]]:
    """Name the patterns that no file matches.

    Args:
        recipe: The recipe.
        data: The site's `roots.data`.
        recipe_folder: Folder of its file, for `./` values.

    Yields:
        The key of each, and what is wrong with its value.
    """
    datasets = _dataset_keys(recipe)
    for key, files in _patterns(recipe):
        folder = Path(recipe_folder) if files.startswith(("./", "../")) else data
        found = glob.iglob(str(Path(glob.escape(str(folder))) / files), recursive=True)
        if not any(map(os.path.isfile, found)):
            hint = _hint(files, folder / files, "/**/data-*.arrow" if key in datasets else "/*")
            yield key, f"no file matches `{folder / files}`; check the pattern{hint}"


def _patterns(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Give each key that names files."""
    if isinstance(recipe, PrepareRecipe | VocabularyRecipe):
        yield from ((f"sources.{index}.files", source.files) for index, source in enumerate(recipe.sources))
        evaluation = recipe.clean.decontaminate.files if recipe.clean.decontaminate else ()
        yield from ((f"clean.decontaminate.files.{index}", files) for index, files in enumerate(evaluation))
    if isinstance(recipe, SftRecipe):
        for index, source in enumerate(recipe.data.sources):
            yield f"data.sources.{index}.files", source.files
            if isinstance(source, PubMedQaSource) and source.exclude:
                yield f"data.sources.{index}.exclude", source.exclude
    if isinstance(recipe, ClassifyRecipe):
        named: list[tuple[str, str | None]] = [*recipe.data.files.items(), ("class_file", recipe.data.class_file)]
        for key, files in named:
            if files:
                yield "data.folder" if recipe.data.format == "core" else f"data.{key}", files


def _dataset_keys(recipe: Recipe) -> set[str]:
    """Keys that name datasets on disk, whose files lie in folders."""
    if not isinstance(recipe, PrepareRecipe | VocabularyRecipe):
        return set()
    return {f"sources.{index}.files" for index, source in enumerate(recipe.sources) if source.format == "dataset"}


def _hint(files: str, path: Path, inside: str) -> str:
    """Say what may be meant by a pattern that matches nothing."""
    if closed := closed_folder(path):
        return f", or ask who owns `{closed}`, which is not for you to read"
    if "{" in files and "}" in files:
        return ", which knows no `{}`: write a source for each"
    if os.path.isdir(path):
        return f", or write `{files.rstrip('/')}{inside}` for the files in that folder"
    return ""
