"""Which recipes wait for which others: those that read what the others make."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from launcher.errors import LauncherError
from launcher.recipe import Recipe
from launcher.recipe.base import Artifact, Input
from launcher.run.locations import root_of


@dataclass(frozen=True)
class Edge:
    """A recipe that reads what another one makes."""

    reader: int
    """Its place among the recipes."""
    key: str
    """Where it names what it reads."""
    maker: int
    """The place of the recipe that makes it."""


class CircleError(LauncherError):
    """Stages, or recipes, that wait for each other."""

    def __init__(self, circle: Sequence[str]) -> None:
        self.circle = tuple(circle)
        """Each waits for the next one; the last one is the first one again."""
        super().__init__(f"{' -> '.join(circle)}: these stages wait for each other; change a name")


def find_edges(recipes: Sequence[Recipe], others: Sequence[Artifact | None] = ()) -> Iterator[Edge]:
    """Find which of several recipes read what others of them make; of two makers of a name the first counts.

    Args:
        recipes: The recipes.
        others: What is made by others than recipes; their places follow those of the recipes.
    """
    makers: dict[tuple[str, str], int] = {}
    for place, made in enumerate([*(recipe.makes for recipe in recipes), *others]):
        if made:
            makers.setdefault(_name_of(made), place)
    for reader, recipe in enumerate(recipes):
        for one in (*recipe.inputs(), *recipe.optional_inputs()):
            maker = makers.get(_looked_up(one))
            if maker is not None and maker != reader:
                yield Edge(reader, one.key, maker)


def _name_of(made: Artifact) -> tuple[str, str]:
    return root_of(made.type), made.name


def _looked_up(one: Input) -> tuple[str, str]:
    """Root and name by which an input is found; a file is found by the folder that it lies in."""
    if one.type in ("files", "preferences", "tables"):
        return "data", one.name.partition("/")[0]
    return root_of(one.type), one.name


def sort_stages(awaited: Mapping[str, Set[str]]) -> list[str]:
    """Sort stages so that each comes after those that it waits for, and otherwise as they were given.

    Args:
        awaited: For each stage, those that it waits for.

    Raises:
        CircleError: Some of them wait for each other.
    """
    rest, done = dict(awaited), dict[str, None]()
    while rest:
        ready = next((name for name, others in rest.items() if others <= done.keys()), None)
        if ready is None:
            raise CircleError(_find_circle(rest))
        done[ready] = None
        del rest[ready]
    return [*done]


def _find_circle(rest: Mapping[str, Set[str]]) -> list[str]:
    path = [next(iter(rest))]
    while True:
        following = next(name for name in sorted(rest[path[-1]]) if name in rest)
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)
