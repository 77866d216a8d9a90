"""A pipeline's YAML file to recipes: the stages, each with what the pipeline sets in it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.errors import Fault, RecipeError
from launcher.load.compose import Composer, Override, relocate
from launcher.load.recipes import load_document, name_recipes
from launcher.load.stage_faults import StageFault, mark_section, name_stages
from launcher.load.stage_points import LoadedChoice, LoadedStage, find_select_faults, read_points
from launcher.load.translate import fault_at, validate
from launcher.load.yaml_tree import Document, YamlNode
from launcher.recipe import KINDS
from launcher.recipe.pipeline import PipelineRecipe


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline and where it came from."""

    recipe: PipelineRecipe
    stages: tuple[LoadedStage, ...]
    """As they are written; of a sweep, its points."""
    path: Path
    text: str
    root: YamlNode
    choices: tuple[LoadedChoice, ...] = ()
    """Stages that are sweeps and have a `select`."""

    def place(self, key: str, message: str, code: Any) -> Fault:
        """Make a fault of the pipeline itself, at its line."""
        return fault_at(self.root, tuple(key.split(".")), message, code)


def is_pipeline(path: Path) -> bool:
    """Tell whether a file holds a pipeline; anything else, also a file that is not there, is left to `load_all`."""
    documents = Composer().read(path)
    roots = [document.root.value for document in documents]
    return any(isinstance(root, dict) and "kind" in root and root["kind"].text == "pipeline" for root in roots)


def load_pipeline(path: Path, overrides: Sequence[str] = (), rehearse: bool = False) -> LoadedPipeline:
    """Read and check a pipeline with the recipes of all its stages.

    Args:
        path: The file.
        overrides: `a.b=c` each, laid over every stage whose kind has the key.
        rehearse: Lay the pipeline's `rehearsal` over it, and each recipe's over the recipe.

    Raises:
        RecipeError: With all faults of the pipeline and of its stages.
    """
    composer = Composer()
    parsed = composer.parse_overrides(overrides)
    documents = composer.read(path)
    if len(documents) > 1:
        composer.refuse(documents[1].root.origin, "structure", "a file holds one pipeline; write a file for each")
    pipeline = _read(composer, documents[0], path, rehearse) if documents else None
    faults = name_recipes((path, fault) for fault in composer.all_faults(path))
    if pipeline is not None:
        pipeline, of_stages = _load_stages(pipeline, parsed, rehearse)
        faults += of_stages
    if faults or pipeline is None:
        raise RecipeError(faults)
    return pipeline


def _read(composer: Composer, document: Document, path: Path, rehearse: bool) -> LoadedPipeline | None:
    root = _with_whole_stages(composer.lay_on_base(document.root, path)[0])
    assert isinstance(root.value, dict)
    overlay = root.value.get("rehearsal")
    if rehearse and overlay is not None and isinstance(overlay.value, dict):
        root = composer.lay_rehearsal(root)
    elif rehearse:
        root = composer.lay_rehearsal(YamlNode({**_entries(root), "rehearsal": YamlNode({}, root.origin)}, root.origin))
    root = _with_whole_stages(root)
    result = validate(PipelineRecipe, root)
    if isinstance(result, list):
        composer.faults += result
        return None
    return LoadedPipeline(result, (), path, document.text, root)


def _with_whole_stages(root: YamlNode) -> YamlNode:
    """Write `NAME: FILE` as `NAME: {recipe: FILE}`."""
    stages = _entries(root).get("stages")
    if stages is None or not isinstance(stages.value, dict):
        return root
    whole = {
        name: YamlNode({"recipe": stage}, stage.origin) if isinstance(stage.value, str) else stage
        for name, stage in stages.value.items()
    }
    return root._replace(value={**_entries(root), "stages": stages._replace(value=whole)})


