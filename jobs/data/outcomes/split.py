"""Which split a patient is in."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from jobs.data.corpus.shard_writer import text_hash
from launcher.recipe.sections.labelled_notes import NoteSplit
from launcher.recipe.sections.outcome_tables import Database

SplitOf: TypeAlias = Callable[[int], NoteSplit | None]
"""Takes the number of a patient; returns None for one that is in no split."""

_TEST, _HELD_OUT = 0.2, 0.3
"""Shares of the patients: test, and test with validation, as in CORe."""


def listed_split(lists: Mapping[int, NoteSplit]) -> SplitOf:
    """Split as lists of patients say."""
    return lists.get


def hashed_split(database: Database, seed: int | None) -> SplitOf:
    """Split by a hash of the patient, without a seed by the hash of `prepare` (`split_key` of its readers).

    The patients with the lowest hashes are those that a `prepare` holds out: so whatever share it holds out, the
    corpus and the outcomes' test patients agree as far as possible.
    """
    suffix = "" if seed is None else f"/{seed}"

    def split_of(patient: int) -> NoteSplit:
        place = text_hash(f"{database}/{patient}{suffix}")
        return "test" if place < _TEST * 2**64 else "validation" if place < _HELD_OUT * 2**64 else "train"

    return split_of
