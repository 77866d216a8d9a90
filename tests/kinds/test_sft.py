"""kind: sft for real: processes, gloo, FSDP2 and DeepSpeed on CPUs, real questions and answers, a real small Llama."""

import gzip
import json
import os
import random
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, OPTConfig, OPTForCausalLM

from jobs.data.chat.samples import padding_collator
from jobs.data.chat.store import open_sequences
from jobs.data.chat.tokenised_source import finished_source
from jobs.data.sampling.permutation import Permutation
from jobs.train.lr_schedule import lr_factor
from launcher.recipe import SftRecipe, read_recipe
from launcher.recipe.identity import method_checksum
from launcher.run.ledger import read_json_lines
from launcher.run.paths import CONTINUE, FINISHED, NEVER_RESTART, RunDir
from tests.support.shared_data import shared_data
from tests.support.training_runs import (
    ASSETS,
    Attempt,
    cpt_recipe,
    kill_at,
    losses,
    make_run_of,
    preempt_at,
    start,
    train,
)

pytestmark = pytest.mark.slow

STEPS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 real questions with short answers."""
    folder = tmp_path_factory.mktemp("sft")
    records = json.loads(gzip.decompress(shared_data("sft/medquad_alpaca.2000.json.gz").read_bytes()))
    short = [record for record in records if len(record["output"]) < 500][:200]
    (folder / "medquad.json").write_text(json.dumps(short, indent=1))
    return folder


def make_run(folder: Path, **changes: Any) -> RunDir:
    source = {"name": "medquad", "files": "medquad.json", "format": "alpaca"}
    data = {"sources": [source], "chat_template": "alpaca", "packing": "pad", **changes.pop("data", {})}
    sizes = {"batch": {"sequence_length": 384}, "schedule": {"length": f"{STEPS} steps"}}
    return make_run_of(cpt_recipe(**{"kind": "sft", **sizes, **changes}) | {"data": data}, folder)


@pytest.fixture(scope="module")
def alone(folder: Path) -> RunDir:
    """A finished run of one process."""
    run = make_run(folder)
    assert train(run).exit_codes == [FINISHED]
    return run


def exported(run: RunDir) -> dict[str, torch.Tensor]:
    return load_file(run.outputs / "model" / "model.safetensors")


def bare_losses(run: RunDir) -> list[float]:
    """Losses of the first steps in a loop of torch alone: one example a time, the mean over a step's answer tokens."""
    recipe = SftRecipe.model_validate_json(run.recipe.read_bytes())
    source = finished_source(run.examples, "medquad")
    assert source is not None
    (sequences,) = open_sequences(run.examples, [source], "train")
    order = Permutation(len(sequences), f"{recipe.seed}/medquad/0")
    torch.manual_seed(recipe.seed)
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k", dtype=torch.float32, use_cache=False)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)

    expected = []
    for step in range(8):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * lr_factor(step, recipe.schedule, STEPS)
        examples = [one for place in range(step * 8, step * 8 + 8) for one in sequences.read(order(place))]
        answers = sum(int(one.is_answer.sum()) for one in examples)
        total = 0.0
        for one in examples:
            ids, wanted = torch.from_numpy(one.ids.astype("int64")), torch.from_numpy(one.is_answer)
            logits = model(input_ids=ids[None]).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits[wanted[1:]], ids[1:][wanted[1:]], reduction="sum") / answers
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(total)
    return expected


def first_losses(run: RunDir) -> list[float]:
    return [losses(run)[step] for step in range(1, 9)]


def test_losses_are_those_of_a_bare_loop_that_takes_one_example_at_a_time(alone: RunDir) -> None:
    expected = bare_losses(alone)

    assert first_losses(alone) == pytest.approx(expected, abs=2e-6 * expected[0])


def test_losses_of_packed_examples_are_those_of_a_bare_loop_that_takes_them_apart(folder: Path) -> None:
    run = make_run(folder, data={"packing": "bfd"})

    assert train(run, ranks=2).exit_codes == [FINISHED] * 2

    source = finished_source(run.examples, "medquad")
    assert source is not None
    assert source.packs["train"].documents < source.examples["train"].documents, "some do share a sequence"
    expected = bare_losses(run)
    assert first_losses(run) == pytest.approx(expected, abs=2e-6 * expected[0])


