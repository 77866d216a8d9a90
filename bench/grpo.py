"""What our reinforcement learning costs beside TRL's: seconds a step and peak memory of `kind: rl` and of GRPOTrainer.

Same model, same prompt tokens in the same order, same random numbers, same reward and optimizer, one process and one
thread each, in pairs of runs whose order alternates, each in a fresh process; ratios are medians over the pairs, and
the rewards of both have to agree. The model is a Llama of random weights with a vocabulary of 32,000, the prompts are
MedQuAD's questions, the reward is the share of one token. All weights are trained.

    python bench/grpo.py [--rounds 3] [--steps 8] [--json] [--smallest]
"""

import argparse
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
from launcher.run.ledger import read_json_lines
from launcher.run.paths import RunDir
from tests.support.training_runs import cpt_recipe, make_run_of

SPEED_BAR, MEMORY_BAR = 0.98, 1.02
BATCH = {"global_batch": "8 sequences", "micro_batch": 8, "sequence_length": 160}
NEW_TOKENS, GENERATIONS = 32, 4
TOKEN = "▁the"


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
        recipe = _recipe(options.steps)
        prepared = make_run_of(recipe, folder)
        own(prepared)  # makes the prompts that both read
        for number in range(options.rounds):
            pair = [(ours, partial(own, make_run_of(recipe, folder))), (trl, partial(peer, prepared, __file__))]
            for results, measure in reversed(pair) if number % 2 else pair:
                results.append(measure())
    worst = max(abs(a - b) for a, b in zip(ours[0]["rewards"], trl[0]["rewards"], strict=True))
    assert worst < 1e-3, f"the rewards differ by {worst}: it is not the same work"
    return _report(ours, trl, options)


def _recipe(steps: int) -> dict[str, Any]:
    source = {"name": "medquad", "files": "medquad_80.json.gz", "format": "alpaca"}
    return cpt_recipe(
        kind="rl",
        model={"path": "./model"},
        batch=BATCH,
        algorithm={"name": "grpo", "generations": GENERATIONS},
        generation={"max_new_tokens": NEW_TOKENS},
        rewards=[{"type": "token", "token": TOKEN}],
        optim={"lr": 1e-4},
        schedule={"length": f"{steps} steps", "warmup": "2 steps"},
        checkpoint={"interval": f"{steps} steps"},
    ) | {"data": {"sources": [source], "chat_template": "plain", "too_long": "truncate"}}


def own(run: RunDir) -> Measured:
    """Train by our job."""
    return job(run) | {"rewards": [row["reward"] for row in read_json_lines(run.metrics)]}


def trl_run(run: RunDir) -> Measured:
    """Train as the recipe of a run says, by TRL's trainer."""
    import resource
    import time

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from jobs.data.chat.prompts import PromptOrder, open_prompts
    from jobs.train.lr_schedule import lr_factor
    from launcher.recipe import RlRecipe

    class RolloutClock(TrainerCallback):
        """Notes when steps end, and their rewards."""

        def __init__(self) -> None:
            self.times: list[float] = []
            self.rewards: list[float] = []

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                self.times.append(time.time())
                self.rewards.append(logs["reward"])

    class TokenizedGrpoTrainer(GRPOTrainer):
        """Takes prompts that are tokens already."""

        def _tokenize_prompts(self, prompts: Any) -> Any:
            return prompts, None, {}

    recipe = RlRecipe.model_validate_json(run.recipe.read_bytes())
    steps = recipe.schedule.length.value
    config = GRPOConfig(
        **trl_settings(run, recipe),
        num_generations=GENERATIONS,
        max_completion_length=NEW_TOKENS,
        seed=recipe.seed,
        shuffle_dataset=False,
        activation_checkpointing=False,
    )
    order = PromptOrder(recipe, open_prompts(run.examples, ["medquad"]))
    in_order = [one for rollout in range(steps) for one in order.numbers(rollout, recipe.rollout // GENERATIONS)]
    folder = run.root.parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    token = tokenizer.get_vocab()[TOKEN]

    def share(completion_ids: list[list[int]], **_: Any) -> list[float]:
        spoken = [ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids for ids in completion_ids]
        return [ids.count(token) / max(1, len(ids)) for ids in spoken]

    trainer = TokenizedGrpoTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        reward_funcs=share,
        args=config,
        train_dataset=order.rows.select(in_order),
        processing_class=tokenizer,
        callbacks=[clock := RolloutClock()],
    )
    trainer.create_optimizer()
    factor = partial(lr_factor, schedule=recipe.schedule, total=steps)
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, factor)
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"times": clock.times, "rewards": clock.rewards, "memory_gib": peak}


def _report(ours: list[Measured], trl: list[Measured], options: argparse.Namespace) -> int:
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
        print(f"{name:5}  {statistics.median(times):7.3f} s a step  {statistics.median(peaks):6.2f} GiB")
    print(f"speed  {speed:7.3f}  (at least {SPEED_BAR})   memory {room:.3f}  (at most {MEMORY_BAR})")
    print("not judged" if options.smallest else "reached" if is_reached else "MISSED")
    return 0 if is_reached or options.smallest else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, alternating")
    parser.add_argument("--steps", type=int, default=8, help="steps of each run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--smallest", action="store_true", help="see that it works, in seconds; judge nothing")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smallest:
        options.rounds, options.steps = 1, SKIPPED_STEPS + 2
    return options


if __name__ == "__main__":
    sys.exit(main())
