"""What only a GPU can show: `make gpu`. One is enough; with two, ranks talk over NCCL for real."""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu.assets import write_model
from bench.gpu.our_job import start_ranks
from bench.gpu.trainings import TINY, computes_bf16
from jobs.rank.gpu_checks import gpu_faults
from launcher.cluster import Cluster
from launcher.recipe import read_recipe
from launcher.run.ledger import read_attempts, read_json_lines
from launcher.run.paths import FINISHED, RunDir, published_steps
from tests.batch.test_out_of_memory import carry_out
from tests.support.corpora import make_corpus
from tests.support.counting_runs import PROJECT, summary, write_run
from tests.support.memory_limits import make_limited_model
from tests.support.training_runs import Attempt, context_of, cpt_recipe, losses, make_run, words
from tests.support.waiting import wait_for

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0
RANKS = max(1, min(2, GPUS))
STEPS = 10
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(GPUS == 0, reason="torch sees no GPU on this machine")]


def gpu_run(folder: Path, ranks: int = RANKS, **changes: Any) -> RunDir:
    """Make a run on this machine's GPUs."""
    sections = {"schedule": {"length": f"{STEPS} steps", "warmup": "2 steps"}, "precision": {"dtype": "bf16"}} | changes
    if sections["precision"]["dtype"] == "bf16" and not computes_bf16():
        pytest.skip("this GPU does not compute in bf16")
    return make_run(folder, "cuda", resources={"gpus_per_node": ranks}, **sections)


def train(run: RunDir, ranks: int = RANKS, attempt: int = 0) -> Attempt:
    """Run an attempt to its end, each rank a process of its own: CUDA works in none that is forked from another."""
    run.attempt_logs(attempt).mkdir(parents=True, exist_ok=True)
    started, running = Attempt(run, attempt), start_ranks(run, ranks, attempt)
    try:
        wait_for(lambda: has_ended(running), "the end of the ranks")
    finally:
        for rank in running:
            rank.kill()
    assert [rank.wait() for rank in running] == [FINISHED] * ranks, started.log()
    return started


def has_ended(ranks: Sequence["subprocess.Popen[bytes]"]) -> bool:
    """Tell whether all ranks have ended, or one has failed, which the others would wait for."""
    codes = [rank.poll() for rank in ranks]
    return None not in codes or any(code not in (None, FINISHED) for code in codes)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[int, float]]:
    """Losses of the training that others are compared with, in a strategy; each is made once."""

    @cache
    def train_plainly(strategy: str = "ddp", small_heads: bool = True) -> dict[int, float]:
        folder = tmp_path_factory.mktemp("plain")
        model = {} if small_heads else make_model_of_larger_heads(folder)
        run = gpu_run(folder, parallel={"strategy": strategy}, model=model)
        train(run)
        return losses(run)

    return train_plainly


def make_model_of_larger_heads(folder: Path) -> dict[str, Any]:
    """Write a model of random weights with heads of 16, which flex attention needs on a GPU; that of others has 8."""
    write_model(folder / "larger-heads", TINY["1B"], "cpu")
    return {"path": "./larger-heads"}


def test_the_preflight_counts_and_tries_the_gpus(tmp_path: Path) -> None:
    there, wanted = (
        context_of(gpu_run(tmp_path, ranks=ranks, batch={"global_batch": f"{2 * ranks} sequences"}))
        for ranks in (GPUS, GPUS + 1)
    )

    assert gpu_faults(there) == ([], [])
    assert gpu_faults(wanted) == ([f"{GPUS} of {GPUS + 1} GPUs are visible"], [])


@pytest.mark.parametrize("strategy", ["ddp", "full_shard"])
def test_bf16_and_tf32_learn_as_fp32_on_a_cpu_does(tmp_path: Path, strategy: str) -> None:
    schedule = {"length": f"{STEPS} steps", "warmup": "2 steps"}
    on_cpu = make_run(tmp_path, schedule=schedule, parallel={"strategy": "ddp"})
    train(on_cpu, ranks=1)

    for precision in ({"dtype": "bf16"}, {"dtype": "fp32", "tf32": True}):
        run = gpu_run(tmp_path, precision=precision, parallel={"strategy": strategy})
        train(run)

        assert losses(run) == pytest.approx(losses(on_cpu), rel=0.03), precision
        assert all(0 < row["memory_gib"] < 4 for row in read_json_lines(run.metrics))