def test_data_parallel_ranks_with_accumulation_train_as_one_process(folder: Path, alone: RunDir) -> None:
    run = make_run(folder)

    assert train(run, ranks=2).exit_codes == [FINISHED] * 2

    assert losses(run) == pytest.approx(losses(alone), abs=2e-6)


def test_the_export_answers_in_the_form_that_it_was_taught(alone: RunDir) -> None:
    export = alone.outputs / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(export), AutoModelForCausalLM.from_pretrained(export)
    messages = [{"role": "user", "content": "What is asthma?"}]

    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    generated = model.generate(**prompt, max_new_tokens=5, do_sample=False, pad_token_id=0)

    assert tokenizer.decode(prompt["input_ids"][0]).endswith("### Instruction:\nWhat is asthma?\n\n### Response:\n")
    assert generated.shape[1] > prompt["input_ids"].shape[1]
    assert GenerationConfig.from_pretrained(export).eos_token_id == tokenizer.eos_token_id
    manifest = json.loads((export / "manifest.json").read_text())
    assert (manifest["kind"], manifest["corpora"], manifest["steps"]) == ("sft", ["medquad"], STEPS)
    recipe = read_recipe(alone.recipe.read_text())
    other_seed = recipe.model_copy(update={"seed": recipe.seed + 1, "name": "another", "output": "another"})
    assert (manifest["seed"], manifest["method"]) == (recipe.seed, method_checksum(other_seed))
    assert method_checksum(recipe.model_copy(update={"neftune_alpha": 5.0})) != manifest["method"]


def test_a_model_in_which_packed_examples_see_each_other_is_refused_before_the_first_step(folder: Path) -> None:
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 32, "num_hidden_layers": 1}
    config = OPTConfig(vocab_size=512, num_attention_heads=2, max_position_embeddings=384, **sizes)
    OPTForCausalLM(config).save_pretrained(folder / "opt")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ASSETS / "stories260k" / name, folder / "opt")
    packed, padded = (make_run(folder, model={"path": "./opt"}, data={"packing": how}) for how in ("bfd", "pad"))

    refused = train(packed)

    assert refused.exit_codes == [NEVER_RESTART]
    assert "lets packed examples attend" in refused.log()
    assert train(padded).exit_codes == [FINISHED]
    assert first_losses(padded) and not packed.metrics.exists()


@pytest.mark.parametrize("adapter", [None, {"method": "lora", "r": 2}])
def test_generation_stops_where_answers_were_taught_to_end(folder: Path, adapter: dict[str, Any] | None) -> None:
    talker = folder / "talker"
    shutil.copytree(ASSETS / "stories260k", talker, dirs_exist_ok=True)
    (talker / "chat_template.jinja").write_text("{% for m in messages %}{{ '\n' + m.content + '<s>' }}{% endfor %}")
    settings = '{"eos_token_id": 2, "temperature": 0.6, "do_sample": false}'  # a contradiction, as people publish it
    (talker / "generation_config.json").write_text(settings)
    data, length = {"chat_template": "tokenizer"}, {"length": "2 steps", "warmup": "0 steps"}
    run = make_run(folder, model={"path": "./talker"}, data=data, schedule=length, adapter=adapter)

    attempt = train(run)

    assert attempt.exit_codes == [FINISHED], attempt.log()
    stops = [1, 2]
    assert GenerationConfig.from_pretrained(run.outputs / "model").eos_token_id == stops
    if adapter:
        parts = {"base_model": "./talker", "adapters": [{"path": f"./{run.root.name}/outputs/model"}]}
        merge = make_run_of({"kind": "merge", "name": "m", "resources": {"nodes": 1, "time": "10min"}} | parts, folder)
        assert train(merge).exit_codes == [FINISHED]
        assert GenerationConfig.from_pretrained(merge.outputs / "model").eos_token_id == stops


