"""Where an attempt starts, and that it is refused where epochs have another length than its checkpoint knows."""

from pathlib import Path
from typing import cast

import pytest
import torch

from jobs.rank.process_group import RankGroup
from jobs.train.checkpoint import CheckpointStore
from jobs.train.resume import resume_from
from launcher.errors import LauncherError
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.run.contents import Content
from launcher.run.identity import RunIdentity
from launcher.run.ledger import append_event, read_attempts
from launcher.run.paths import RunDir
from tests.support.training_runs import context_of, make_run

ALONE = RankGroup(rank=0, world_size=1, leads_node=True, device=torch.device("cpu"), control=None)


def interrupted(folder: Path, length: str) -> RunDir:
    """A run whose first attempt had 100 steps to do, and saved its fifth."""
    run = make_run(folder, schedule={"length": length})
    append_event(run.ledger, 0, first_step=0, total_steps=100)
    store = CheckpointStore(run, ALONE, 3, [])
    folder = store.open_staging("checkpoint-5")
    (folder / "weights.bin").write_bytes(b"w")
    store.publish(folder, 5)
    return run


def resumed(run: RunDir, steps: int) -> int | None:
    """Resume it as its second attempt, when so many steps come of its data."""
    context = context_of(run)
    object.__setattr__(context, "attempt", 1)
    return resume_from(context, cast(TrainingRecipe, context.recipe), CheckpointStore(run, ALONE, 3, []), steps)


def test_a_run_resumes_and_notes_from_where(tmp_path: Path) -> None:
    run = interrupted(tmp_path, "2 epochs")

    assert resumed(run, 100) == 5
    assert [(one.first_step, one.total_steps) for one in read_attempts(run.ledger)] == [(0, 100), (5, 100)]


def test_data_that_has_grown_is_not_trained_on_from_an_old_checkpoint(tmp_path: Path) -> None:
    run = interrupted(tmp_path, "2 epochs")
    for known in ("before", "after"):
        RunIdentity("ab", (("data.corpora.0.name", Content(known)), ("model.path", Content("same")))).write(
            run.identity
        )

    with pytest.raises(LauncherError) as refused:
        resumed(run, 120)

    said = str(refused.value)
    assert said.startswith("schedule.length: `2 epochs` was 100 steps in the attempt before and is 120 now: ")
    assert "has changed (`data.corpora.0.name`), and" in said
    assert read_attempts(run.ledger)[-1].total_steps == 100, "it is refused again until the data is back"


def test_a_length_that_does_not_come_from_the_data_may_differ(tmp_path: Path) -> None:
    assert resumed(interrupted(tmp_path, "100 steps"), 120) == 5


def test_from_scratch_the_data_of_today_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path, schedule={"length": "2 epochs"})
    append_event(run.ledger, 0, first_step=0, total_steps=100)

    assert resumed(run, 120) is None
