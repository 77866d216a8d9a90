"""Best fit decreasing, against a plain program and TRL's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data.chat.packing import best_fit_decreasing

lengths = st.lists(st.integers(1, 20), max_size=60)


def plain_best_fit(lengths, capacity):
    packs = []
    for example in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [pack for pack in packs if sum(lengths[i] for i in pack) + lengths[example] <= capacity]
        if fitting:
            max(fitting, key=lambda pack: sum(lengths[i] for i in pack)).append(example)
        else:
            packs.append([example])
    return packs


def rooms(packs, lengths):
    return sorted(sum(lengths[i] for i in pack) for pack in packs)


@settings(max_examples=200)
@given(lengths=lengths, capacity=st.integers(20, 40))
def test_packs_are_those_of_a_plain_program(lengths, capacity):
    packs = best_fit_decreasing(lengths, capacity)

    assert sorted(example for pack in packs for example in pack) == list(range(len(lengths)))
    assert rooms(packs, lengths) == rooms(plain_best_fit(lengths, capacity), lengths)


@settings(max_examples=20)
@given(lengths=lengths.filter(bool), capacity=st.integers(20, 40))
def test_packs_are_as_full_as_trls(lengths, capacity):
    from datasets import Dataset, disable_progress_bars
    from trl import pack_dataset

    disable_progress_bars()
    examples = Dataset.from_dict({"input_ids": [[number] * length for number, length in enumerate(lengths)]})
    theirs = pack_dataset(examples, capacity, "bfd")["input_ids"]

    assert rooms(best_fit_decreasing(lengths, capacity), lengths) == sorted(map(len, theirs))


def test_real_lengths_leave_little_room():
    drawn = np.random.default_rng(0).lognormal(5, 1, 20_000).clip(1, 2048).astype(int)

    packs = best_fit_decreasing(drawn, 2048)

    assert len(packs) == pytest.approx(drawn.sum() / 2048, rel=0.001)
    assert packs == best_fit_decreasing(drawn, 2048)
