"""kind: cpt for real: processes, gloo, FSDP2 and DeepSpeed on CPUs, a real 260k-parameter Llama."""

import json
import os
import random
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.data.sampling.corpus_reader import open_corpus
from jobs.train.lr_schedule import lr_factor
from launcher.plan.memory import estimate_checkpoint
from launcher.plan.model_shape import read_shape
from launcher.recipe import CptRecipe
from launcher.run.ledger import read_attempts, read_json_lines
from launcher.run.paths import COMPLETE, CONTINUE, FINISHED, NEVER_RESTART, RunDir, published_steps
from tests.support.corpora import packed_samples
from tests.support.training_runs import (
    ASSETS,
    Attempt,
    cpt_recipe,
    kill_at,
    losses,
    make_run,
    preempt_at,
    start,
    stop_at,
    train,
)

pytestmark = pytest.mark.slow

STEPS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cpt")


@pytest.fixture(scope="module")
def alone(folder: Path) -> RunDir:
    """A finished run of one process."""
    run = make_run(folder, checkpoint={"keep": 4})
    assert train(run).exit_codes == [FINISHED]
    return run


def exported(run: RunDir) -> dict[str, torch.Tensor]:
    return load_file(run.outputs / "model" / "model.safetensors")


def bare_losses(run: RunDir, clip_norm: float | None) -> list[float]:
    """Losses of the first 10 steps in a loop of torch alone."""
    recipe = CptRecipe.model_validate_json(json.dumps(cpt_recipe()))
    corpus = open_corpus(run.root.parent / "corpora" / "words")
    samples = packed_samples([corpus], [1], 32, recipe.seed, STEPS * 8)
    torch.manual_seed(recipe.seed)
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k", dtype=torch.float32, use_cache=False)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)

    expected = []
    for step in range(10):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * lr_factor(step, recipe.schedule, STEPS)
        batch = [samples[index] for index in range(step * 8, step * 8 + 8)]
        ids, labels, positions = (
            torch.stack([s[key] for s in batch]) for key in ("input_ids", "labels", "position_ids")
        )
        logits = model(input_ids=ids, position_ids=positions).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    return expected


def first_losses(run: RunDir) -> list[float]:
    return [losses(run)[step] for step in range(1, 11)]


def test_losses_are_those_of_a_bare_torch_loop(alone: RunDir) -> None:
    expected = bare_losses(alone, clip_norm=1.0)

    assert first_losses(alone) == pytest.approx(expected, abs=1e-6 * expected[1])


def test_without_clipping_losses_are_those_of_a_loop_that_does_not_clip(folder: Path, alone: RunDir) -> None:
    run = make_run(folder, optim={"clip_norm": None})

    assert train(run).exit_codes == [FINISHED]

    expected = bare_losses(run, clip_norm=None)
    assert first_losses(run) == pytest.approx(expected, abs=1e-6 * expected[1])
    assert first_losses(run) != pytest.approx(first_losses(alone), abs=1e-4)
    assert all(row["grad_norm"] > 0 for row in read_json_lines(run.metrics))


def test_every_step_has_a_complete_row(alone: RunDir) -> None:
    rows = read_json_lines(alone.metrics)

    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert row["attempt"] == 0
        assert row["mfu"] is None
        assert row["grad_norm"] > 0
        assert row["tokens_per_second"] > 0
        assert row["memory_gib"] > 0
    assert rows[0]["lr"] == 0
    assert rows[2]["lr"] == 1e-3
    assert rows[-1]["lr"] == pytest.approx(1e-4, rel=0.1)
    assert any(row["loss"] != round(row["loss"], 6) for row in rows), "losses are not rounded"


