"""Reinforcement learning resumes to the last bit, from a checkpoint of any step of two epochs, on two real ranks."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.run.ledger import read_json_lines
from launcher.run.paths import FINISHED, RunDir, published_steps
from tests.support.rl_runs import make_rl
from tests.support.training_runs import ASSETS, free_port, start, train

pytestmark = pytest.mark.slow

RESUMES = """
import os, sys
from pathlib import Path
from accelerate.state import AcceleratorState, GradientState
from jobs.kinds import rl
from jobs.rank.context import load_context
from jobs.rank.ranks import ranks_from
from launcher.run.paths import RunDir
for name, port in {runs}.items():
    os.environ["MASTER_PORT"] = str(port)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    rl.main(load_context(RunDir(Path(sys.argv[1]) / name), 1, ranks_from(os.environ)))
"""
_OF_THE_MACHINE = ("time", "attempt", "tokens_per_second", "mfu", "memory_gib", "slowest_rank", "slowest_speed")

MOVING = {"steps": 2, "share": 0.5}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rloo, reference moves, rollouts are used twice": (
        {"name": "rloo", "iterations": 2, "sync": MOVING},
        {"batch": {"global_batch": "4 sequences", "micro_batch": 1}},
    ),
    "grpo, reference moves, rollouts are divided and used twice": (
        {"name": "grpo", "generations": 2, "iterations": 2, "minibatches": 2, "kl_weight": 0.1, "sync": MOVING},
        {"batch": {"global_batch": "4 sequences", "micro_batch": 2}},
    ),
    "ppo, rollouts are divided and used twice": (
        {"name": "ppo", "iterations": 2, "minibatches": 2},
        {"batch": {"global_batch": "2 sequences", "micro_batch": 1}},
    ),
    "rloo of an adapter, rollouts are used twice": (
        {"name": "rloo", "iterations": 2, "kl_weight": 0.5},
        {"batch": {"global_batch": "4 sequences", "micro_batch": 2}, "adapter": {"method": "lora", "r": 2}},
    ),
    "ppo of an adapter, rollouts that end early": (
        {"name": "ppo", "iterations": 4, "target_kl": 0.01},
        {"batch": {"global_batch": "4 sequences", "micro_batch": 2}, "adapter": {"method": "lora", "r": 2}},
    ),
}


def rows(run: RunDir) -> dict[int, dict[str, Any]]:
    """All that was logged of each step, but what depends on the machine."""
    found = read_json_lines(run.metrics)
    return {row["step"]: {name: row[name] for name in row if name not in _OF_THE_MACHINE} for row in found}


def four_questions(folder: Path) -> None:
    records = json.loads(gzip.decompress((ASSETS / "medquad_80.json.gz").read_bytes()))
    (folder / "medquad_80.json.gz").write_bytes(gzip.compress(json.dumps(records[:4]).encode()))


def uninterrupted(folder: Path, algorithm: dict[str, Any], changes: dict[str, Any]) -> RunDir:
    """A run of two epochs that kept a checkpoint of each step."""
    four_questions(folder)
    often = {"checkpoint": {"interval": "1 step", "keep": 100}, "schedule": {"length": "2 epochs"}}
    run = make_rl(folder, algorithm, **often, **changes)
    attempt = train(run, ranks=2)
    assert attempt.exit_codes == [FINISHED] * 2, attempt.log()
    return run


def resumed(run: RunDir, steps: list[int], ranks: int = 2) -> dict[int, RunDir]:
    """Resume copies of a run, each from one of its checkpoints, in the same processes one after the other."""
    copies = {step: RunDir(run.root / f"from-{step}") for step in steps}
    for step, copy in copies.items():
        copy.checkpoints.mkdir(parents=True)
        shutil.copytree(run.checkpoint(step), copy.checkpoint(step))
        shutil.copytree(run.examples, copy.examples)
        for file in (run.recipe, run.record):
            shutil.copy(file, copy.root)
    ports = {copy.root.name: free_port() for copy in copies.values()}
    attempt = start(run, ranks, attempt=1, program=("-c", RESUMES.format(runs=ports)))
    assert attempt.wait() == [FINISHED] * ranks, attempt.log()
    return copies


REPEATED = ("rloo of an adapter, rollouts are used twice",)
"""For `make long`: an adapter is resumed with PPO as well, whose value head and reference come on top."""


@pytest.mark.parametrize("case", [pytest.param(one, marks=[pytest.mark.long] * (one in REPEATED)) for one in CASES])
def test_a_run_resumed_from_any_step_goes_on_as_if_it_was_never_interrupted(tmp_path: Path, case: str) -> None:
    algorithm, changes = CASES[case]
    run = uninterrupted(tmp_path, algorithm, changes)
    expected = rows(run)
    steps = published_steps(run)
    assert steps == list(expected) and len(steps) == 8

    saves = steps[:-1] if "adapter" not in changes else steps[:-1:3]
    for step, copy in resumed(run, saves).items():
        assert rows(copy) == {number: row for number, row in expected.items() if number > step}, step
    names = {name for row in expected.values() for name in row}
    assert {"loss", "reward", "kl", "grad_norm"} <= names


@pytest.mark.parametrize(
    "case",
    [pytest.param(one, marks=[pytest.mark.long] * ("grpo" in one)) for one in CASES if "divided" in one],
)
def test_another_number_of_ranks_goes_on_with_the_same_rollout(tmp_path: Path, case: str) -> None:
    algorithm, changes = CASES[case]
    run = uninterrupted(tmp_path, algorithm, changes)

    copies = resumed(run, [1, 4], ranks=1)

    expected, inside, after = (rows(one) for one in (run, copies[1], copies[4]))
    assert sorted(inside) == [2, 3, 4, 5, 6, 7, 8] and sorted(after) == [5, 6, 7, 8]
    for step in (2, 3, 4):  # of the rollout that was sampled in step 1
        for name in ("loss", "entropy", "grad_norm"):
            assert inside[step][name] == pytest.approx(expected[step][name], abs=2e-5), (step, name)