def _load_stages(
    pipeline: LoadedPipeline, overrides: Sequence[Override], rehearse: bool
) -> tuple[LoadedPipeline, list[Fault]]:
    stages: list[LoadedStage] = []
    choices: list[LoadedChoice] = []
    found: list[StageFault] = []
    written = _settings(pipeline.root)
    common = [*written, *overrides]
    used: set[tuple[str, ...]] = set()
    for name, stage in pipeline.recipe.stages.items():
        composer = Composer()
        own = _entries(_entries(pipeline.root)["stages"])[name]
        document, path = _document(composer, pipeline, own, name)
        kind = _kind_of(composer, document, path) if document else ""
        known = KINDS[kind].model_fields if kind in KINDS else {}
        fitting = [one for one in common if one.keys[0] in known]
        used |= {one.keys for one in fitting}
        folder = os.path.relpath(pipeline.path.parent, path.parent)
        its = _settings(own, f"stages.{name}.")
        written += its
        typed = [one for one in overrides if one in fitting]  # the command line has the last word
        settings = [Override(one.keys, relocate(one.value, folder)) for one in (*fitting, *its, *typed, *_points(own))]
        loaded = load_document(composer, document, path, settings, rehearse) if document else []
        if loaded and loaded[0].recipe.search is None:
            loaded = loaded[: pipeline.recipe.max_points]
        elif loaded and (made := loaded[0].recipe.makes) and made.type not in ("model", "adapter"):
            message = f"a search selects models, and this recipe makes a {made.type}; write a `sweep` in its place"
            composer.refuse(own.origin, "structure", message, f"stages.{name}")
        found += [StageFault(name, path, fault) for fault in composer.all_faults(path)]
        if loaded:
            for key, message in find_select_faults(stage, loaded):
                keys = filter(None, ("stages", name, "select", key))
                fault = fault_at(pipeline.root, tuple(keys), message, "conflict")
                found.append(StageFault(name, pipeline.path, fault))
            points, choice = read_points(pipeline.recipe.name, name, stage, loaded)
            stages += points
            choices += [choice] if choice else []
    faults = name_stages(found, pipeline.path, written)
    for one in common:
        if one.keys not in used and not found:
            where = Fault(one.value.origin.file, one.value.origin.line, f"set.{'.'.join(one.keys)}", "", "unknown-key")
            faults.append(replace(where, message="no stage has such a key; correct or remove it"))
    return replace(pipeline, stages=tuple(stages), choices=tuple(choices)), faults


def _document(composer: Composer, pipeline: LoadedPipeline, own: YamlNode, name: str) -> tuple[Document | None, Path]:
    """Find the document of a stage's recipe, and the file that it stands in."""
    recipe = _entries(own)["recipe"]
    if isinstance(recipe.value, dict):
        return Document(pipeline.text, mark_section(recipe, f"stages.{name}.recipe.")), pipeline.path
    path = pipeline.path.parent / str(recipe.value)
    if not os.path.isfile(path):
        message = f"there is no file `{path}`; the path is relative to this file"
        composer.refuse(recipe.origin, "not-found", message, f"stages.{name}.recipe")
        return None, pipeline.path
    documents = composer.read(path)
    if len(documents) > 1:
        message = f"`{recipe.value}` holds {len(documents)} recipes; name a file with one"
        composer.refuse(recipe.origin, "structure", message)
        return None, path
    return (documents[0] if documents else None), path


def _kind_of(composer: Composer, document: Document, path: Path) -> str:
    root = composer.lay_on_base(document.root, path)[0]
    kind = root.value.get("kind") if isinstance(root.value, dict) else None
    return kind.text if kind else ""


def _settings(section: YamlNode, place: str = "") -> list[Override]:
    """Read the `set` of a pipeline or of a stage, whose place in the pipeline is `stages.NAME.`."""
    written = _entries(_entries(section).get("set"))
    return [Override(tuple(key.split(".")), mark_section(node, f"{place}set.")) for key, node in written.items()]


def _points(section: YamlNode) -> list[Override]:
    """Read the `sweep` of a stage, which takes the place of the recipe's."""
    sweep = _entries(section).get("sweep")
    return [] if sweep is None or sweep.value is None else [Override(("sweep",), sweep._replace(replaces=True))]


def _entries(node: YamlNode | None) -> Mapping[str, YamlNode]:
    return node.value if node and isinstance(node.value, dict) else {}
