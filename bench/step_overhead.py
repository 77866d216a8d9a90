"""What our job costs beside a bare torch loop: tokens/s of `kind: cpt` and of forty lines of torch.

Same model, same samples, same optimizer and schedule, one process and one thread each, both at the same
time on a core each; the ratio is the median over steps, each beside the same one of the other. What the job does
besides (Trainer, agreement on stops, metrics.jsonl) must not cost more than 3 % at steps of 200 ms.
With `--compile` both compile each layer of the model, in the first five steps, which are left out.

    python bench/step_overhead.py [--compile] [--rounds 5] [--steps 30] [--json] [--smallest]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.support.side_by_side import median_ratio, side_by_side, step_seconds
from bench.support.unmeasured import not_measured
from launcher.run.ledger import read_json_lines
from launcher.run.paths import RunDir
from tests.support.training_runs import ASSETS, make_run

SKIPPED_STEPS = 5
BAR = 0.97
BATCH = {"global_batch": "32 sequences", "micro_batch": 32, "sequence_length": 128}


def main() -> int:
    options = _parse()
    if options.bare:
        print(json.dumps(bare_loop(RunDir(options.bare))))
        return 0
    if options.compile and len(str(Path(sys.prefix)).split()) > 1:
        code = not_measured(f"torch 2.13 cannot compile where the path to its own files holds a space: {sys.prefix}")
        return 0 if options.smallest else code
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs, bare = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            run = make_run(Path(folder), **_recipe(options.steps, options.compile))
            output = side_by_side(run, [sys.executable, __file__, "--bare", str(run.root)], number)
            jobs.append(step_seconds([row["time"] for row in read_json_lines(run.metrics)], SKIPPED_STEPS))
            bare.append(step_seconds(json.loads(output.splitlines()[-1]), SKIPPED_STEPS))
    return _report(jobs, bare, options)


def _recipe(steps: int, compiles: bool) -> dict[str, object]:
    return {
        "model": {"compile": compiles},
        "batch": BATCH,
        "schedule": {"length": f"{steps} steps", "warmup": "2 steps"},
        "checkpoint": {"interval": f"{steps} steps"},
    }


def bare_loop(run: RunDir) -> list[float]:
    """Train as the recipe says, with nothing around it."""
    import torch
    from transformers import AutoModelForCausalLM

    from jobs.data.sampling.corpus_reader import open_corpus
    from jobs.data.sampling.dataset import Samples, packed_collator
    from jobs.data.sampling.mixture import Mixture
    from jobs.data.sampling.sequences import cut
    from jobs.train.lr_schedule import lr_factor
    from launcher.recipe import CptRecipe

    recipe = CptRecipe.model_validate_json(run.recipe.read_text())
    steps, batch = recipe.schedule.length.value, recipe.batch
    corpus = open_corpus(run.root.parent / "corpora" / "words")
    pieces = cut([corpus], "packed", "train", batch.sequence_length)
    mixture = Mixture([(0, [Fraction(1)])])
    data = Samples(pieces, mixture, batch.sequence_length, recipe.seed, steps * batch.sequences)
    loader = torch.utils.data.DataLoader(data, batch.micro_batch, collate_fn=packed_collator)
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k", dtype=torch.float32, use_cache=False)
    for layer in model.model.layers if recipe.model.compile else ():
        layer.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.optim.lr, betas=recipe.optim.betas, fused=True)
    factor = partial(lr_factor, schedule=recipe.schedule, total=steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    times = []
    for inputs in loader:
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.clip_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        times.append(time.time())
    return times


def _report(jobs: list[list[float]], bare: list[list[float]], options: argparse.Namespace) -> int:
    tokens = int(str(BATCH["global_batch"]).split()[0]) * int(BATCH["sequence_length"])
    job_step, bare_step = (statistics.median(chain.from_iterable(seconds)) for seconds in (jobs, bare))
    ratio = median_ratio(jobs, bare)
    result = {
        "job_tokens_per_second": tokens / job_step,
        "bare_tokens_per_second": tokens / bare_step,
        "job_ms_per_step": 1000 * job_step,
        "bare_ms_per_step": 1000 * bare_step,
        "ratio": ratio,
        "bar": BAR,
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(f"job   {tokens / job_step:9,.0f} tokens/s  {1000 * job_step:6.1f} ms/step")
        print(f"bare  {tokens / bare_step:9,.0f} tokens/s  {1000 * bare_step:6.1f} ms/step")
        judged = "not judged" if options.smallest else "reached" if ratio >= BAR else "MISSED"
        print(f"ratio {ratio:9.3f}  ({judged}: at least {BAR})")
    return 0 if ratio >= BAR or options.smallest else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="compile each layer, in both")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each kind")
    parser.add_argument("--steps", type=int, default=30, help="steps of each run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--smallest", action="store_true", help="see that it works, in seconds; judge nothing")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smallest:
        options.rounds, options.steps = 1, SKIPPED_STEPS + 3
    return options


if __name__ == "__main__":
    sys.exit(main())
