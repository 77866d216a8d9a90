"""What our fine-tuning costs beside TRL's: tokens/s and peak memory of `kind: sft` and of plain SFTTrainer.

Same model, same token ids and answer masks, same batches, same optimizer and schedule, one process and one thread each,
in pairs whose order alternates, each in a fresh process; ratios are medians over the pairs, and the losses of both have
to agree. TRL's trainer has its defaults but for what the recipe says. The model is a Llama of random weights with a
vocabulary of 32,000, the text MedQuAD's; all weights are trained or, with `--adapter lora`, a LoRA.

    python bench/sft.py [--adapter lora] [--rounds 3] [--steps 12] [--json] [--smallest]
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from launcher.run.ledger import read_json_lines
from launcher.run.paths import RunDir
from tests.support.training_runs import ASSETS, cpt_recipe, make_run_of, train

SKIPPED_STEPS = 2
SPEED_BAR, MEMORY_BAR = 0.98, 1.02
BATCH = {"global_batch": "8 sequences", "micro_batch": 4, "sequence_length": 512}
MODEL = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8, "vocab_size": 32_000}
SMALLEST_MODEL = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "vocab_size": 1_000}
LORA = {"method": "lora", "r": 16, "alpha": 32, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}
Measured = dict[str, Any]
"""`times` when each step ended, `losses` of the steps, and `memory_gib` at the peak."""


def main() -> int:
    options = _parse()
    if options.peer:
        print(json.dumps(trl_run(RunDir(options.peer))))
        return 0
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ours: list[Measured] = []
    trl: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), SMALLEST_MODEL if options.smallest else MODEL)
        recipe = _recipe(options.steps, LORA if options.adapter else None)
        prepared = make_run_of(recipe, Path(folder))
        job(prepared)  # makes the examples that both read
        for number in range(options.rounds):
            pair = [(ours, partial(job, make_run_of(recipe, Path(folder)))), (trl, partial(peer, prepared))]
            for results, measure in reversed(pair) if number % 2 else pair:
                results.append(measure())
        tokens = json.loads((prepared.examples / "medquad" / "source.json").read_bytes())["examples"]["train"]
    _require_equal_losses(ours, trl)
    return _report(ours, trl, 8 * tokens["tokens"] / tokens["documents"], options)


def make_model(folder: Path, sizes: dict[str, int]) -> None:
    """A Llama of random weights with the tokenizer of the tiny one, whose tokens are the first of its vocabulary."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

    set_seed(0)
    config = AutoConfig.from_pretrained(ASSETS / "stories260k", **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(ASSETS / "stories260k").save_pretrained(folder / "model")
    shutil.copy(ASSETS / "medquad_80.json.gz", folder)


def _recipe(steps: int, adapter: dict[str, Any] | None) -> dict[str, Any]:
    source = {"name": "medquad", "files": "medquad_80.json.gz", "format": "alpaca"}
    return cpt_recipe(
        kind="sft",
        model={"path": "./model"},
        adapter=adapter,
        batch=BATCH,
        schedule={"length": f"{steps} steps", "warmup": "2 steps"},
        checkpoint={"interval": f"{steps} steps"},
    ) | {"data": {"sources": [source], "chat_template": "alpaca", "packing": "pad"}}


def job(run: RunDir) -> Measured:
    """Train by our job."""
    attempt = train(run)
    assert attempt.exit_codes == [0], attempt.log()
    rows = read_json_lines(run.metrics)
    return {
        "times": [row["time"] for row in rows],
        "losses": [row["loss"] for row in rows],
        "memory_gib": max(row["memory_gib"] for row in rows),
    }


def peer(run: RunDir, script: str = __file__) -> Measured:
    """Train by TRL, in a process of its own that a bench starts, on the data of a run of ours."""
    command = [sys.executable, script, "--peer", str(run.root)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    measured: Measured = json.loads(output.splitlines()[-1])
    return measured


def trl_settings(run: RunDir, recipe: Any) -> dict[str, Any]:
    """Return what the settings of TRL's trainers have in common, as the recipe of a run says."""
    batch, optim = recipe.batch, recipe.optim
    return {
        "output_dir": str(run.root / "trl"),
        "max_steps": recipe.schedule.length.value,
        "per_device_train_batch_size": batch.least_micro_batch,
        "gradient_accumulation_steps": batch.sequences // batch.least_micro_batch,
        "learning_rate": optim.lr,
        "adam_beta1": optim.betas[0],
        "adam_beta2": optim.betas[1],
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.clip_norm,
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def trl_run(run: RunDir) -> Measured:
    """Train as the recipe of a run says, by TRL's trainer."""
    import torch
    import trl
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    from jobs.train.lr_schedule import lr_factor
    from launcher.recipe import SftRecipe

    class Clock(TrainerCallback):
        """Notes when steps end, and their losses."""

        def __init__(self) -> None:
            self.times: list[float] = []
            self.losses: list[float] = []

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                self.times.append(time.time())
                self.losses.append(logs["loss"])

    recipe = SftRecipe.model_validate_json(run.recipe.read_bytes())
    steps, batch = recipe.schedule.length.value, recipe.batch
    config = trl.SFTConfig(
        **trl_settings(run, recipe),
        max_length=batch.sequence_length,
        completion_only_loss=True,
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
    )
    model = AutoModelForCausalLM.from_pretrained(run.root.parent / "model", dtype=torch.float32)
    lora = {"task_type": "CAUSAL_LM", "lora_dropout": 0.0, "r": 16, "lora_alpha": 32, "target_modules": LORA["targets"]}
    torch.manual_seed(recipe.seed)
    trainer = trl.SFTTrainer(
        model=model,
        args=config,
        train_dataset=_examples(run, recipe, steps * batch.sequences),
        processing_class=AutoTokenizer.from_pretrained(run.root.parent / "model"),
        callbacks=[clock := Clock()],
        peft_config=LoraConfig(**lora) if recipe.adapter else None,
    )
    factor = partial(lr_factor, schedule=recipe.schedule, total=steps)
    trainer.create_optimizer()
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, factor)
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"times": clock.times, "losses": clock.losses, "memory_gib": peak}


def _examples(run: RunDir, recipe: Any, count: int) -> Any:
    """Our examples, in the order in which our job reads them, as TRL wants them."""
    from datasets import Dataset

    from jobs.data.chat.samples import ChatSamples
    from jobs.data.chat.store import open_sequences
    from jobs.data.chat.tokenised_source import finished_source
    from jobs.kinds.sft import _order
    from jobs.models.labels import IGNORED

    source = finished_source(run.examples, "medquad")
    assert source is not None
    sources = open_sequences(run.examples, [source], "train")
    samples = ChatSamples(sources, _order(recipe, sources), count)
    rows = [samples[index] for index in range(count)]
    ids = [row["input_ids"].tolist() for row in rows]
    return Dataset.from_dict(
        {"input_ids": ids, "completion_mask": [(row["labels"] != IGNORED).int().tolist() for row in rows]}
    )


def _require_equal_losses(ours: list[Measured], trl: list[Measured]) -> None:
    worst = max(abs(a - b) for a, b in zip(ours[0]["losses"], trl[0]["losses"], strict=True))
    assert worst < 2e-3, f"the losses differ by {worst}: it is not the same work"  # TRL logs four decimals or so


def _report(ours: list[Measured], trl: list[Measured], tokens: float, options: argparse.Namespace) -> int:
    seconds = [[seconds_per_step(one["times"]) for one in results] for results in (ours, trl)]
    memory = [[float(one["memory_gib"]) for one in results] for results in (ours, trl)]
    # Of each pair that ran one after the other: a machine's speed changes more between pairs than within one.
    speed_ratio = statistics.median(theirs / our for our, theirs in zip(*seconds, strict=True))
    memory_ratio = statistics.median(our / theirs for our, theirs in zip(*memory, strict=True))
    rates = [tokens / statistics.median(one) for one in seconds]
    peaks = [statistics.median(one) for one in memory]
    result = {
        "our_tokens_per_second": rates[0],
        "trl_tokens_per_second": rates[1],
        "ourseconds_per_step": seconds[0],
        "trlseconds_per_step": seconds[1],
        "our_memory_gib": memory[0],
        "trl_memory_gib": memory[1],
        "speed_ratio": speed_ratio,
        "memory_ratio": memory_ratio,
    }
    is_reached = speed_ratio >= SPEED_BAR and memory_ratio <= MEMORY_BAR
    if options.json:
        print(json.dumps(result))
        return 0 if is_reached or options.smallest else 1
    print(f"ours   {rates[0]:9,.0f} tokens/s  {peaks[0]:6.2f} GiB")
    print(f"TRL    {rates[1]:9,.0f} tokens/s  {peaks[1]:6.2f} GiB")
    print(f"speed  {speed_ratio:9.3f}  (at least {SPEED_BAR})   memory {memory_ratio:.3f}  (at most {MEMORY_BAR})")
    print("not judged" if options.smallest else "reached" if is_reached else "MISSED")
    return 0 if is_reached or options.smallest else 1


def seconds_per_step(times: list[float]) -> float:
    """The median, without the first steps."""
    return statistics.median(after - before for before, after in pairwise(times[SKIPPED_STEPS:]))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", choices=["lora"], help="train this instead of all weights")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, alternating")
    parser.add_argument("--steps", type=int, default=12, help="steps of each run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--smallest", action="store_true", help="see that it works, in seconds; judge nothing")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smallest:
        options.rounds, options.steps = 1, SKIPPED_STEPS + 2
    return options


if __name__ == "__main__":
    sys.exit(main())