@pytest.mark.parametrize("strategy", ["ddp", "full_shard"])
def test_held_out_answers_are_learned_and_their_loss_is_told(folder: Path, strategy: str) -> None:
    run = make_run(
        folder,
        data={"validation": 0.2},
        parallel={"strategy": strategy},
        schedule={"length": "16 steps"},
        optim={"lr": 5e-3},
        evaluate="6 steps",
    )
    assert train(run, ranks=2).exit_codes == [FINISHED] * 2

    source = finished_source(run.examples, "medquad")
    assert source is not None
    (held_out,) = open_sequences(run.examples, [source], "validation")
    assert len(held_out) > 20
    before, after = (answer_loss(path, held_out) for path in (ASSETS / "stories260k", run.outputs / "model"))
    assert after < before - 0.8, (before, after)
    told = {row["step"]: row["answer_loss"] for row in read_json_lines(run.evaluations)}
    assert list(told) == [0, 6, 12, 16]
    assert (told[0], told[16]) == pytest.approx((before, after), abs=1e-5)


def answer_loss(path: Path, sequences: Any) -> float:
    """Mean loss per answer token."""
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    total, count = 0.0, 0
    for index in range(len(sequences)):
        for one in sequences.read(index):
            ids = torch.from_numpy(one.ids.astype("int64"))
            labels = torch.where(torch.from_numpy(one.is_answer), ids, -100)
            with torch.no_grad():
                loss = model(input_ids=ids[None], labels=labels[None]).loss.item()
            total, count = total + loss * int(one.is_answer.sum()), count + int(one.is_answer.sum())
    return total / count


MIXED = {
    "packing": "pad",
    "draws": "independent",
    "sources": [
        {"name": "medquad", "files": "medquad.json", "format": "alpaca", "weight": 0.5},
        {"name": "again", "files": "medquad.json", "format": "alpaca", "weight": 2.0},
    ],
}
NOISY = {"parallel": {"strategy": "full_shard"}, "neftune_alpha": 5.0, "data": MIXED}


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> RunDir:
    """Two ranks, fully sharded, with noise, of a mixture."""
    run = make_run(folder, **NOISY)
    assert train(run, ranks=2).exit_codes == [FINISHED] * 2
    return run


def test_an_interrupted_run_has_the_losses_of_an_uninterrupted_one_to_the_last_bit(
    folder: Path, uninterrupted: RunDir
) -> None:
    run = make_run(folder, **NOISY)
    dice = random.Random(os.getpid())  # other moments in every test run

    preempted = preempt_at(run, 1 + dice.randrange(3), ranks=2, rank=1)
    before = examples_on_disk(run)
    kill_at(run, preempted.steps()[-1] + 1, ranks=2, attempt=1)
    last = train(run, ranks=2, attempt=2)

    assert last.exit_codes == [FINISHED] * 2
    assert losses(run) == losses(uninterrupted)
    assert all(torch.equal(tensor, exported(uninterrupted)[name]) for name, tensor in exported(run).items())
    assert examples_on_disk(run) == before, "examples are prepared once"


def examples_on_disk(run: RunDir) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(run.examples.rglob("*"))}


def test_noise_changes_the_training(folder: Path, uninterrupted: RunDir) -> None:
    run = make_run(folder, **NOISY | {"neftune_alpha": None})

    assert train(run, ranks=2).exit_codes == [FINISHED] * 2

    difference = [abs(losses(run)[step] - losses(uninterrupted)[step]) for step in range(1, STEPS + 1)]
    assert min(difference) > 1e-4


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("strategy", ["zero2", "zero3", "hybrid_shard"])
def test_every_strategy_trains_as_one_process(folder: Path, alone: RunDir, strategy: str) -> None:
    ranks, micro_batch = (4, 1) if strategy == "hybrid_shard" else (2, 2)
    sizes = {"sequence_length": 384, "micro_batch": micro_batch}
    run = make_run(folder, parallel={"strategy": strategy}, batch=sizes)

    assert train(run, ranks, nodes=2).exit_codes[0] == FINISHED

    assert losses(run) == pytest.approx(losses(alone), abs=1e-5)


