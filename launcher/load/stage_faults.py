"""Faults of the recipes of a pipeline's stages: which stage has one, and what the pipeline's own file calls its key."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.errors import Fault
from launcher.load.compose import Override, map_origins
from launcher.load.recipes import name_recipes
from launcher.load.yaml_tree import YamlNode


@dataclass(frozen=True)
class StageFault:
    """A fault of a stage's recipe."""

    stage: str
    path: Path
    """The recipe's file, which may be the pipeline's."""
    fault: Fault


def mark_section(node: YamlNode, section: str) -> YamlNode:
    """Note the section of the pipeline that a recipe, or a value, stands in: `stages.a.set.`."""
    return map_origins(node, lambda origin: origin._replace(section=f"{origin.section}{section}"))


def name_stages(found: Iterable[StageFault], pipeline: Path, settings: Iterable[Override] = ()) -> list[Fault]:
    """Give each fault once; one in the pipeline's file names the stages that have it.

    Args:
        found: The faults.
        pipeline: The pipeline's file.
        settings: What the pipeline sets in recipes; a fault of a part of its key gets the whole one.
    """
    found, written = list(found), [f"{one.value.origin.section}{'.'.join(one.keys)}" for one in settings]
    stages: dict[Fault, dict[str, Path]] = {}
    for one in found:
        if _is_set_here(one, pipeline):
            stages.setdefault(one.fault, {})[one.stage] = one.path
    named = [
        (pipeline, _name(one.fault, stages[one.fault], written)) if one.fault in stages else (one.path, one.fault)
        for one in found
    ]
    return name_recipes(named)


def _is_set_here(one: StageFault, pipeline: Path) -> bool:
    return one.fault.file == str(pipeline) != str(one.path)


def _name(fault: Fault, stages: dict[str, Path], written: Iterable[str]) -> Fault:
    whole = [key for key in written if key.startswith(f"{fault.key}.")] if fault.key else []
    names = ", ".join(f"`{name}`" for name in stages)
    where = f"of stage {names}, {next(iter(stages.values()))}" if len(stages) == 1 else f"of stages {names}"
    return replace(fault, key=whole[0] if whole else fault.key, message=f"{fault.message} ({where})")
