"""What is wrong with a pipeline: with the recipes of its stages, or with what they make together."""

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import replace

from launcher.cluster import Cluster
from launcher.errors import Fault
from launcher.load.pipeline import LoadedPipeline
from launcher.load.recipes import LoadedRecipe
from launcher.load.stage_faults import StageFault, name_stages
from launcher.load.sweeps import name_points
from launcher.plan import check_all
from launcher.run.locations import root_of
from launcher.submit.partition_checks import find_unstartable


def awaited_names(loaded: LoadedPipeline) -> dict[str, str]:
    """Names that the stages of a pipeline make, and the `data_use` of each."""
    recipes = {stage.name: stage.loaded.recipe for stage in loaded.stages}
    names: dict[str, str] = {recipe.makes.name: recipe.data_use for recipe in recipes.values() if recipe.makes}
    return names | {one.makes[1]: recipes[one.points[0]].data_use for one in loaded.choices if one.makes}


def find_faults(loaded: LoadedPipeline, items: Mapping[str, LoadedRecipe], cluster: Cluster) -> list[Fault]:
    """Check the recipes of all stages at a site, and what they make together.

    Args:
        loaded: The pipeline.
        items: Its recipes, by the names of the stages, each with what it awaits.
        cluster: The site.
    """
    found: list[StageFault] = []
    for stage, its in _by_stage(loaded, items).items():
        told = name_points(((item.point, fault) for item in its for fault in check_all([item], cluster)), len(its))
        found += [StageFault(stage, its[0].path, fault) for fault in told]
    known = {(one.fault.file, one.fault.line, one.fault.key) for one in found}
    written = {id(items[stage.name]): stage.sweep or stage.name for stage in loaded.stages}
    for item, fault in find_unstartable(list(items.values()), cluster):
        if (fault.file, fault.line, fault.key) not in known:
            found.append(StageFault(written[id(item)], item.path, fault))
    told = name_stages(found, loaded.path)
    together = (_two_of_a_name, _unpublishable, _unmade_tables)
    return [*told, *(fault for look in together for fault in look(loaded, items))]


def _by_stage(loaded: LoadedPipeline, items: Mapping[str, LoadedRecipe]) -> dict[str, list[LoadedRecipe]]:
    """Give the recipes of each stage as it is written: one, or one for each point of its sweep."""
    found: dict[str, list[LoadedRecipe]] = {}
    for stage in loaded.stages:
        item = items[stage.name]
        its = [replace(one, artifacts=item.artifacts, awaited=item.awaited) for one in stage.corners] or [item]
        found.setdefault(stage.sweep or stage.name, []).extend(its)
    return found


def _two_of_a_name(loaded: LoadedPipeline, items: Mapping[str, LoadedRecipe]) -> Iterator[Fault]:
    makers: dict[tuple[str, str], str] = {}
    made = [
        (name, (item.recipe.makes.type, item.recipe.makes.name)) for name, item in items.items() if item.recipe.makes
    ]
    made += [(choice.name, choice.makes) for choice in loaded.choices if choice.makes]
    written = {stage.name: stage.sweep or stage.name for stage in loaded.stages}
    for name, one in made:
        first = makers.setdefault((root_of(one[0]), one[1]), name)
        if first != name:
            message = f"stage `{first}` makes `{one[1]}`, too; set another name in one of them"
            yield loaded.place(f"stages.{written.get(name, name)}", message, "conflict")


def _unpublishable(loaded: LoadedPipeline, items: Mapping[str, LoadedRecipe]) -> Iterator[Fault]:
    makes = {name: item.recipe.makes is not None for name, item in items.items()}
    makes |= {choice.name: choice.makes is not None for choice in loaded.choices}
    for name, stage in loaded.recipe.publish.items():
        if stage not in makes:
            message = f"stage `{stage}` is a sweep, of which no point is selected; write its `select`"
            yield loaded.place(f"publish.{name}", message, "conflict")
        elif not makes[stage]:
            message = f"stage `{stage}` makes nothing that has a name; set its `output`, or name another stage"
            yield loaded.place(f"publish.{name}", message, "conflict")


def _unmade_tables(loaded: LoadedPipeline, items: Mapping[str, LoadedRecipe]) -> Iterator[Fault]:
    """Name the stages that read a table of a folder which another stage makes without that table."""
    artifacts = [(name, item.recipe.makes) for name, item in items.items()]
    makers = {made.name: (name, made.files) for name, made in artifacts if made and made.type == "tables"}
    told = set[str]()
    for stage in loaded.stages:
        written = stage.sweep or stage.name
        for one in items[stage.name].recipe.inputs():
            folder, _, pattern = one.name.rpartition("/")
            maker, files = makers.get(folder, ("", ()))
            if one.type == "files" and maker and not fnmatch.filter(files, pattern) and written not in told:
                told.add(written)
                fix = "name the table there that it is made from, or remove this stage"
                message = f"stage `{maker}` does not make `{pattern}`, which this one reads; {fix}"
                yield loaded.place(f"stages.{written}", message, "unknown-name")
