"""YAML files to recipes: every fault at once, each with its file, its line and the fix."""

import difflib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from launcher.errors import Fault, RecipeError
from launcher.load.compose import Composer, Override, Shared
from launcher.load.searches import corners
from launcher.load.sweep_points import Point
from launcher.load.sweeps import expand, lay_options, name_points
from launcher.load.translate import fault_at, shown, validate
from launcher.load.yaml_tree import Document, YamlNode
from launcher.recipe import KINDS, Recipe
from launcher.run.record import fingerprint


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where it came from."""

    recipe: Recipe
    path: Path
    """The file; `./` values of the recipe are relative to its folder."""
    text: str
    """The YAML document as written."""
    root: YamlNode | None = field(default=None, repr=False, compare=False)
    """The recipe as a tree with line numbers."""
    point: Point | None = None
    """Where in a sweep or in the space of a search it is; None for a recipe without one."""
    artifacts: Path | None = None
    """Of a stage: the folder of its pipeline's artifacts, where names are looked up first."""
    stage: str | None = None
    """Its name, if it is one of several that are submitted together."""
    awaited: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Names of what is not there yet, but will be when it starts, and the `data_use` of each. Something else may have
    such a name at the site."""

    @cached_property
    def folder(self) -> str:
        """Absolute folder of the file."""
        # Not `os.path.abspath`: behind a link, `..` is another folder than its text says.
        return os.path.join("" if self.path.is_absolute() else os.getcwd(), *self.path.parts[:-1])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the resolved recipe."""
        return fingerprint(json.loads(self.recipe.model_dump_json()))

    def place(self, fault: Fault) -> Fault:
        """Add file and line to a fault that was found after loading."""
        if self.root is None:
            return replace(fault, file=str(self.path))
        return fault_at(self.root, tuple(filter(None, fault.key.split("."))), fault.message, fault.code)


def load_recipes(path: Path, overrides: Sequence[str] = (), rehearse: bool = False) -> list[LoadedRecipe]:
    """Read and check the recipes of a YAML file.

    Args:
        path: The file; several documents in it are several recipes.
        overrides: `a.b=c` each, laid over every recipe; the value is YAML.
        rehearse: Lay each recipe's `rehearsal` over it.

    Raises:
        RecipeError: The file or a base of it cannot be read, is not YAML, holds a secret or breaks the schema.
    """
    loaded, faults = load_all([path], overrides, rehearse)
    if faults:
        raise RecipeError(faults)
    return loaded


def load_all(
    paths: Sequence[Path], overrides: Sequence[str] = (), rehearse: bool = False, sweeps: Sequence[str] = ()
) -> tuple[list[LoadedRecipe], list[Fault]]:
    """Read several files, and return the sound recipes and the faults of all others.

    Args:
        paths: The files.
        overrides: `a.b=c` each, laid over every recipe; the value is YAML.
        rehearse: Lay each recipe's `rehearsal` over it.
        sweeps: `a.b=c,d` each: values that every recipe is to be swept over.

    Returns:
        The recipes, of a sweep one for each point, and the faults.
    """
    loaded: list[LoadedRecipe] = []
    found: list[tuple[Path, Fault]] = []
    shared = Shared()
    for path in paths:
        sound, faults = _load_file(path, overrides, rehearse, shared, sweeps)
        loaded += sound
        found += [(path, fault) for fault in faults]
    return loaded, name_recipes(found)


def name_points_and_recipes(checked: Sequence[tuple[LoadedRecipe, list[Fault]]]) -> list[Fault]:
    """Give each fault once: one that some points of a sweep have names these, one in a base the files asked for.

    Args:
        checked: Recipes and their faults.
    """
    by_sweep: dict[tuple[Path, str | None], list[tuple[LoadedRecipe, list[Fault]]]] = {}
    for item, faults in checked:
        by_sweep.setdefault((item.path, item.point.sweep if item.point else None), []).append((item, faults))
    named = [
        (path, fault)
        for (path, _), its in by_sweep.items()
        for fault in name_points(((item.point, fault) for item, faults in its for fault in faults), len(its))
    ]
    return name_recipes(named)


def name_recipes(found: Iterable[tuple[Path, Fault]]) -> list[Fault]:
    """Give each fault once; where it stands in a base, it names the files that were asked for.

    Args:
        found: Faults, each with the file that was asked for.
    """
    files: dict[Fault, dict[str, None]] = {}
    for path, fault in found:
        files.setdefault(fault, {})[str(path)] = None
    return [_name_files(fault, [*names]) for fault, names in files.items()]


