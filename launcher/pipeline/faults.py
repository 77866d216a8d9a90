"""What is wrong with a pipeline: with the recipes of its stages, or with what they make together."""

from collections.abc import Iterator, Mapping

from launcher.cluster import Cluster
from launcher.errors import Fault
from launcher.load.pipeline import LoadedPipeline
from launcher.load.recipes import LoadedRecipe, name_recipes
from launcher.plan import check_all
from launcher.submit.partition_checks import find_unstartable


def find_faults(loaded: LoadedPipeline, items: Mapping[str, LoadedRecipe], cluster: Cluster) -> list[Fault]:
    """Check the recipes of all stages at a site, and what they make together.

    Args:
        loaded: The pipeline.
        items: Its recipes, by the names of the stages.
        cluster: The site.
    """
    pending = {item.recipe.makes.name: item.recipe.data_use for item in items.values() if item.recipe.makes}
    found = [(item.path, fault) for item in items.values() for fault in check_all([item], cluster, pending)]
    known = {(fault.file, fault.line, fault.key) for _, fault in found}
    for path, fault in find_unstartable(list(items.values()), cluster):
        if (fault.file, fault.line, fault.key) not in known:
            found.append((path, fault))
    return [*name_recipes(found), *_two_of_a_name(loaded, items), *_unpublishable(loaded, items)]


def _two_of_a_name(loaded: LoadedPipeline, items: Mapping[str, LoadedRecipe]) -> Iterator[Fault]:
    makers: dict[tuple[str, str], str] = {}
    for name, item in items.items():
        if made := item.recipe.makes:
            first = makers.setdefault((made.type, made.name), name)
            if first != name:
                message = f"stage `{first}` makes `{made.name}`, too; set another name in one of them"
                yield loaded.place(f"stages.{name}", message, "conflict")


def _unpublishable(loaded: LoadedPipeline, items: Mapping[str, LoadedRecipe]) -> Iterator[Fault]:
    for name, stage in loaded.recipe.publish.items():
        if items[stage].recipe.makes is None:
            message = f"stage `{stage}` makes nothing that has a name; set its `output`, or name another stage"
            yield loaded.place(f"publish.{name}", message, "conflict")
