"""What a recipe does with the terms of a text: the section `terminology`, ready to use."""

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jobs.data.corpus.shard_writer import text_hash
from jobs.data.terminology.augment import Augmenter
from jobs.data.terminology.normalise import ChangedText, normalised
from jobs.data.terminology.term_index import TermIndex
from jobs.rank.context import Context
from launcher.errors import LauncherError
from launcher.recipe.sections.terminology import TextTerminology


@dataclass(frozen=True)
class TextSteps:
    """Normalises, masks and varies the terms of texts, each a function of the text and the seed alone."""

    settings: TextTerminology
    seed: int
    index: TermIndex

    def run(self, text: str, augments: bool = True) -> ChangedText:
        """Change a text.

        Args:
            text: The text.
            augments: Whether mentions may be masked and varied.
        """
        its = self.settings
        done = normalised(text, self.index, its.abbreviations) if its.normalise else ChangedText(text)
        if not (augments and (its.masking or its.synonyms)):
            return done
        augmenter = Augmenter(self.index, its.masking, its.synonyms, its.abbreviations)
        draws = random.Random(f"{self.seed}:{text_hash(text)}")  # noqa: S311 - it has to be repeatable
        more = augmenter.run(done.text, draws)
        return ChangedText(more.text, [*done.rounds, *more.rounds], done.counts + Counter(more.counts))

    @property
    def identity(self) -> list[object]:
        """What decides the result, besides the settings and the text."""
        is_random = self.settings.masking or self.settings.synonyms
        return [self.index.manifest.checksums, self.seed if is_random else None]


def load_text_steps(context: Context, key: str, settings: TextTerminology | None) -> TextSteps | None:
    """Load the index that a recipe names; None if it has no section `terminology`.

    Args:
        context: This run.
        key: Of the section.
        settings: The section.

    Raises:
        LauncherError: there is no such index, it is credentialed and the recipe is open, or it cannot do what is asked.
    """
    if settings is None:
        return None
    index = TermIndex(Path(context.model_path(settings.index)))
    if index.manifest.data_use == "credentialed" and context.recipe.data_use == "open":
        raise LauncherError(
            f"{key}.index: `{settings.index}` was made of credentialed data; write `data_use: credentialed`"
        )
    if settings.masking and index.manifest.counted is None:
        raise LauncherError(
            f"{key}.masking: `{settings.index}` has counted no mentions; add `count_in` to the recipe that makes it"
        )
    return TextSteps(settings, context.recipe.seed, index)