def test_flash_attention_learns_as_sdpa_does(tmp_path: Path, plain: Callable[..., dict[int, float]]) -> None:
    pytest.importorskip("flash_attn")
    run = gpu_run(tmp_path, model={"attention": "flash"})
    train(run)

    assert losses(run) == pytest.approx(plain(), rel=0.02)


@pytest.mark.parametrize("model", [{}, {"compile": True}, {"activation_checkpointing": "selective"}])
def test_flex_attention_learns_as_sdpa_does(
    tmp_path: Path, model: dict[str, Any], plain: Callable[..., dict[int, float]]
) -> None:
    run = gpu_run(tmp_path, model={**make_model_of_larger_heads(tmp_path), **model, "attention": "flex"})
    train(run)

    assert losses(run) == pytest.approx(plain(small_heads=False), rel=0.02)


@pytest.mark.parametrize("strategy", ["ddp", "full_shard"])
@pytest.mark.parametrize("recomputing", ["none", "selective", "full"])
def test_compiled_layers_learn_as_others_do(
    tmp_path: Path, strategy: str, recomputing: str, plain: Callable[..., dict[int, float]]
) -> None:
    model = {"compile": True, "activation_checkpointing": recomputing}
    run = gpu_run(tmp_path, parallel={"strategy": strategy}, model=model)
    train(run)

    assert losses(run) == pytest.approx(plain(strategy), rel=0.02)
    assert {row["graph_breaks"] for row in read_json_lines(run.metrics)} == {0}


def test_the_scale_of_an_fp16_loss_is_resumed_to_the_last_bit(tmp_path: Path) -> None:
    # Only eager attention adds up in the same order each time.
    run = gpu_run(tmp_path, ranks=1, precision={"dtype": "fp16"}, model={"attention": "eager"}, checkpoint={"keep": 4})
    train(run, ranks=1)
    whole, scale = losses(run), torch.load(run.checkpoint(STEPS) / "scaler.pt")
    shutil.rmtree(run.checkpoint(STEPS))
    shutil.rmtree(run.outputs)
    run.ledger.unlink()

    again = train(run, ranks=1, attempt=1)

    assert again.steps()[0] == 6
    assert published_steps(run) == [5, STEPS]
    assert torch.load(run.checkpoint(STEPS) / "scaler.pt") == scale
    assert losses(run) == whole


def test_a_micro_batch_that_cuda_has_no_room_for_is_halved(
    tmp_path: Path, make_cluster: Callable[..., Cluster]
) -> None:
    make_corpus(tmp_path / "corpora" / "words", [words(400)])
    make_limited_model(tmp_path / "models" / "limited", limit=300_000_000)
    sections = cpt_recipe(
        model={"path": "limited", "trust_remote_code": True},
        batch={"global_batch": "64 sequences", "micro_batch": 64, "sequence_length": 512},  # about 13 MB a sequence
        schedule={"length": "3 steps"},
        resources={"gpus_per_node": 1},
    )
    recipe = read_recipe(json.dumps(sections))
    run = RunDir(tmp_path / "run")
    write_run(run, recipe.model_dump(mode="json"), make_cluster(executor="local", gpus={"device": "cuda"}))
    run.code.symlink_to(PROJECT)

    code, said = carry_out(run)

    assert code == FINISHED, said
    assert (summary(run)[0], summary(run)[-1]) == (("does_not_fit", "restart"), ("finished", "done"))
    assert read_attempts(run.ledger)[-1].micro_batch in (1, 2, 4, 8, 16, 32)
    assert "a micro batch of 64 does not fit: CUDA out of memory" in run.rank_log(0, 0).read_text()


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_an_adapter_beside_nf4_weights_learns(tmp_path: Path) -> None:
    adapter = {"method": "lora", "r": 8, "alpha": 16, "targets": ["q_proj", "v_proj"]}
    run = gpu_run(tmp_path, model={"quantization": {"bits": 4}}, adapter=adapter, optim={"lr": 1e-2})
    train(run)

    assert losses(run)[STEPS] < losses(run)[1]
    assert (run.outputs / "model" / "adapter_model.safetensors").exists()
