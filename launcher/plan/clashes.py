"""Recipes that were named together and get into each other's way."""

from collections.abc import Iterator, Sequence

from launcher.errors import Fault
from launcher.load import LoadedRecipe
from launcher.recipe import PrepareRecipe

_DECISIVE = {"data_use", "tokenizer", "sources", "clean", "validation"}
"""Keys of a `prepare` that decide what the corpus is."""


def find_clashes(loaded: Sequence[LoadedRecipe]) -> Iterator[Fault]:
    """Name recipes that make a corpus of the same name of something else: all but the first would fail at their end."""
    makers: dict[str, PrepareRecipe] = {}
    for item in loaded:
        recipe = item.recipe
        if not isinstance(recipe, PrepareRecipe):
            continue
        first = makers.setdefault(recipe.corpus, recipe)
        if first.model_dump(include=_DECISIVE) != recipe.model_dump(include=_DECISIVE):
            message = f"`{recipe.corpus}` is what `{first.name}` makes of other files or settings; write another name"
            yield item.place(Fault(recipe.name, None, "corpus", message))
