"""Alignment on two real ranks, preempted at every step in turn: nothing tells it from a whole run.

Each attempt does one step, and hears of a preemption by a signal to one of its ranks.
tests/slurm/test_preempted_often.py does the same on a real Slurm.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launcher.run.ledger import read_json_lines
from launcher.run.paths import CONTINUE, FINISHED, RunDir, published_steps
from tests.support.preference_runs import make_preference_run, write_pairs
from tests.support.rl_runs import make_rl
from tests.support.training_runs import start, train
from tests.train.test_rl_resume import MOVING, four_questions, rows

pytestmark = pytest.mark.long

PREEMPTED = """
import os, runpy, signal
from jobs.train import stop_callback as control
agree = control.StepControl.on_step_end
def preempt(self, args, state, control, **others):
    if state.global_step == {step} and os.environ["RANK"] == "{rank}":
        signal.raise_signal(signal.{signal})
    agree(self, args, state, control, **others)
control.StepControl.on_step_end = preempt
runpy.run_module("jobs", run_name="__main__", alter_sys=True)
"""
SIGNALS = ("SIGTERM", "SIGUSR2", "SIGUSR1")
RANKS = 2
PAIRS: dict[str, dict[str, Any]] = {
    "reward": {"kind": "reward", "center": 0.01},
    "reward, lora": {"kind": "reward", "adapter": {"method": "lora", "r": 2}},
    "dpo, reference moves": {"kind": "dpo", "reference": {"sync": MOVING}},
    "dpo, reference computed before": {"kind": "dpo", "reference": {"precompute": True}},
    "dpo, lora": {"kind": "dpo", "dropout": True, "adapter": {"method": "lora", "r": 2, "dropout": 0.1}},
    "kto, reference moves": {"kind": "dpo", "loss": "kto", "reference": {"sync": MOVING}},
    "orpo": {"kind": "dpo", "loss": "orpo"},
}
GRPO = {"name": "grpo", "generations": 2, "iterations": 2, "kl_weight": 0.1}
TWO = {"batch": {"global_batch": "2 sequences", "micro_batch": 1}}
LORA = {"adapter": {"method": "lora", "r": 2}}
ALGORITHMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rloo, reference moves": ({"name": "rloo", "iterations": 2, "sync": MOVING}, {}),
    "rloo, lora": ({"name": "rloo", "iterations": 2, "kl_weight": 0.5}, LORA),
    "grpo, reference moves": (GRPO | {"sync": MOVING}, {}),
    "grpo, minibatches, lora": (GRPO | {"minibatches": 2}, LORA),
    "ppo": ({"name": "ppo", "iterations": 2}, TWO),
    "ppo, minibatches, lora": ({"name": "ppo", "iterations": 2, "minibatches": 2}, LORA | TWO),
}


def pairs(folder: Path, case: str) -> RunDir:
    """Five steps of 4 pairs, of which there are 11: an epoch ends at the third step."""
    write_pairs(folder, 12)
    return make_preference_run(
        folder, schedule={"length": "5 steps", "warmup": "1 steps"}, evaluation={"interval": "2 steps"}, **PAIRS[case]
    )


def questions(folder: Path, case: str) -> RunDir:
    """Two epochs of 4 questions, whose rollouts are trained on more than once."""
    four_questions(folder)
    algorithm, changes = ALGORITHMS[case]
    sizes = {"batch": {"global_batch": "4 sequences", "micro_batch": 1}, "schedule": {"length": "2 epochs"}}
    return make_rl(folder, algorithm, checkpoint={"interval": "100 steps"}, **{**sizes, **changes})


@pytest.mark.parametrize(
    ("make", "case"), [*((pairs, one) for one in PAIRS), *((questions, one) for one in ALGORITHMS)]
)
def test_a_run_that_is_preempted_at_each_step_in_turn_is_the_whole_one(
    tmp_path: Path, make: Callable[[Path, str], RunDir], case: str
) -> None:
    whole = make(tmp_path, case)
    finished(whole)
    steps = [*rows(whole)]
    assert steps in ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7, 8])
    run = make(tmp_path, case)

    for step in steps[:-1]:
        preempted_at(run, step)
        assert published_steps(run)[-1] == step
    last = finished(run, attempt=len(steps) - 1)

    assert last == steps[-1:]
    assert [row["step"] for row in read_json_lines(run.metrics)] == steps, "no step was done twice"
    assert rows(run) == rows(whole)
    assert evaluations(run) == evaluations(whole)
    assert scores(run) == scores(whole)
    for ours, theirs in zip(tensors(run), tensors(whole), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def preempted_at(run: RunDir, step: int) -> None:
    """Carry out the attempt that does one step, at whose end one of its ranks hears of a preemption."""
    signal = SIGNALS[step % len(SIGNALS)]
    program = PREEMPTED.format(step=step, rank=step % RANKS, signal=signal)
    attempt = start(run, RANKS, attempt=step - 1, program=("-c", program))
    assert attempt.wait() == [CONTINUE] * RANKS, attempt.log()
    assert attempt.steps() == [step]


def finished(run: RunDir, attempt: int = 0) -> list[int]:
    """Carry out the attempt that comes to the end, and return its steps."""
    last = train(run, RANKS, attempt=attempt)
    assert last.exit_codes == [FINISHED] * RANKS, last.log()
    return last.steps()


def evaluations(run: RunDir) -> dict[int, dict[str, Any]]:
    """What was evaluated, by step, without the time."""
    return {
        row["step"]: {name: row[name] for name in row if name not in ("time", "attempt")}
        for row in read_json_lines(run.evaluations)
    }


def scores(run: RunDir) -> Any:
    """The scores of the result, if there are any."""
    path = run.outputs / "scores.json"
    return json.loads(path.read_text())["splits"] if path.exists() else None


def tensors(run: RunDir) -> list[dict[str, torch.Tensor]]:
    """The exported weights and the last checkpoint's, with its reference, if it moves."""
    files = [
        *(run.outputs / "model").glob("*.safetensors"),
        *run.checkpoint(published_steps(run)[-1]).glob("*.safetensors"),
    ]
    return [load_file(file) for file in sorted(files, key=lambda one: (one.parent.name, one.name))]
