"""A generation in several array elements, whose processes are killed at random places, writes the same bytes."""

import json
import random
import signal

import pytest

from launcher.run.paths import FINISHED, RunDir
from launcher.run.record import CorpusShare, RunRecord
from tests.support.generation_runs import generate_recipe, write_prompts
from tests.support.training_runs import Attempt, make_run_of, start, train
from tests.support.waiting import wait_for

SAMPLED = {"max_new_tokens": 24, "temperature": 0.8, "top_p": 0.95}
PROMPTS = 40


def make_runs(folder, elements):
    """The run that joins the texts, and those of the array elements that work for it."""
    folder.mkdir()
    write_prompts(folder, PROMPTS)
    run = make_run_of(generate_recipe(decoding=SAMPLED, tokens_per_batch=200), folder)
    record = json.loads(run.record.read_text())
    shares = []
    for index in range(elements if elements > 1 else 0):
        share = run.share(index)
        share.root.mkdir(parents=True)
        share.recipe.write_text(run.recipe.read_text())
        RunRecord(**record | {"id": share.root.name, "share": CorpusShare(index, elements)}).write(share.record)
        shares.append(share)
    return run, shares


def finished_batches(run):
    return len(list(run.batches.glob("*/*.jsonl")))


def kill_somewhere(run: RunDir, worker: RunDir, attempt: int, ranks: int, chance: random.Random) -> None:
    """Kill an attempt once some more batches are there, or a moment later; it may end before that."""
    begun: Attempt = start(worker, ranks, attempt=attempt)
    enough = finished_batches(run) + chance.randrange(3)
    over = lambda: finished_batches(run) >= enough or begun.processes[0].poll() is not None  # noqa: E731
    wait_for(lambda: worker.heartbeat(attempt).exists() or begun.processes[0].poll() is not None, "a heartbeat")
    wait_for(over, f"{enough} batches")
    for _ in range(chance.randrange(20_000)):
        pass  # some milliseconds of work, not a wait
    begun.kill()
    assert all(code in (FINISHED, -signal.SIGKILL) for code in begun.wait())


def killed(folder, elements, kills, seed):
    """Generate with so many kills; return the texts, and how many batches were there when the last attempts began."""
    chance = random.Random(seed)
    run, shares = make_runs(folder, elements)
    attempts = dict.fromkeys([run, *shares], 0)
    for _ in range(kills):
        worker = chance.choice(shares or [run])
        kill_somewhere(run, worker, attempts[worker], chance.choice((1, 2)), chance)
        attempts[worker] += 1
    left = finished_batches(run)
    for worker in [*shares, run]:
        assert train(worker, chance.choice((1, 2)), attempt=attempts[worker]).exit_codes[0] == FINISHED
    return (run.outputs / "generations.jsonl").read_bytes(), left


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The texts of one process that nobody kills."""
    run, _ = make_runs(tmp_path_factory.mktemp("whole") / "run", 1)
    assert train(run).exit_codes == [FINISHED]
    return (run.outputs / "generations.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("elements", "kills"), [(1, 2), (3, 2)])
def test_killed_anywhere_the_texts_are_the_same(tmp_path, expected, elements, kills):
    found, left = killed(tmp_path / "killed", elements, kills, seed=elements)

    assert found == expected
    assert left > 0


@pytest.mark.long
@pytest.mark.parametrize("elements", [1, 4, 16])
def test_twenty_kills_change_no_byte(tmp_path, expected, elements):
    found, _ = killed(tmp_path / "killed", elements, 20, seed=elements)

    assert found == expected