def refused(folder: Path, content: str, **data: Any) -> Attempt:
    (folder / "bad.jsonl").write_text(content)
    run = make_run(folder, data={"sources": [{"name": "bad", "files": "bad.jsonl", "format": "alpaca"}], **data})
    return train(run, ranks=2)


def test_every_rank_refuses_what_holds_no_answers_that_fit(folder: Path) -> None:
    attempt = refused(folder, json.dumps({"instruction": "Why?", "output": "because " * 500}))

    assert attempt.failure == NEVER_RESTART
    assert "data.sources.0: nothing is left to train on (bad: dropped 1 (too_long)" in attempt.log()


def test_every_rank_refuses_bad_records_and_tells_no_text(folder: Path) -> None:
    attempt = refused(folder, '{"instruction": "secret"}\n{"output": "secret"\n')

    assert attempt.failure == NEVER_RESTART
    for rank in range(2):
        assert "bad.jsonl:1: has no `output`" in attempt.log(rank)
        assert "bad.jsonl:2: is not JSON" in attempt.log(rank)
        assert "secret" not in attempt.log(rank)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (64, "batch.global_batch: `1 epoch` is 3 sequences, less than one step of 64"),
        (3, "schedule.warmup: `3%` takes"),
    ],
)
def test_too_little_data_is_refused_instead_of_exported_untrained(tmp_path: Path, batch: int, said: str) -> None:
    records = [json.dumps({"instruction": f"Q {number}", "output": "a"}) for number in range(3)]
    (tmp_path / "three.jsonl").write_text("\n".join(records))
    source = {"name": "three", "files": "three.jsonl", "format": "alpaca"}
    sizes = {"global_batch": f"{batch} sequences", "micro_batch": 1, "sequence_length": 384}
    length = {"length": "1 epoch", "warmup": "3%"}
    run = make_run(tmp_path, data={"sources": [source]}, batch=sizes, schedule=length)

    attempt = train(run)

    assert attempt.exit_codes == [NEVER_RESTART]
    assert said in attempt.log()
    assert not run.outputs.exists()


STOPS_AFTER_A_SOURCE = """
import sys
import jobs.__main__ as task
from jobs.data.chat import tokenised_source
from jobs.rank import process_group
from jobs.rank.stop_flag import STOP
describe = tokenised_source.describe
def stop(source):
    STOP.signal = "SIGTERM"
    return describe(source)
tokenised_source.describe = stop
process_group._REPORT_SECONDS = -1
sys.exit(task.main())
"""


def test_a_stop_ends_the_tokenising_and_keeps_what_is_finished(tmp_path: Path) -> None:
    records = [json.dumps({"instruction": f"Q {number}", "output": "a"}) for number in range(20)]
    (tmp_path / "q.jsonl").write_text("\n".join(records))
    sources = [{"name": name, "files": "q.jsonl", "format": "alpaca"} for name in ("first", "second")]
    run = make_run(tmp_path, data={"sources": sources}, schedule={"length": "2 steps", "warmup": "0 steps"})

    stopped = start(run, program=("-c", STOPS_AFTER_A_SOURCE))

    assert stopped.wait() == [CONTINUE], stopped.log()
    assert [path.parent.name for path in run.examples.glob("*/source.json")] == ["first"]
    assert not run.checkpoints.exists()
    last = train(run, attempt=1)
    assert last.exit_codes == [FINISHED], last.log()
    assert [name for name in ("first", "second") if f"{name}: train 20 examples" in last.log()] == ["second"]


def test_rows_are_padded_to_the_longest_only(folder: Path, alone: RunDir) -> None:
    rows = read_json_lines(alone.metrics)
    source = finished_source(alone.examples, "medquad")
    assert source is not None
    shard = source.examples["train"]

    speeds = {row["tokens_per_second"] for row in rows}

    assert len(speeds) == STEPS
    assert shard.tokens / shard.documents < 300, "and the recipe's length is 384"
    assert padding_collator(0)([{name: torch.arange(3) for name in ("input_ids", "labels", "position_ids")}])[
        "input_ids"
    ].shape == (1, 3)
