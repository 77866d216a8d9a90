"""The pairs of a run, once they are prepared."""

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from jobs.data.chat.render import Renderer
from jobs.data.chat.tokenised_source import finished_source, renderer_of
from jobs.data.preferences.pairs import make_pairs
from jobs.data.preferences.samples import PairSamples, all_pairs, mean_tokens, shuffled_pairs
from jobs.data.preferences.store import Pairs, open_pairs
from jobs.rank.context import Context
from jobs.rank.process_group import RankGroup, wait_for_main
from jobs.scoring.pairs import RewardedPairs
from launcher.errors import LauncherError
from launcher.recipe.kinds.preference import PreferenceRecipe


@dataclass(frozen=True)
class PreparedPairs:
    """The pairs of all sources, and what they were made with."""

    renderer: Renderer
    train: tuple[Pairs, ...]
    validation: tuple[Pairs, ...]
    shares: tuple[Fraction, ...]
    """Of the sources in the mixture, up to a common factor."""
    epoch: Fraction
    """Pairs that it takes to read the mixture once."""

    @property
    def names(self) -> list[str]:
        """Of the sources."""
        return [source.name for source in self.train]

    @property
    def mean_tokens(self) -> float:
        """Tokens that a pair has on average, on both sides."""
        return mean_tokens(self.train, self.shares)

    @property
    def held_out(self) -> PairSamples | None:
        """Each held-out pair once; None if there are none."""
        return all_pairs(self.validation, first=sum(map(len, self.train))) if self.validation else None

    def to_train_on(self, seed: int, count: int, cycle: int = 0) -> PairSamples:
        """Return `count` pairs of the mixture, shuffled; `cycle` is that of `PairSamples`."""
        return shuffled_pairs(self.train, self.shares, seed, count, cycle)

    def everything(self) -> PairSamples:
        """Return all pairs, each at its place."""
        return all_pairs((*self.train, *self.validation))

    def rewarded(self, rewards: Any) -> RewardedPairs:
        """Put the rewards of the held-out pairs beside their questions.

        Args:
            rewards: A row for each pair: the reward of the chosen answer and that of the rejected one.

        Raises:
            LauncherError: they are no longer numbers.
        """
        rewards = np.asarray(rewards, np.float64)
        if not np.isfinite(rewards).all():
            raise LauncherError("the model's rewards are no longer finite; write a smaller `optim.lr`")
        sources = [source.name for source in self.validation for _ in range(len(source))]
        pairs = [source.read(item) for source in self.validation for item in range(len(source))]
        # A rank's own numbers, not a hash's: the question of a pair is what comes before the answer.
        said = [next(iter(pair.sides.values())) for pair in pairs]
        asked = [one.ids[: int(one.is_answer.argmax())].tobytes() for one in said]
        numbers = {question: number for number, question in enumerate(dict.fromkeys(asked))}
        there = np.array([["chosen" in pair.sides, "rejected" in pair.sides] for pair in pairs])
        rewards = np.where(there, rewards, np.nan)
        return RewardedPairs(rewards, np.array([numbers[question] for question in asked]), sources)


def prepare_pairs(context: Context, recipe: PreferenceRecipe, group: RankGroup) -> PreparedPairs:
    """Prepare the pairs of all sources: rank 0 for all. A collective.

    Raises:
        LauncherError: more records are unreadable than the recipe allows, or a source has nothing to train on.
    """
    folder = context.run.examples
    wait_for_main(group, partial(make_pairs, context, recipe, folder))
    # Rank 0's word instead of the records' files: other nodes may not see them yet.
    names = [source.name for source in recipe.data.sources]
    sources = [one for name in names if (one := group.from_main(finished_source(folder, name)))]
    train, validation = (tuple(open_pairs(folder, sources, split)) for split in ("train", "validation"))
    sizes = list(map(len, train))
    return PreparedPairs(
        renderer_of(context, recipe),
        train,
        validation,
        tuple(recipe.data.shares(sizes)),
        recipe.samples_in_epoch(sizes),
    )
