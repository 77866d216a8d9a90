"""Compiled layers, recomputed activations and flex attention on real ranks: the same losses, and equal when resumed."""

import math
from pathlib import Path
from typing import Any

import pytest

from launcher.run.ledger import read_json_lines
from launcher.run.paths import FINISHED, RunDir
from tests.support.cheap_compiling import RUN, TRACED, UNFUSED_FLEX
from tests.support.training_runs import losses, make_run, start, stop_at, train

pytestmark = pytest.mark.slow

STEPS = 6
LORA = {"method": "lora", "r": 8, "targets": "all-linear"}
STRATEGIES = {"ddp": (2, 1), "hybrid_shard": (4, 2)}
"""Ranks and nodes."""
INDUCTOR = "import sys\nimport jobs.__main__ as task\n"
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": (INDUCTOR, {"activation_checkpointing": "full"}),
    "selective": (INDUCTOR, {"activation_checkpointing": "selective"}),
    "compiled": (INDUCTOR, {"compile": True}),
    "compiled, selective": (INDUCTOR, {"compile": True, "activation_checkpointing": "selective"}),
    "flex": (UNFUSED_FLEX, {"attention": "flex"}),
    "flex, selective": (UNFUSED_FLEX, {"attention": "flex", "activation_checkpointing": "selective"}),
    "flex, traced": (
        TRACED + UNFUSED_FLEX.replace('"force_eager"', '"default", force_backend="eager"'),
        {"attention": "flex", "compile": True},
    ),
}


def run_of(folder: Path, strategy: str, model: dict[str, Any], **changes: Any) -> RunDir:
    sections = {
        "model": {"path": "stories260k", **model},
        "parallel": {"strategy": strategy},
        "schedule": {"length": f"{STEPS} steps", "warmup": "1 steps"},
        "batch": {"micro_batch": 1},
        "evaluation": None,
    }
    return make_run(folder, **sections | changes)


def finish(run: RunDir, strategy: str, preamble: str, attempt: int = 0) -> None:
    ranks, nodes = STRATEGIES[strategy]
    done = start(run, ranks, nodes, attempt, program=("-c", preamble + RUN))
    assert done.wait() == [FINISHED] * ranks, done.log()


def preempted(folder: Path, strategy: str, preamble: str, model: dict[str, Any], **changes: Any) -> RunDir:
    """Stopped after three of the steps, and resumed."""
    run = run_of(folder, strategy, model, **changes)
    stop_at(run, 3, *STRATEGIES[strategy], preamble=preamble)
    finish(run, strategy, preamble, attempt=1)
    return run


def are_close(one: RunDir, other: RunDir) -> bool:
    first, second = losses(one), losses(other)
    assert first.keys() == second.keys() == set(range(1, STEPS + 1))
    return all(math.isclose(first[step], second[step], rel_tol=1e-6) for step in first)


def test_compiled_and_partly_recomputed_layers_under_hybrid_shard_change_no_loss(tmp_path: Path) -> None:
    """For the gate, without inductor: an uninterrupted run as it always was, and one with both that is preempted."""
    plain = run_of(tmp_path, "hybrid_shard", {})
    assert train(plain, *STRATEGIES["hybrid_shard"]).exit_codes == [FINISHED] * 4

    run = preempted(tmp_path, "hybrid_shard", TRACED, {"compile": True, "activation_checkpointing": "selective"})

    assert are_close(run, plain)
    rows = read_json_lines(run.metrics)
    assert {row["graph_breaks"] for row in rows} == {0}
    assert {row["compiled_graphs"] for row in rows} <= {1, 2}  # a row of a single document needs no mask
    assert "step 1  compiled: 1 graph, 0 graph breaks" in run.rank_log(0, 0).read_text()


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("way", WAYS)
def test_losses_are_those_of_a_plain_run_and_equal_to_the_last_bit_when_resumed(
    tmp_path: Path, strategy: str, way: str
) -> None:
    preamble, model = WAYS[way]
    plain, uninterrupted = run_of(tmp_path, strategy, {}), run_of(tmp_path, strategy, model)
    finish(plain, strategy, INDUCTOR)
    finish(uninterrupted, strategy, preamble)

    run = preempted(tmp_path, strategy, preamble, model)

    assert losses(run) == losses(uninterrupted)
    assert are_close(run, plain)


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("model", [{"compile": True}, {"compile": True, "activation_checkpointing": "selective"}])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_an_adapter_in_compiled_layers_resumes_equal(
    tmp_path: Path, strategy: str, model: dict[str, Any], dropout: float
) -> None:
    """With dropout other random numbers are drawn than without compiling, but the same ones when resumed."""
    adapter = {"adapter": {**LORA, "dropout": dropout}}
    uninterrupted = run_of(tmp_path, strategy, model, **adapter)
    finish(uninterrupted, strategy, INDUCTOR)

    run = preempted(tmp_path, strategy, INDUCTOR, model, **adapter)

    assert losses(run) == losses(uninterrupted)
    if not dropout:
        plain = run_of(tmp_path, strategy, {}, **adapter)
        finish(plain, strategy, INDUCTOR)
        assert are_close(run, plain)


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_dropout_is_the_same_whether_layers_are_recomputed_or_not(tmp_path: Path, strategy: str) -> None:
    adapter = {"adapter": {**LORA, "dropout": 0.3}}
    runs = [run_of(tmp_path, strategy, {"activation_checkpointing": how}, **adapter) for how in ("none", "full")]
    for run in runs:
        finish(run, strategy, INDUCTOR)

    assert losses(runs[0]) == losses(runs[1])
