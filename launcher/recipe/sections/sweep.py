"""Sweeps: one recipe carried out for many values of some keys."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Positive, Section

Values: TypeAlias = Annotated[tuple[Any, ...], Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class DrawnKey(Section):
    """What the values of one key are drawn from: a list, or two numbers."""

    of: Values | None = None
    """Values to choose from, all equally likely."""
    low: int | float | None = None
    """Smallest value."""
    high: int | float | None = None
    """Largest value; between two whole numbers all values are whole."""
    scale: Literal["linear", "log"] = "linear"
    """`log`: equally likely in each order of magnitude, as learning rates are tried."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if (self.of is None) == (self.low is None) or (self.low is None) != (self.high is None):
            yield "of: write either `of`, or `low` and `high`"
        elif self.low is not None and self.high is not None:
            if self.low >= self.high:
                yield f"high: {self.high} is not more than `low`; write a larger number"
            if self.scale == "log" and self.low <= 0:
                yield f"low: {self.low} has no logarithm; write a number greater than 0, or `scale: linear`"


class RandomPoints(Section):
    """Points drawn at random. More `points` later keep those that were drawn before."""

    points: Positive
    """How many."""
    keys: Annotated[dict[str, DrawnKey], Field(min_length=1)]
    """What is drawn for each key: `{of: [4, 8]}` or `{low: 1e-6, high: 1e-3, scale: log}`."""
    seed: Seed = 0
    """Seed of the draws."""


class Sweep(Section):
    """Values of keys, by their dotted paths; `grid`, `zip`, `list` and `random` are combined, each with each."""

    grid: dict[str, Values] = Field(default_factory=dict)
    """Values of each key; all combinations: `optim.lr: [1e-5, 3e-5]`."""
    zip: dict[str, Values] = Field(default_factory=dict)
    """Values of keys that change together: the first of each, the second of each, and so on."""
    list: tuple[Annotated[dict[str, Any], Field(min_length=1)], ...] = ()
    """Points written out: `- {optim.lr: 1e-4, adapter.r: 16}`."""
    random: RandomPoints | None = None
    """Points drawn at random."""
    seeds: Positive | Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    """Each point once for each of these values of `seed`; a number N means 1 to N."""
    skip: tuple[Annotated[dict[str, Any], Field(min_length=1)], ...] = ()
    """Points to leave out: those that have all values of one of these. A list of values means any of them."""

    @override
    def _conflicts(self) -> Iterator[str]:
        lengths = {key: len(values) for key, values in self.zip.items()}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"`{key}` {length}" for key, length in lengths.items())
            yield f"zip: the keys have different numbers of values ({said}); write as many for each"
        named = [name for name in ("grid", "zip", "list", "random") if getattr(self, name)]
        if not named and self.seeds is None:
            yield "grid: nothing is swept; write `grid`, `zip`, `list`, `random` or `seeds`"
        for key, places in self._places().items():
            if len(places) > 1:
                both = " and ".join(f"`{place}`" for place in places)
                yield f"{places[-1]}: `{key}` stands in {both}; keep one of them"

    def _places(self) -> dict[str, tuple[str, ...]]:
        """Where each swept key stands."""
        listed = dict.fromkeys(key for point in self.list for key in point)
        drawn = self.random.keys if self.random else {}
        parts: dict[str, Iterable[str]] = {"grid": self.grid, "zip": self.zip, "list": listed, "random": drawn}
        parts["seeds"] = ["seed"] if self.seeds is not None else []
        found: dict[str, tuple[str, ...]] = {}
        for place, keys in parts.items():
            for key in keys:
                found[key] = (*found.get(key, ()), place)
        return found
