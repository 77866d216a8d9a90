"""What our training on preferences costs beside TRL's: tokens/s and peak memory of `kind: dpo` and of plain DPOTrainer.

Same model, same token ids, same batches, same optimizer and schedule, same loss and reference, one process and one
thread each, in pairs of runs whose order alternates, each in a fresh process; ratios are medians over the pairs, and
the losses of both have to agree. TRL's trainer has its defaults but for what the recipe says. The model is a Llama of
random weights with a vocabulary of 32,000, the text MedQuAD's: the preferred answer of a question is its own, the other
one the next question's. All weights are trained, beside a frozen copy, or, with `--adapter lora`, a LoRA.

    python bench/align.py [--adapter lora] [--rounds 3] [--steps 10] [--json] [--smallest]
"""

import argparse
import gzip
import json
import os
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.sft import (
    LORA,
    MODEL,
    SKIPPED_STEPS,
    SMALLEST_MODEL,
    Measured,
    job,
    make_model,
    peer,
    seconds_per_step,
    trl_settings,
)
from launcher.run.paths import RunDir
from tests.support.training_runs import cpt_recipe, make_run_of

SPEED_BAR, MEMORY_BAR = 0.98, 1.02
BATCH = {"global_batch": "4 sequences", "micro_batch": 2, "sequence_length": 256}
BETA = 0.2


def main() -> int:
    options = _parse()
    if options.peer:
        print(json.dumps(trl_run(RunDir(options.peer))))
        return 0
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ours: list[Measured] = []
    trl: list[Measured] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, SMALLEST_MODEL if options.smallest else MODEL)
        make_pairs(folder)
        recipe = _recipe(options.steps, LORA if options.adapter else None)
        prepared = make_run_of(recipe, folder)
        job(prepared)  # makes the pairs that both read
        for number in range(options.rounds):
            pair = [(ours, partial(job, make_run_of(recipe, folder))), (trl, partial(peer, prepared, __file__))]
            for results, measure in reversed(pair) if number % 2 else pair:
                results.append(measure())
        made = json.loads((prepared.examples / "medquad" / "source.json").read_bytes())["examples"]["train"]
    worst = max(abs(a - b) for a, b in zip(ours[0]["losses"], trl[0]["losses"], strict=True))
    assert worst < 1e-3, f"the losses differ by {worst}: it is not the same work"
    return _report(ours, trl, 4 * made["tokens"] / made["documents"], options)


def make_pairs(folder: Path) -> None:
    """Write MedQuAD's questions, each with its own answer and the next question's."""
    records = json.loads(gzip.decompress((folder / "medquad_80.json.gz").read_bytes()))
    pairs = [
        {"question": one["instruction"], "response_chosen": one["output"], "response_rejected": other["output"]}
        for one, other in zip(records, [*records[1:], records[0]], strict=True)
    ]
    (folder / "pairs.json").write_text(json.dumps([pair for pair in pairs if len(set(pair.values())) == 3]))


def _recipe(steps: int, adapter: dict[str, Any] | None) -> dict[str, Any]:
    source = {"name": "medquad", "files": "pairs.json", "format": "question"}
    return cpt_recipe(
        kind="dpo",
        model={"path": "./model"},
        adapter=adapter,
        batch=BATCH,
        beta=BETA,
        optim={"lr": 1e-4},
        schedule={"length": f"{steps} steps", "warmup": "2 steps"},
        checkpoint={"interval": f"{steps} steps"},
    ) | {"data": {"sources": [source], "chat_template": "plain", "too_long": "truncate", "max_bad_fraction": 0.1}}