def test_the_export_is_a_model_that_loads_and_is_the_trained_one(alone: RunDir) -> None:
    export = alone.outputs / "model"
    model = AutoModelForCausalLM.from_pretrained(export)
    manifest = json.loads((export / "manifest.json").read_text())

    assert model.config.use_cache is True
    assert AutoTokenizer.from_pretrained(export).vocab_size == 512
    assert (manifest["data_use"], manifest["steps"], manifest["base_model"]) == ("open", STEPS, "stories260k")
    trained = load_file(alone.checkpoint(STEPS) / "model.safetensors")
    assert all(torch.equal(tensor, trained[name]) for name, tensor in exported(alone).items())
    assert not list(export.glob("*.bin"))


def test_a_finished_run_does_nothing(alone: RunDir) -> None:
    before = (alone.metrics.read_text(), sorted(path for path in alone.checkpoints.rglob("*")))

    assert train(alone, attempt=1).exit_codes == [FINISHED]

    assert (alone.metrics.read_text(), sorted(path for path in alone.checkpoints.rglob("*"))) == before
    assert [attempt.reason for attempt in read_attempts(alone.ledger)] == ["finished", "finished"]


def test_a_finished_training_without_its_export_is_exported_and_not_trained_further(
    folder: Path, alone: RunDir
) -> None:
    weights = exported(alone)
    (alone.outputs / "model").rename(alone.outputs / "model-before")

    assert train(alone, attempt=2).exit_codes == [FINISHED]

    assert max(losses(alone)) == STEPS
    assert all(torch.equal(tensor, weights[name]) for name, tensor in exported(alone).items())


def continue_from(run: RunDir, folder: Path, step: int) -> RunDir:
    """A copy of a finished run, as if its last attempt had been killed when it had saved `step`."""
    copy = RunDir(folder / f"run-{len(list(folder.glob('run-*')))}")
    shutil.copytree(run.root, copy.root)
    shutil.rmtree(copy.outputs)
    copy.ledger.unlink()
    for later in published_steps(copy):
        if later > step:
            shutil.rmtree(copy.checkpoint(later))
    return copy


def test_damaged_checkpoints_are_named_and_passed_over(folder: Path, alone: RunDir) -> None:
    run = continue_from(alone, folder, STEPS)
    os.truncate(run.checkpoint(20) / COMPLETE, 100)
    weights = run.checkpoint(15) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    (run.checkpoint(10) / "optimizer.pt").unlink()

    attempt = train(run, attempt=1)

    assert attempt.exit_codes == [FINISHED]
    assert "step-00000020: COMPLETE is unreadable" in attempt.log()
    assert "step-00000015: model.safetensors has changed" in attempt.log()
    assert "step-00000010: optimizer.pt cannot be read" in attempt.log()
    assert "resumes from step 5" in attempt.log()
    assert attempt.steps() == list(range(6, 21))
    assert losses(run) == losses(alone)
    quarantined = sorted(path.name for path in (run.checkpoints / "quarantine").iterdir())
    assert quarantined == ["step-00000010", "step-00000015", "step-00000020"]


SHORT_OF_SPACE = """
import resource, sys
import jobs.__main__ as task
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
sys.exit(task.main())
"""


def test_a_save_that_fails_ends_the_attempt_and_harms_nothing(folder: Path, alone: RunDir) -> None:
    run = continue_from(alone, folder, step=10)

    attempt = start(run, attempt=1, program=("-c", SHORT_OF_SPACE))

    assert attempt.wait() == [1]
    assert "the checkpoint of step 15 was not saved; older checkpoints are unchanged" in attempt.log()
    assert published_steps(run) == [5, 10]
    assert not (run.checkpoints / ".staging").exists()


def test_a_stop_that_comes_before_training_leaves_no_trace(folder: Path) -> None:
    run = make_run(folder)
    run.stop_request.touch()

    assert train(run).exit_codes == [CONTINUE]

    assert published_steps(run) == []
    assert losses(run) == {}


