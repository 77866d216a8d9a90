"""What the benches beside TRL have in common: pairs of runs, the clock, the settings and the report."""

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from bench.support.side_by_side import median_ratio, side_by_side, step_seconds
from launcher.run.ledger import read_json_lines
from launcher.run.paths import RunDir
from tests.support.training_runs import ASSETS, make_run_of, train

SKIPPED_STEPS = 2
SPEED_BAR, MEMORY_BAR = 0.98, 1.02
MODEL = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8, "vocab_size": 32_000}
SMALLEST_MODEL = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "vocab_size": 1_000}
LORA = {"method": "lora", "r": 16, "alpha": 32, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}
SOURCE = "medquad"
TEXT = "medquad_80.json.gz"
Measured = dict[str, Any]
"""`times` when each step ended, `values` of the steps that have to agree, and `memory_gib` at the peak."""


@dataclass(frozen=True)
class Work:
    """What our job and TRL both do.

    Attributes:
        recipe: Our recipe.
        by_trl: Does the same by TRL, with the examples in the run directory of a run of ours.
        value: The metric of each step that has to agree.
        tolerance: By how much it may differ.
        prepare: Writes more data into the folder, beside the text and the model.
        sequences: Sequences a step, to report tokens/s; None to report seconds a step.
        least_speed: Least times as fast as TRL.
        most_memory: Most times TRL's peak memory.
    """

    recipe: dict[str, Any]
    by_trl: Callable[[RunDir], Measured]
    value: str = "loss"
    tolerance: float = 1e-3
    prepare: Callable[[Path], None] | None = None
    sequences: int | None = None
    least_speed: float = SPEED_BAR
    most_memory: float = MEMORY_BAR


def main(script: str, options: argparse.Namespace, work: Work) -> int:
    """Measure our job and TRL side by side, and report."""
    if options.peer:
        print(json.dumps(work.by_trl(RunDir(options.peer))))
        return 0
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ours: list[Measured] = []
    trl: list[Measured] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, SMALLEST_MODEL if options.smallest else MODEL)
        if work.prepare:
            work.prepare(folder)
        prepared = make_run_of(work.recipe, folder)
        attempt = train(prepared)  # makes the examples that both read
        assert attempt.exit_codes == [0], attempt.log()
        for number in range(options.rounds):
            run = make_run_of(work.recipe, folder)
            by_trl = [sys.executable, script, "--peer", str(prepared.root)]
            output = side_by_side(run, by_trl, number)
            ours.append(_of_job(run, work.value))
            trl.append(json.loads(output.splitlines()[-1]))
        tokens = work.sequences and work.sequences * _tokens_a_sequence(prepared)
    worst = max(abs(a - b) for a, b in zip(ours[0]["values"], trl[0]["values"], strict=True))
    assert worst < work.tolerance, f"{work.value} differs by {worst}: it is not the same work"
    assert len(set(ours[0]["values"])) > 1, f"{work.value} is always the same: nothing is learned"
    return _report(ours, trl, tokens, work, options)


def _tokens_a_sequence(run: RunDir) -> float:
    made = json.loads((run.examples / SOURCE / "source.json").read_bytes())["examples"]["train"]
    return float(made["tokens"] / made["documents"])


def make_model(folder: Path, sizes: dict[str, int]) -> None:
    """A Llama of random weights with the tokenizer of the tiny one, whose tokens are the first of its vocabulary."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

    set_seed(0)
    config = AutoConfig.from_pretrained(ASSETS / "stories260k", **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(ASSETS / "stories260k").save_pretrained(folder / "model")
    shutil.copy(ASSETS / TEXT, folder)


def _of_job(run: RunDir, value: str) -> Measured:
    """What our job noted."""
    rows = read_json_lines(run.metrics)
    return {
        "times": [row["time"] for row in rows],
        "values": [row[value] for row in rows],
        "memory_gib": max(row["memory_gib"] for row in rows),
    }


def model_folder(run: RunDir) -> Path:
    """Where `make_model` put the model of a run."""
    return run.root.parent / "model"


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


def lora_config(recipe: Any) -> Any:
    """Return peft's form of LORA where the recipe of a run has an adapter."""
    from peft import LoraConfig

    settings = {"task_type": "CAUSAL_LM", "lora_dropout": 0.0, "r": 16, "lora_alpha": 32}
    return LoraConfig(**settings, target_modules=LORA["targets"]) if recipe.adapter else None


def train_by_trl(trainer: Any, recipe: Any, value: str = "loss") -> Measured:
    """Train with our schedule; return when steps ended, and their values."""
    import torch
    from transformers import TrainerCallback

    from jobs.train.lr_schedule import lr_factor

    times: list[float] = []
    values: list[float] = []

    class StepClock(TrainerCallback):
        """Notes when steps end, and their values."""

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                times.append(time.time())
                values.append(logs[value])

    trainer.add_callback(StepClock())
    trainer.create_optimizer()
    factor = partial(lr_factor, schedule=recipe.schedule, total=recipe.schedule.length.value)
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, factor)
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"times": times, "values": values, "memory_gib": peak}


def _report(
    ours: list[Measured], trl: list[Measured], tokens: float | None, work: Work, options: argparse.Namespace
) -> int:
    seconds = [[step_seconds(one["times"], SKIPPED_STEPS) for one in results] for results in (ours, trl)]
    memory = [[float(one["memory_gib"]) for one in results] for results in (ours, trl)]
    speed = median_ratio(*seconds)
    # What the allocator keeps beyond what is needed differs by 2 % from round to round, and is never negative.
    room = min(memory[0]) / min(memory[1])
    is_reached = speed >= work.least_speed and room <= work.most_memory
    if options.json:
        result = {"seconds_per_step": seconds, "memory_gib": memory, "speed_ratio": speed, "memory_ratio": room}
        print(json.dumps(result))
        return 0 if is_reached or options.smallest else 1
    for name, times, peaks in zip(("ours", "TRL"), seconds, memory, strict=True):
        step = statistics.median(chain.from_iterable(times))
        rate = f"{tokens / step:9,.0f} tokens/s" if tokens else f"{step:7.3f} s a step"
        print(f"{name:5}  {rate}  {min(peaks):6.2f} GiB")
    print(f"speed  {speed:9.3f}  (at least {work.least_speed})   memory {room:.3f}  (at most {work.most_memory})")
    print("not judged" if options.smallest else "reached" if is_reached else "MISSED")
    return 0 if is_reached or options.smallest else 1


def parse(description: str, steps: int, has_adapter: bool) -> argparse.Namespace:
    """Read the command line of a bench."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if has_adapter:
        parser.add_argument("--adapter", choices=["lora"], help="train this instead of all weights")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--steps", type=int, default=steps, help="steps of each run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--smallest", action="store_true", help="see that it works, in seconds; judge nothing")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smallest:
        options.rounds, options.steps = 1, SKIPPED_STEPS + 2
    return options
