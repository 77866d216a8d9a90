"""Corpora that a recipe reads or makes: are they there, may it use them, and does the model know their token ids?"""

import os
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, cast

from launcher.artifacts.corpus_manifest import read_manifest
from launcher.artifacts.corpus_settings import differing_settings
from launcher.artifacts.model_config import is_size
from launcher.artifacts.token_ids import count_ids, missing_rows, tokenizer_mismatches
from launcher.errors import Fault, LauncherError
from launcher.plan.model_shape import model_config
from launcher.plan.recipe_at_site import RecipeAtSite, suggest

if TYPE_CHECKING:
    from launcher.recipe import PrepareRecipe


def check_corpora(here: RecipeAtSite) -> Iterator[Fault]:
    """Look for corpora, and for the terms of their data."""
    root = here.root(here.cluster.roots.corpora)
    for one in here.inputs("corpus"):
        manifest, pending = here.manifest(one.name), here.pending.get(one.name)
        if manifest is None and pending is None:
            fix = suggest(one.name, root) or "first submit the `prepare` recipe that makes it"
            if os.path.isdir(root / f"{one.name}.partial"):
                fix = "it is not complete yet: write `--after` and the run that makes it"
            yield here.fault("not-found", one.key, f"there is no corpus `{one.name}` in `{root}`; {fix}")
        elif here.recipe.data_use == "open" and "credentialed" in (pending, (manifest or {}).get("data_use")):
            message = f"`{one.name}` is credentialed data; write `data_use: credentialed`"
            yield here.fault("data-use", one.key, message)


def check_corpus_name(here: RecipeAtSite) -> Iterator[Fault]:
    """Compare a corpus of the name that is to be made with the recipe, as far as that can be told without its files."""
    made = here.recipe.makes
    if made is None or made.type != "corpus":
        return
    folder, name = here.made(made), f"`{made.name}` exists already"
    if not os.path.isdir(folder):
        return
    fix = f"write another name, or remove `{folder}`"
    try:
        differing = differing_settings(read_manifest(folder), cast("PrepareRecipe", here.recipe))
    except PermissionError:
        yield here.fault("no-permission", "corpus", f"{name}: permission denied for `{folder}`; write another name")
    except LauncherError:
        yield here.fault("name-taken", "corpus", f"{name}, but is not a complete corpus; {fix}")
    else:
        if differing:
            message = f"{name}, and was built with different settings ({'; '.join(differing)}); {fix}"
            yield here.fault("name-taken", "corpus", message)


def check_token_ids(here: RecipeAtSite) -> Iterator[Fault]:
    """Compare the model's tokenizer with the model, and those of corpora with both."""
    recipe = here.recipe
    if not recipe.trains:
        yield from _mismatches(here)
        return
    corpora, tokenizer = list(here.inputs("corpus")), here.found(recipe.model.tokenizer_path)
    own = here.site.once(count_ids, tokenizer) if tokenizer else None
    # A tokenizer that is yet to be made may add rows.
    rows = _size_of(model_config(recipe, here)) if recipe.model.tokenizer not in here.pending else None
    sizes = [_size_of((here.manifest(one.name) or {}).get("tokenizer")) for one in corpora]
    is_used = not corpora or any(ids and rows and ids > rows for ids in sizes)
    if is_used and (message := missing_rows(own, rows)):
        yield here.fault("mismatch", "model.path", message)
        rows = own
    too_large: set[int] = set()
    for place, (one, ids) in enumerate(zip(corpora, sizes, strict=True)):
        if ids and rows and ids > rows:
            too_large.add(place)
            message = (
                f"`{one.name}` was made with a tokenizer of {ids} tokens, the model has {rows}; prepare it with the "
                "model's own tokenizer"
            )
            yield here.fault("mismatch", one.key, message)
    yield from _mismatches(here, too_large)


def _size_of(found: object) -> int | None:
    """Read the size of a vocabulary from what a file says of it; None if it does not say, or not as a number."""
    size = found.get("vocab_size") if isinstance(found, Mapping) else None
    return size if is_size(size) else None


def _mismatches(here: RecipeAtSite, but: Collection[int] = ()) -> Iterator[Fault]:
    """Compare the ids of corpora with those of the tokenizer that reads them.

    Args:
        here: The recipe.
        but: Numbers of corpora that have another fault.
    """
    name = here.recipe.reads_corpora_with
    if name is None:
        return
    there = [one for one in enumerate(here.inputs("corpus")) if one[1].name not in here.pending]
    folders = [(one.name, here.corpus(one.name)) for _, one in there]
    for number, message in tokenizer_mismatches(folders, here.found(name)):
        place, one = there[number]
        if place not in but:
            yield here.fault("mismatch", one.key, message)
