"""A curriculum in real trainings: stages begin where they should, interrupted or not, on any number of ranks."""

import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launcher.run.ledger import read_json_lines
from launcher.run.paths import FINISHED, RunDir, published_steps
from tests.support.corpora import make_corpus
from tests.support.training_runs import kill_at, losses, make_run, preempt_at, train, words

pytestmark = pytest.mark.slow

FIRST, SECOND, STEPS = 7, 13, 20
"""Where the first two stages end, and the training."""
CORPORA = [{"name": "words"}, {"name": "numbers"}]
STAGES = [
    {"until": f"{FIRST} steps", "weights": {"words": 1}},
    {"until": f"{SECOND} steps", "weights": {"words": 1, "numbers": 3}},
    {"weights": {"numbers": 1}},
]
CHANGES = {"data": {"corpora": CORPORA, "stages": STAGES}, "checkpoint": {"interval": "5 steps", "keep": 4}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curriculum")
    make_corpus(folder / "corpora" / "words", [words(400)])
    numbers = [[500 - (start * 11 + 3 * place) % 450 for place in range(9 + start % 50)] + [2] for start in range(400)]
    make_corpus(folder / "corpora" / "numbers", [numbers])
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> RunDir:
    """A run of two ranks that nobody interrupted."""
    run = make_run(folder, **CHANGES)
    assert train(run, ranks=2).exit_codes == [FINISHED] * 2
    return run


def exported(run: RunDir) -> dict[str, torch.Tensor]:
    return load_file(run.outputs / "model" / "model.safetensors")


def seen(run: RunDir, first: int, last: int) -> list[float]:
    return [losses(run)[step] for step in range(first, last + 1)]


def test_each_stage_reads_what_it_says(folder: Path, whole: RunDir) -> None:
    of_words_only = make_run(folder, checkpoint={"interval": "30min"})
    assert train(of_words_only, ranks=2).exit_codes == [FINISHED] * 2

    assert seen(whole, 1, FIRST) == seen(of_words_only, 1, FIRST)
    assert losses(whole)[FIRST + 1] != losses(of_words_only)[FIRST + 1]
    assert "numbers" in (whole.rank_log(0, 0)).read_text()


def test_a_run_that_is_interrupted_around_the_boundaries_equals_the_whole_one_to_the_last_bit(
    folder: Path, whole: RunDir
) -> None:
    run = make_run(folder, **CHANGES)
    dice = random.Random(os.getpid())  # other moments in every test run

    preempted = preempt_at(run, FIRST - 2 + dice.randrange(2), ranks=2, rank=0)
    boundary = max(SECOND - 2, preempted.steps()[-1] + 1)
    killed = kill_at(run, boundary + dice.randrange(3), ranks=2, attempt=1)
    last = train(run, ranks=2, attempt=2)

    assert last.exit_codes == [FINISHED] * 2
    assert last.steps()[0] <= killed.steps()[-1] + 1
    assert losses(run) == losses(whole)
    assert all(torch.equal(tensor, exported(whole)[name]) for name, tensor in exported(run).items())


@pytest.mark.parametrize("ranks", [1, 4])
def test_on_other_ranks_the_data_comes_in_the_same_order(folder: Path, whole: RunDir, ranks: int) -> None:
    run = RunDir(folder / f"run-{len(list(folder.glob('run-*')))}")
    shutil.copytree(whole.root, run.root)
    shutil.rmtree(run.outputs)
    run.ledger.unlink()
    for step in published_steps(run)[1:]:
        shutil.rmtree(run.checkpoint(step))

    attempt = train(run, ranks=ranks, attempt=1)

    assert attempt.exit_codes == [FINISHED] * ranks, attempt.log()
    assert attempt.steps() == list(range(6, STEPS + 1)), "both boundaries are crossed"
    assert seen(run, 1, STEPS) == pytest.approx(seen(whole, 1, STEPS), abs=1e-5)
    assert {row["attempt"] for row in read_json_lines(run.metrics)} == {0, 1}
