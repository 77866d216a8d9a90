"""Recipes that were named together and would overwrite each other's corpus or tables."""

from collections.abc import Iterator, Sequence

from launcher.errors import Fault
from launcher.load import LoadedRecipe
from launcher.recipe import Recipe
from launcher.recipe.base import ArtifactType

_DECISIVE: dict[ArtifactType, tuple[str, set[str]]] = {
    "corpus": ("corpus", {"data_use", "tokenizer", "sources", "clean", "validation"}),
    "tables": ("output", {"data_use", "source", "rules", "patients", "split_seed"}),
}
"""The key that names what is made, and those that decide what it is."""
_ONE_NAME = "all points would make `{}`; sweep `output` as well, in a `zip` with another key, or leave it out"


def find_conflicts(loaded: Sequence[LoadedRecipe]) -> Iterator[Fault]:
    """Name recipes that make different things of one name: all but the first to finish would fail at their end."""
    makers: dict[tuple[str, str], Recipe] = {}
    for item in loaded:
        recipe, made = item.recipe, item.recipe.makes
        if made is None:
            continue
        if item.point and not recipe.search and made.type not in _DECISIVE:
            if (made.type, made.name) in makers:
                yield item.place(Fault(recipe.name, None, "output", _ONE_NAME.format(made.name), "conflict"))
            makers[made.type, made.name] = recipe
        if made.type not in _DECISIVE:
            continue
        key, decisive = _DECISIVE[made.type]
        first = makers.setdefault((made.type, made.name), recipe)
        if first.model_dump(include=decisive) != recipe.model_dump(include=decisive):
            message = f"`{first.name}` makes `{made.name}` from other files or settings; write another name"
            yield item.place(Fault(recipe.name, None, key, message, "conflict"))
