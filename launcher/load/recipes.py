"""YAML files to recipes: every fault at once, each with its file, its line and the fix."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from launcher.errors import Fault, RecipeError
from launcher.load.compose import Composer, Override, lay_rehearsal
from launcher.load.faults import fault_at, validate
from launcher.load.leaks import mask
from launcher.load.nodes import Document, Node
from launcher.recipe import KINDS, Recipe


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where it came from."""

    recipe: Recipe
    path: Path
    """The file; `./` values of the recipe are relative to its folder."""
    text: str
    """The YAML document as written."""
    root: Node | None = field(default=None, repr=False, compare=False)
    """The recipe as a tree that knows its lines."""

    def place(self, fault: Fault) -> Fault:
        """Put a fault found later at the line that holds its key."""
        path = tuple(fault.key.split(".")) if fault.key else ()
        if self.root is None:
            return replace(fault, file=str(self.path))
        return fault_at(self.root, path, fault.message)


def load_recipes(path: Path, overrides: Sequence[str] = (), rehearse: bool = False) -> list[LoadedRecipe]:
    """Read and check the recipes of a YAML file.

    Args:
        path: The file; several documents in it are several recipes.
        overrides: `a.b=c` each, laid over every recipe; the value is YAML.
        rehearse: Lay each recipe's `rehearsal` over it.

    Raises:
        RecipeError: The file or a base of it cannot be read, is not YAML, holds a secret or breaks the schema.
    """
    composer = Composer()
    parsed = composer.parse_overrides(overrides)
    loaded = []
    for document in composer.read(path):
        loaded.append(_load(composer, document, path, parsed, rehearse))
    raise_faults(composer, str(path))
    return [recipe for recipe in loaded if recipe is not None]


def load_all(
    paths: Sequence[Path], overrides: Sequence[str] = (), rehearse: bool = False
) -> tuple[list[LoadedRecipe], list[Fault]]:
    """Read several files as `load_recipes` does; the faults of all of them are returned, not raised."""
    loaded: list[LoadedRecipe] = []
    faults: list[Fault] = []
    for path in paths:
        try:
            loaded += load_recipes(path, overrides, rehearse)
        except RecipeError as error:
            faults += error.faults
    return loaded, list(dict.fromkeys(faults))


def raise_faults(composer: Composer, first_file: str) -> None:
    """Raise what a composer collected, if anything: once each, by file and line, without secrets."""
    if composer.faults:
        unique = dict.fromkeys(mask(fault, composer.secrets) for fault in composer.faults)
        raise RecipeError(sorted(unique, key=lambda f: (f.file != first_file, f.file, f.line or 0)))


def _load(
    composer: Composer, document: Document, path: Path, overrides: Sequence[Override], rehearse: bool
) -> LoadedRecipe | None:
    root = composer.lay_on_base(document.root, path)
    if not isinstance(root.value, dict):
        kind = "a list" if isinstance(root.value, list) else "a single value"
        message = f"a recipe is made of `key: value` lines, this is {kind}; start with `kind: cpt`"
        composer.faults.append(Fault(root.origin.file, root.origin.line, "", message))
        return None
    root = composer.set_all(root, [override for override in overrides if override.keys[0] == "rehearsal"])
    overrides = [override for override in overrides if override.keys[0] != "rehearsal"]
    rehearsed = _rehearsed(composer, root, rehearse)
    if rehearse and rehearsed is None:
        return None
    chosen = composer.set_all(rehearsed if rehearse and rehearsed else root, overrides)
    result = _check(chosen)
    faults = result if isinstance(result, list) else []
    if rehearsed and not rehearse:
        faults = faults + _faults_of_rehearsal(rehearsed, faults, is_changed=bool(overrides))
    composer.faults += faults
    return None if isinstance(result, list) else LoadedRecipe(result, path, document.text, chosen)


def _rehearsed(composer: Composer, root: Node, is_wanted: bool) -> Node | None:
    assert isinstance(root.value, dict)
    overlay = root.value.get("rehearsal")
    if overlay is None or overlay.value is None:
        if is_wanted:
            message = "the recipe has no `rehearsal`; write one, or leave out `--rehearse`"
            composer.faults.append(Fault(root.origin.file, root.origin.line, "", message))
        return None
    if not isinstance(overlay.value, dict):
        return root if is_wanted else None
    if "rehearsal" in overlay.value:
        message = "a rehearsal has no rehearsal of its own; remove it"
        composer.faults.append(fault_at(root, ("rehearsal", "rehearsal"), message))
        return None
    return lay_rehearsal(root)


def _faults_of_rehearsal(rehearsed: Node, known: Sequence[Fault], is_changed: bool) -> list[Fault]:
    """Find the faults of a rehearsal nobody asked for yet, without those of the recipe under it.

    Args:
        rehearsed: The recipe with its rehearsal over it, without `--set`.
        known: Faults of the recipe itself.
        is_changed: There are `--set` values; the recipe may be sound only with them.
    """
    result = _check(rehearsed)
    if not isinstance(result, list):
        return []
    known_texts = {(fault.key, fault.message) for fault in known}
    inside = [fault for fault in result if fault.key.startswith("rehearsal.")]
    faults = [f for f in inside if (f.key.removeprefix("rehearsal."), f.message) not in known_texts]
    if not known and not is_changed:
        outside = (fault for fault in result if fault not in inside)
        faults += [replace(f, message=f"with `rehearsal` laid over the recipe: {f.message}") for f in outside]
    return faults


def _check(root: Node) -> Recipe | list[Fault]:
    assert isinstance(root.value, dict)
    node = root.value.get("kind")
    kinds = ", ".join(f"`{kind}`" for kind in KINDS)
    if node is None or node.value is None:
        return [fault_at(root, ("kind",), f"required, but missing; write one of {kinds}")]
    if node.text not in KINDS:
        nearest = difflib.get_close_matches(node.text, KINDS, n=1)
        fix = f"did you mean `{nearest[0]}`?" if nearest else f"write one of {kinds}"
        return [fault_at(root, ("kind",), f"`{node.text}` is not a kind of recipe; {fix}")]
    return validate(KINDS[node.text], root)