def trl_run(run: RunDir) -> Measured:
    """Train as the recipe of a run says, by TRL's trainer."""
    import resource
    import time

    import torch
    import trl
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    from jobs.train.lr_schedule import lr_factor
    from launcher.recipe import DpoRecipe

    class PairClock(TrainerCallback):
        """Notes when steps end, and their losses."""

        def __init__(self) -> None:
            self.times: list[float] = []
            self.losses: list[float] = []

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                self.times.append(time.time())
                self.losses.append(logs["loss"])

    class TokenizedDpoTrainer(trl.DPOTrainer):
        """Takes pairs that are tokens already."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    recipe = DpoRecipe.model_validate_json(run.recipe.read_bytes())
    steps, batch = recipe.schedule.length.value, recipe.batch
    config = trl.DPOConfig(
        **trl_settings(run, recipe),
        beta=recipe.beta,
        max_length=batch.sequence_length,
        activation_checkpointing=False,
        train_sampling_strategy="sequential",
    )
    folder = run.root.parent / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    lora = {"task_type": "CAUSAL_LM", "lora_dropout": 0.0, "r": 16, "lora_alpha": 32, "target_modules": LORA["targets"]}
    torch.manual_seed(recipe.seed)
    trainer = TokenizedDpoTrainer(
        model=model,
        args=config,
        train_dataset=_pairs(run, recipe, steps * batch.sequences),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[clock := PairClock()],
        peft_config=LoraConfig(**lora) if recipe.adapter else None,
    )
    trainer.create_optimizer()
    factor = partial(lr_factor, schedule=recipe.schedule, total=steps)
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, factor)
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"times": clock.times, "losses": clock.losses, "memory_gib": peak}


def _pairs(run: RunDir, recipe: Any, count: int) -> Any:
    """Our pairs, in the order in which our job reads them, as TRL wants them."""
    from fractions import Fraction

    from datasets import Dataset

    from jobs.data.chat.tokenised_source import finished_source
    from jobs.data.preferences.samples import shuffled_pairs
    from jobs.data.preferences.store import open_pairs

    source = finished_source(run.examples, "medquad")
    assert source is not None
    samples = shuffled_pairs(open_pairs(run.examples, [source], "train"), [Fraction(1)], recipe.seed, count)
    rows: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for index in range(count):
        chosen, rejected = (samples[index][side] for side in ("chosen", "rejected"))
        asked = int(chosen.is_answer.argmax())
        for name, ids in zip(rows, (chosen.ids[:asked], chosen.ids[asked:], rejected.ids[asked:]), strict=True):
            rows[name].append(ids.tolist())
    return Dataset.from_dict(rows)


def _report(ours: list[Measured], trl: list[Measured], tokens: float, options: argparse.Namespace) -> int:
    seconds = [[seconds_per_step(one["times"]) for one in results] for results in (ours, trl)]
    memory = [[float(one["memory_gib"]) for one in results] for results in (ours, trl)]
    # Of each pair that ran one after the other: a machine's speed changes more between pairs than within one.
    speed = statistics.median(theirs / our for our, theirs in zip(*seconds, strict=True))
    room = statistics.median(our / theirs for our, theirs in zip(*memory, strict=True))
    is_reached = speed >= SPEED_BAR and room <= MEMORY_BAR
    if options.json:
        result = {"seconds_per_step": seconds, "memory_gib": memory, "speed_ratio": speed, "memory_ratio": room}
        print(json.dumps(result))
        return 0 if is_reached or options.smallest else 1
    for name, times, peaks in zip(("ours", "TRL"), seconds, memory, strict=True):
        rate, peak = tokens / statistics.median(times), statistics.median(peaks)
        print(f"{name:5}  {rate:9,.0f} tokens/s  {peak:6.2f} GiB")
    print(f"speed  {speed:9.3f}  (at least {SPEED_BAR})   memory {room:.3f}  (at most {MEMORY_BAR})")
    print("not judged" if options.smallest else "reached" if is_reached else "MISSED")
    return 0 if is_reached or options.smallest else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", choices=["lora"], help="train this instead of all weights")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, alternating")
    parser.add_argument("--steps", type=int, default=10, help="steps of each run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--smallest", action="store_true", help="see that it works, in seconds; judge nothing")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smallest:
        options.rounds, options.steps = 1, SKIPPED_STEPS + 2
    return options


if __name__ == "__main__":
    sys.exit(main())