def test_credentialed_data_is_not_trained_on_as_open(folder: Path, alone: RunDir) -> None:
    run = make_run(folder, data={"corpora": [{"name": "notes"}]})
    corpora = folder / "corpora"
    shutil.copytree(corpora / "words", corpora / "notes")
    manifest = json.loads((corpora / "notes" / "manifest.json").read_text())
    (corpora / "notes" / "manifest.json").write_text(json.dumps(manifest | {"data_use": "credentialed"}))

    attempt = train(run)

    assert attempt.exit_codes == [NEVER_RESTART]
    assert "holds credentialed data, but the recipe says `data_use: open`" in attempt.log()


def test_data_parallel_ranks_with_accumulation_train_as_one_process(folder: Path, alone: RunDir) -> None:
    run = make_run(folder)

    assert train(run, ranks=2).exit_codes == [FINISHED] * 2

    assert losses(run) == pytest.approx(losses(alone), abs=2e-6)


PROBE = """
import json, sys
from contextlib import nullcontext
import jobs.__main__ as task
from jobs.train import trainer
from torch.distributed.tensor import DTensor

if "--without-patch" in sys.argv:
    sys.argv.remove("--without-patch")
    trainer.prepared_as = nullcontext
prepare = trainer.GuardedTrainer._prepare_for_training
def spy(self, *arguments):
    prepared = prepare(self, *arguments)
    found = {(type(p).__name__, str(p.placements), str(tuple(p.device_mesh.shape))) for p in self.model.parameters()}
    print("FOUND", json.dumps(sorted(found)), flush=True)
    return prepared
trainer.GuardedTrainer._prepare_for_training = spy
"""


@pytest.fixture(scope="module")
def hybrid(folder: Path) -> Attempt:
    """An attempt of 4 ranks, on 2 nodes as they believe, that was stopped by a STOP file."""
    run = make_run(folder, parallel={"strategy": "hybrid_shard"}, batch={"micro_batch": 1})
    return stop_at(run, 3, ranks=4, nodes=2, preamble=PROBE)


def test_hybrid_shard_parameters_are_replicated_and_sharded(hybrid: Attempt) -> None:
    for rank in range(4):
        (found,) = [line for line in hybrid.log(rank).splitlines() if line.startswith("FOUND")]
        assert json.loads(found.removeprefix("FOUND")) == [["DTensor", "(Replicate(), Shard(dim=0))", "(2, 2)"]]


def test_hybrid_shard_on_two_nodes_goes_on_on_one(hybrid: Attempt, alone: RunDir) -> None:
    run = hybrid.run

    attempt = train(run, ranks=2, nodes=1, attempt=1)

    assert attempt.exit_codes == [FINISHED] * 2
    assert "which 4 ranks saved, on 2" in attempt.log()
    assert attempt.steps()[0] == hybrid.steps()[-1] + 1
    assert losses(run) == pytest.approx(losses(alone), abs=1e-5)
    assert exported(run).keys() == exported(alone).keys()
    assert all(torch.allclose(tensor, exported(alone)[name], atol=1e-4) for name, tensor in exported(run).items())


def test_training_refuses_to_go_on_if_accelerate_falls_back_to_ddp(folder: Path) -> None:
    run = make_run(folder, parallel={"strategy": "full_shard"})

    attempt = start(run, ranks=2, program=("-c", PROBE + "sys.exit(task.main())", "--without-patch"))

    assert 0 not in attempt.wait()
    assert "full_shard: 1 x 2 ranks is not in effect" in attempt.log(0) + attempt.log(1)
    assert "not a DTensor" in attempt.log(0) + attempt.log(1)
    assert losses(run) == {}


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_zero_trains_saves_on_request_and_resumes_to_the_last_bit(folder: Path, alone: RunDir, strategy: str) -> None:
    run = make_run(folder, parallel={"strategy": strategy}, checkpoint={"interval": "30min"})
    run.save_request.touch()
    assert train(run, ranks=2).exit_codes == [FINISHED] * 2
    assert published_steps(run) == [1, STEPS]

    again = continue_from(run, folder, step=1)
    attempt = train(again, ranks=2, attempt=1)

    assert attempt.exit_codes == [FINISHED] * 2
    assert attempt.steps()[0] == 2
    assert losses(again) == losses(run)
    assert losses(run) == pytest.approx(losses(alone), abs=1e-5)
    assert exported(run).keys() == exported(alone).keys()
    assert checkpoint_size(run) == pytest.approx(estimated_size(run), rel=0.05)


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> RunDir:
    """Two ranks, fully sharded."""
    run = make_run(folder, parallel={"strategy": "full_shard"})
    assert train(run, ranks=2).exit_codes == [FINISHED] * 2
    return run


