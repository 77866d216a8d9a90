"""Indexes of terms that a recipe uses: are they there, may it use them, and can they do what it asks?"""

from collections.abc import Iterator

from launcher.artifacts.corpus_manifest import MANIFEST
from launcher.errors import Fault
from launcher.plan.model_shape import read_json
from launcher.plan.recipe_at_site import RecipeAtSite, suggest
from launcher.recipe.base import TermsInput


def check_terminology(here: RecipeAtSite) -> Iterator[Fault]:
    """Look for indexes of terms, for the terms of use of their data, and for what they have counted."""
    for one in here.inputs("terminology"):
        folder, root = here.model(one.name), here.root(here.cluster.roots.models)
        is_pending = one.name in here.pending
        manifest = ({} if is_pending else here.site.once(read_json, folder / MANIFEST)) or {}
        if not is_pending and not (folder.is_absolute() and folder.is_dir()):
            fix = suggest(one.name, root) or "first submit the `terminology` recipe that makes it"
            yield here.fault("not-found", one.key, f"there is no index of terms `{one.name}` in `{root}`; {fix}")
        elif not is_pending and manifest.get("kind") != "terminology":
            message = f"`{one.name}` holds no index of terms; name one that a `terminology` recipe made"
            yield here.fault("mismatch", one.key, message)
        elif here.recipe.data_use == "open" and "credentialed" in (
            here.pending.get(one.name),
            manifest.get("data_use"),
        ):
            message = f"`{one.name}` was made of credentialed data; write `data_use: credentialed`"
            yield here.fault("data-use", one.key, message)
        elif not is_pending and isinstance(one, TermsInput) and one.needs_counts and not manifest.get("counted"):
            key = one.key.removesuffix("index") + "masking"
            message = f"`{one.name}` has counted no mentions; add `count_in` to the recipe that makes it"
            yield here.fault("mismatch", key, message)
