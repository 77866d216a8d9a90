"""What a model reads: corpora, how they are mixed, how documents become sequences."""

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Name, Section, nearest_first
from launcher.recipe.quantities import PercentOrSteps

Weight = Annotated[float, Field(gt=0)]


class Corpus(Section):
    """One prepared corpus and its share in the mixture."""

    name: Name
    """Name below the profile's `roots.corpora`."""
    weight: Weight = 1.0
    """Share of this corpus in the mixture; `data.mixture` says of what."""


class Stage(Section):
    """A part of the training with weights of its own: a curriculum has several."""

    until: PercentOrSteps | None = None
    """Where it ends: a share of the training (`80%`) or `1000 steps`. The last stage ends with the training."""
    weights: Annotated[dict[str, Weight], Field(min_length=1)]
    """Weight of each corpus, by its name; a corpus without one is not read in this stage."""


class Data(Section):
    """What the model reads."""

    corpora: Annotated[tuple[Corpus, ...], Field(min_length=1)]
    """Prepared corpora (made by recipes of kind `prepare`)."""
    mixture: Literal["proportions", "epochs", "temperature"] = "proportions"
    """What weights mean. `proportions`: shares of the samples. `epochs`: how often a corpus is read while the
    mixture is read once. `temperature`: samples are shared by size^(1/`temperature`), times the weight."""
    temperature: Annotated[float, Field(ge=1)] | None = None
    """1 mixes by size; the larger, the more equal the shares (Raffel et al. 2020,
    https://arxiv.org/abs/1910.10683, section 3.5.2)."""
    stages: tuple[Stage, ...] = ()
    """Weights that change during the training, at step boundaries; each corpus continues where it was."""
    packing: Literal["packed", "truncate", "pad"] = "packed"
    """How documents become sequences. `packed`: concatenated and cut; documents cannot attend to one another,
    and nothing is lost or padded. `truncate`: the first `sequence_length` tokens of each; the rest is not read (as
    BioMed-LLaMA and Clinical LLaMA-LoRA did). `pad`: each document is cut separately, and its last sequence padded."""

    def samples_in_epoch(self, sizes: Sequence[int]) -> Fraction:
        """Return how many samples it takes to read the mixture once.

        That is as many as all corpora have together or, if weights are epochs, as many as the weights say.

        Args:
            sizes: Samples that each corpus has.
        """
        if self.mixture != "epochs":
            return Fraction(sum(sizes))
        weights = [Fraction(str(corpus.weight)) for corpus in self.corpora]
        return sum((weight * size for weight, size in zip(weights, sizes, strict=True)), Fraction(0))

    @override
    def _conflicts(self) -> Iterator[str]:
        names = [corpus.name for corpus in self.corpora]
        for i, name in enumerate(names):
            if name in names[:i]:
                yield f"corpora.{i}.name: `{name}` is used twice; raise its `weight` instead"
        if self.mixture == "temperature" and self.temperature is None:
            yield "temperature: `mixture: temperature` needs it; write for example `temperature: 2`"
        if self.mixture != "temperature" and self.temperature is not None:
            yield f"temperature: belongs to `mixture: temperature`, not to `{self.mixture}`; leave it out"
        yield from self._stage_conflicts()

    def _stage_conflicts(self) -> Iterator[str]:
        if not self.stages:
            return
        if self.mixture == "epochs":
            yield "mixture: `epochs` has no meaning in stages; write `proportions` or `temperature`"
        for i, corpus in enumerate(self.corpora):
            if corpus.weight != 1:
                yield f"corpora.{i}.weight: `stages` set the weights; leave it out"
        yield from self._name_conflicts()
        yield from self._order_conflicts()

    def _name_conflicts(self) -> Iterator[str]:
        names = [corpus.name for corpus in self.corpora]
        for i, stage in enumerate(self.stages):
            for name in stage.weights:
                if name not in names:
                    there = nearest_first(name, names)
                    yield f"stages.{i}.weights.{name}: is not one of `data.corpora` ({there}); correct it, or add it"

    def _order_conflicts(self) -> Iterator[str]:
        ends = [stage.until for stage in self.stages]
        if ends[-1] is not None:
            yield f"stages.{len(ends) - 1}.until: the last stage ends with the training; leave it out"
        for i, end in enumerate(ends[:-1]):
            if end is None:
                yield f"stages.{i}.until: required, since another stage follows; write for example `until: 80%`"
        for i, (before, after) in enumerate(itertools.pairwise(ends), 1):
            # Percents and steps can only be compared once the length is known, on the nodes.
            known = (before, after) if before and after and before.endswith("%") == after.endswith("%") else None
            if known and known[0].steps(10_000) >= known[1].steps(10_000):
                yield f"stages.{i}.until: `{after}` is not after the stage before (`{before}`); write more"