def _name_files(fault: Fault, names: Sequence[str]) -> Fault:
    if fault.file in names or fault.file.startswith(("--set ", "--sweep ")):
        return fault
    shown = ", ".join(f"`{name}`" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return replace(fault, message=f"{fault.message} (a base of {shown})")


def _load_file(
    path: Path, overrides: Sequence[str], rehearse: bool, shared: Shared, sweeps: Sequence[str]
) -> tuple[list[LoadedRecipe], list[Fault]]:
    composer = Composer(shared=shared)
    parsed, documents = composer.parse_overrides(overrides), composer.read(path)
    is_sound, loaded = not composer.faults, []
    for document in documents:
        before = len(composer.faults)
        recipes = load_document(composer, document, path, parsed, rehearse, sweeps)
        if is_sound and len(composer.faults) == before:
            loaded += recipes
    return loaded, composer.all_faults(path)


def load_document(
    composer: Composer,
    document: Document,
    path: Path,
    overrides: Sequence[Override],
    rehearse: bool,
    sweeps: Sequence[str] = (),
) -> list[LoadedRecipe]:
    """Make a recipe of a document, or of a sweep one for each point.

    Args:
        composer: Collects the faults.
        document: The document.
        path: The file it was read from.
        overrides: Laid over it.
        rehearse: Lay its `rehearsal` over it before.
        sweeps: `a.b=c,d` each: values that it is to be swept over.
    """
    layers = composer.lay_on_base(document.root, path)
    root = layers[0]
    if not isinstance(root.value, dict):
        kind = "a list" if isinstance(root.value, list) else "a single value"
        message = f"a recipe is made of `key: value` lines, this is {kind}; start with `kind: cpt`"
        composer.refuse(root.origin, "wrong-type", message)
        return []
    root = composer.set_all(root, [override for override in overrides if override.keys[0] == "rehearsal"])
    overrides = [override for override in overrides if override.keys[0] != "rehearsal"]
    rehearsed = _rehearsed(composer, root, rehearse)
    if rehearse and rehearsed is None:
        return []
    chosen = composer.set_all(rehearsed if rehearse and rehearsed else root, overrides)
    points = _points(composer, lay_options(composer, chosen, sweeps))
    results = [(point, tree, _check(tree)) for tree, point in points]
    found = [(point, fault) for point, _, result in results if isinstance(result, list) for fault in result]
    faults = name_points(found, len(points))
    first = _points(composer, rehearsed, only_first=True) if rehearsed and not rehearse and points else []
    for rehearsed, _ in first:
        faults = faults + _faults_of_rehearsal(rehearsed, faults, is_changed=bool(overrides or sweeps))
    composer.faults += _blame_merges(faults, layers)
    return [
        LoadedRecipe(result, path, document.text, tree, point)
        for point, tree, result in results
        if not isinstance(result, list)
    ]


def _points(composer: Composer, root: YamlNode, only_first: bool = False) -> list[tuple[YamlNode, Point | None]]:
    """Give the recipe itself, or for a sweep that of each point, for a search those at the corners of its space."""
    assert isinstance(root.value, dict)
    search = root.value.get("search")
    if search is not None and search.value is not None:
        return corners(composer, root)[: 1 if only_first else None]
    sweep = root.value.get("sweep")
    if sweep is None or sweep.value is None:
        return [(root, None)]
    return [*expand(composer, root, only_first)]


def _blame_merges(faults: Sequence[Fault], layers: Sequence[YamlNode]) -> list[Fault]:
    """Point faults that a base alone does not have to the file that was laid over it.

    Args:
        faults: Those of a recipe.
        layers: The recipe as a tree, then its base, and so on (`Composer.lay_on_base`).
    """
    file = layers[0].origin.file
    if len(layers) == 1 or all(fault.file == file for fault in faults):
        return [*faults]
    kind = layers[0].value.get("kind") if isinstance(layers[0].value, dict) else None
    model = KINDS.get(kind.text) if kind else None
    known = [_keys_and_messages(model, layer) for layer in layers]
    return [fault if fault.file == file else _blame(fault, layers, known) for fault in faults]


def _keys_and_messages(model: type[Recipe] | None, layer: YamlNode) -> set[tuple[str, str]]:
    result = validate(model, layer) if model and isinstance(layer.value, dict) else []
    return {(fault.key, fault.message) for fault in result} if isinstance(result, list) else set()


def _blame(fault: Fault, layers: Sequence[YamlNode], known: Sequence[set[tuple[str, str]]]) -> Fault:
    having = [layer for layer, its in zip(layers, known, strict=True) if (fault.key, fault.message) in its]
    if not having or having[-1].origin.file == fault.file:
        return fault
    made_by = having[-1]
    node = nearest = made_by
    for key in fault.key.split("."):
        if not isinstance(node.value, dict) or key not in node.value:
            break
        node = node.value[key]
        nearest = node if node.origin.file == made_by.origin.file else nearest
    said = f"{fault.message} (`{fault.key}` stands in {fault.file}:{fault.line})"
    return replace(fault, file=made_by.origin.file, line=nearest.origin.line, message=said)


def _rehearsed(composer: Composer, root: YamlNode, is_wanted: bool) -> YamlNode | None:
    assert isinstance(root.value, dict)
    overlay = root.value.get("rehearsal")
    if overlay is None or overlay.value is None:
        if is_wanted:
            message = "the recipe has no `rehearsal`; write one, or leave out `--rehearse`"
            composer.refuse(root.origin, "structure", message)
        return None
    if not isinstance(overlay.value, dict):
        return root if is_wanted else None
    if "rehearsal" in overlay.value:
        message = "a `rehearsal` cannot hold another one; remove it"
        composer.faults.append(fault_at(root, ("rehearsal", "rehearsal"), message, "structure"))
        return None
    return composer.lay_rehearsal(root)


def _faults_of_rehearsal(rehearsed: YamlNode, known: Sequence[Fault], is_changed: bool) -> list[Fault]:
    """Find the faults of a rehearsal that is not wanted now, without those of the recipe.

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


def _check(root: YamlNode) -> Recipe | list[Fault]:
    assert isinstance(root.value, dict)
    node = root.value.get("kind")
    kinds = ", ".join(f"`{kind}`" for kind in KINDS)
    if node is None or node.value is None:
        return [fault_at(root, ("kind",), f"required, but missing; write one of {kinds}", "missing-key")]
    if node.text == "pipeline":
        message = "is not a recipe but several; `launcher submit`, `validate` and `graph` take pipelines, one by one"
        return [fault_at(root, ("kind",), message, "unknown-name")]
    if node.text not in KINDS:
        nearest = difflib.get_close_matches(node.text, KINDS, n=1)
        fix = f"did you mean `{nearest[0]}`?" if nearest else f"write one of {kinds}"
        return [fault_at(root, ("kind",), f"{shown(node)} is not a kind of recipe; {fix}", "unknown-name")]
    return validate(KINDS[node.text], root)
