"""Drawing which faults strike, and when, from a seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from launcher.devcluster.chaos.fault import ChaosFault, Phase

_LAST = 0.75
"""Part of a run's steps after which no fault is drawn: what follows has to fit into the rest."""


@dataclass(frozen=True)
class Strike:
    """One fault that is to strike, and when."""

    number: int
    fault: type[ChaosFault]
    phase: Phase
    part: float
    """Part of the run's steps that are done before it strikes."""
    seed: int
    """Of what the fault itself chooses: a rank, a file, a bit."""


def draw_strikes(faults: Sequence[type[ChaosFault]], count: int, seed: int) -> list[Strike]:
    """Draw faults and their moments; no fault comes again before all others have come.

    Args:
        faults: Which ones there are.
        count: How many to draw.
        seed: The same one draws the same.
    """
    rng = Random(seed)  # noqa: S311 - it has to be repeatable
    parts = sorted(rng.uniform(0, _LAST) for _ in range(count))
    deck = _deal(faults, rng)
    drawn = [next(deck) for _ in range(count)]
    return [
        Strike(number, fault, rng.choice(fault.phases), part, rng.getrandbits(32))
        for number, (fault, part) in enumerate(zip(drawn, parts, strict=True))
    ]


def _deal(faults: Sequence[type[ChaosFault]], rng: Random) -> Iterator[type[ChaosFault]]:
    while True:
        yield from rng.sample(list(faults), len(faults))