def checkpoint_size(run: RunDir) -> int:
    manifest = json.loads((run.checkpoint(STEPS) / COMPLETE).read_text())
    return sum(size for size, _ in manifest["files"].values())


def estimated_size(run: RunDir) -> int:
    """What `launcher submit` would expect of a checkpoint."""
    shape = read_shape(json.loads((ASSETS / "stories260k" / "config.json").read_text()))
    assert shape is not None
    return estimate_checkpoint(CptRecipe.model_validate_json(run.recipe.read_text()), shape) or 0


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_zero_exports_the_weights_that_it_adds_to_and_not_those_it_computes_with(folder: Path, strategy: str) -> None:
    changes = {"schedule": {"length": "4 steps", "warmup": "1 steps"}, "precision": {"dtype": "bf16"}}
    run = make_run(folder, parallel={"strategy": strategy}, **changes)

    assert train(run, ranks=2).exit_codes == [FINISHED] * 2

    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    expected = get_fp32_state_dict_from_zero_checkpoint(str(run.checkpoint(4)))
    found = load_file(run.outputs / "model" / "model.safetensors")
    assert found.keys() == {name for name in expected if name != "lm_head.weight"}, "embeddings are tied"
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in found.values())


def test_a_checkpoint_is_as_large_as_the_launcher_expects(alone: RunDir, uninterrupted: RunDir) -> None:
    assert checkpoint_size(alone) == pytest.approx(estimated_size(alone), rel=0.05)
    # torch writes some kB besides for each part of a tensor, which counts only in a model as small as this one.
    assert 0 < checkpoint_size(uninterrupted) - estimated_size(uninterrupted) < 2**20


def test_an_interrupted_run_has_the_losses_of_an_uninterrupted_one_to_the_last_bit(
    folder: Path, uninterrupted: RunDir
) -> None:
    run = make_run(folder, parallel={"strategy": "full_shard"})
    dice = random.Random(os.getpid())  # other moments in every test run

    stopped_at = preempt_at(run, 1 + dice.randrange(3), ranks=2, rank=1).steps()[-1]
    killed = kill_at(run, stopped_at + 2 + dice.randrange(4), ranks=2, attempt=1)
    last = train(run, ranks=2, attempt=2)

    assert last.exit_codes == [FINISHED] * 2
    assert killed.steps()[0] == stopped_at + 1, "a graceful stop costs no step"
    assert killed.steps()[-1] - (last.steps()[0] - 1) <= 5, "a kill costs no more than the checkpoint interval"
    assert losses(run) == losses(uninterrupted)
    assert all(again == before for again, before in rows_done_twice(run))
    assert all(torch.equal(tensor, exported(uninterrupted)[name]) for name, tensor in exported(run).items())


def rows_done_twice(run: RunDir) -> list[tuple[object, object]]:
    """Losses and gradient norms of each step that was done twice."""
    seen: dict[int, tuple[float, float]] = {}
    pairs = []
    for row in read_json_lines(run.metrics):
        now = (row["loss"], row["grad_norm"])
        if row["step"] in seen:
            pairs.append((now, seen[row["step"]]))
        seen[row["step"]] = now
    return pairs
