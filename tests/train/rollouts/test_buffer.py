"""A rollout in a checkpoint: as it was on the same ranks, and shared out anew on others."""

from pathlib import Path

import pytest
import torch

from jobs.train.rollouts.buffer import MicroBatch, Rollout, load_rollout, save_rollout
from launcher.errors import LauncherError

CPU = torch.device("cpu")
STEPS = 3


def micro_batch(first: int, size: int, width: int) -> MicroBatch:
    """Completions that are told apart by their numbers."""
    numbers = torch.arange(first, first + size)
    return {"number": numbers, "ids": numbers[:, None].expand(size, width), "tokens": torch.tensor(7.0), "none": None}


def save(folder: Path, ranks: int, accumulation: int, size: int) -> dict[int, set[int]]:
    """Save a rollout of several ranks; return the completions of each step."""
    steps: dict[int, set[int]] = {step: set() for step in range(STEPS)}
    for rank in range(ranks):
        batches = []
        for step in range(STEPS):
            for turn in range(accumulation):
                first = 100 * step + (turn * ranks + rank) * size
                batches.append(micro_batch(first, size, 4 + rank))
                steps[step] |= set(range(first, first + size))
        save_rollout(folder, rank, accumulation, Rollout(batches, {"step": 2, "kl_weight": 0.1 + 0.2}))
    return steps


def test_the_same_ranks_get_back_what_they_saved(tmp_path: Path) -> None:
    save(tmp_path, ranks=2, accumulation=2, size=2)

    found = load_rollout(tmp_path, 1, 2, 2, 2, CPU)

    assert found.numbers == {"step": 2, "kl_weight": 0.1 + 0.2}, "to the last bit"
    assert len(found.batches) == STEPS * 2
    for place, batch in enumerate(found.batches):
        expected = micro_batch(100 * (place // 2) + (place % 2 * 2 + 1) * 2, 2, 5)
        assert batch.keys() == expected.keys()
        for name, tensor in expected.items():
            assert (batch[name] is None) if tensor is None else torch.equal(batch[name], tensor)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, 2, 2), (1, 4, 2)),
        ((2, 2, 2), (4, 1, 2)),
        ((1, 4, 2), (2, 2, 2)),
        ((2, 2, 2), (2, 4, 1)),
        ((2, 1, 4), (8, 1, 1)),
        ((4, 2, 1), (2, 4, 1)),
    ],
)
def test_other_ranks_train_on_the_same_completions_in_each_step(
    tmp_path: Path, before: tuple[int, int, int], after: tuple[int, int, int]
) -> None:
    expected = save(tmp_path, *before)
    ranks, accumulation, size = after

    found: dict[int, list[int]] = {step: [] for step in range(STEPS)}
    for rank in range(ranks):
        batches = load_rollout(tmp_path, rank, ranks, accumulation, size, CPU).batches
        assert len(batches) == STEPS * accumulation
        for place, batch in enumerate(batches):
            numbers = batch["number"]
            assert numbers is not None and len(numbers) == size and batch["tokens"] == 7
            found[place // accumulation] += numbers.tolist()

    assert {step: sorted(numbers) for step, numbers in found.items()} == {
        step: sorted(numbers) for step, numbers in expected.items()
    }


def test_larger_micro_batches_are_refused_inside_of_a_rollout(tmp_path: Path) -> None:
    save(tmp_path, ranks=4, accumulation=1, size=1)

    with pytest.raises(LauncherError, match=r"batch\.micro_batch: .* write `1`"):
        load_rollout(tmp_path, 0, 2, 1, 2, CPU)


def test_between_two_rollouts_there_is_nothing_to_share_out(tmp_path: Path) -> None:
    for rank in range(2):
        save_rollout(tmp_path, rank, 1, Rollout([], {"step": 4}))

    assert load_rollout(tmp_path, 0, 1, 4, 8, CPU) == Rollout([], {"step": 4})
