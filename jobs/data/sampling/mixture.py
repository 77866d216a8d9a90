"""Mixtures: which corpus a sample comes from, as a pure function of its index."""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

from launcher.errors import LauncherError
from launcher.recipe.sections.mixture import Data


class Proportions:
    """Takes samples from corpora in fixed proportions.

    After any number of samples each corpus has given its proportion to within one sample per corpus before it in the
    list: the first gives its proportion of all samples, spread evenly, the second of what is left, and so on.
    """

    def __init__(self, weights: Sequence[Fraction]) -> None:
        self._shares = [weight / (sum(weights[place:]) or 1) for place, weight in enumerate(weights)]

    def place(self, index: int) -> tuple[int, int]:
        """Return the corpus that sample `index` comes from, and how many samples that corpus gave before."""
        for corpus, share in enumerate(self._shares):
            given = index * share.numerator // share.denominator
            if (index + 1) * share.numerator // share.denominator > given:
                return corpus, given
            index -= given
        raise AssertionError("the last share that is not 0 is 1")

    def counts(self, samples: int) -> list[int]:
        """Return how many of the first `samples` samples each corpus gives."""
        given = []
        for share in self._shares:
            given.append(samples * share.numerator // share.denominator)
            samples -= given[-1]
        return given


class Mixture:
    """Proportions that may change during training; each corpus resumes where it was.

    Args:
        stages: First sample and weights of each stage, in order; the first starts at 0.
    """

    def __init__(self, stages: Sequence[tuple[int, Sequence[Fraction]]]) -> None:
        self._starts = [start for start, _ in stages]
        self._stages = [Proportions(weights) for _, weights in stages]
        self._before = [[0] * len(stages[0][1])]
        for number, end in enumerate(self._starts[1:]):
            counts = self._stages[number].counts(end - self._starts[number])
            self._before.append([sum(pair) for pair in zip(self._before[-1], counts, strict=True)])

    def place(self, index: int) -> tuple[int, int]:
        """Return the corpus that sample `index` comes from, and how many samples that corpus gave before."""
        stage = bisect_right(self._starts, index) - 1
        corpus, given = self._stages[stage].place(index - self._starts[stage])
        return corpus, given + self._before[stage][corpus]

    def counts(self, samples: int) -> list[int]:
        """Return how many of the first `samples` samples each corpus gives."""
        stage = bisect_right(self._starts, samples) - 1
        own = self._stages[stage].counts(samples - self._starts[stage])
        return [sum(pair) for pair in zip(self._before[stage], own, strict=True)]


def mixture_of(data: Data, sizes: Sequence[int], steps: int, sequences: int) -> Mixture:
    """Return a recipe's mixture.

    Args:
        data: The recipe's section.
        sizes: Samples that each corpus has.
        steps: Optimizer steps of the whole training.
        sequences: Samples per step; stages change between two steps.

    Raises:
        LauncherError: a stage would end before it begins, or after the training.
    """
    if not data.stages:
        return Mixture([(0, _weights(data, [corpus.weight for corpus in data.corpora], sizes))])
    ends = [stage.until.steps(steps) for stage in data.stages if stage.until is not None]
    for number, (start, end) in enumerate(itertools.pairwise([0, *ends, steps])):
        if start >= end:
            raise LauncherError(
                f"data.stages: of {steps} steps, stage {number} would run from {start} to {end}; change `until`"
            )
    starts = [0, *(end * sequences for end in ends)]
    weights = [[stage.weights.get(corpus.name, 0.0) for corpus in data.corpora] for stage in data.stages]
    return Mixture([(start, _weights(data, own, sizes)) for start, own in zip(starts, weights, strict=True)])


def describe_mixture(names: Sequence[str], sizes: Sequence[int], mixture: Mixture, samples: int) -> str | None:
    """Say what a training of so many samples reads of each corpus; None if there is only one."""
    shares = [
        f"{name} {count / samples:.1%} ({count:,} samples, {count / size:.3g} epochs)"
        for name, size, count in zip(names, sizes, mixture.counts(samples), strict=True)
    ]
    return f"mixture: {', '.join(shares)}" if len(shares) > 1 else None


def _weights(data: Data, weights: Sequence[float], sizes: Sequence[int]) -> list[Fraction]:
    exact = [_exact(weight) for weight in weights]
    if data.mixture == "proportions":
        return exact
    exponent = 1 / data.temperature if data.temperature else 1.0
    scale = [_exact(size**exponent) for size in sizes]
    return [weight * size for weight, size in zip(exact, scale, strict=True)]


def _exact(number: float) -> Fraction:
    # Twelve digits: the last ones of a power depend on the C library, and sample order must not.
    return Fraction(f"{number:.12g}")
