"""What a save costs training: with `checkpoint.async`, and without it.

The same training, a Llama of random weights with a checkpoint of about 0.3 GB, in fresh processes whose order
alternates, one thread each. A step that saves is late by the time for which Trainer is not let go on. What a save in
the background takes from later steps besides is counted as well, and not judged: what all steps until the next save
take longer than the median of those that do not save. On a busy machine the copy, which computes, is delayed more than
a save, which waits for the disk; there the CPU seconds of training's thread say more, which leave that waiting out.

    python bench/checkpoint.py [--rounds 3] [--saves 5] [--json] [--smallest]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from launcher.run.ledger import read_json_lines
from launcher.run.paths import RunDir
from tests.support.corpora import make_corpus
from tests.support.training_runs import ASSETS, cpt_recipe, make_run_of, start, words

BAR = 0.10
INTERVAL = 8
"""Steps between saves: enough for a save to end before the next one."""
TIMED = """
import sys, time
import jobs.__main__ as task
from jobs.train import trainer
save = trainer.GuardedTrainer._save_checkpoint
def timed(self, model, trial):
    began, worked = time.perf_counter(), time.thread_time()
    save(self, model, trial)
    print("WAITED", time.perf_counter() - began, time.thread_time() - worked, flush=True)
trainer.GuardedTrainer._save_checkpoint = timed
sys.exit(task.main())
"""
MODEL = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "vocab_size": 8_000}
SMALLEST_MODEL = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "vocab_size": 1_000}
Late = dict[str, list[float]]
"""Seconds by which the `first` and the `later` steps that save are late, and by which training is `in all`, a save; and
the `CPU` seconds of its thread that a later step is late by."""


def main() -> int:
    options = _parse()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    behind, waiting = _none(), _none()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, SMALLEST_MODEL if options.smallest else MODEL)
        make_corpus(folder / "corpora" / "words", [words(400)])
        for number in range(options.rounds):
            pair = [(behind, True), (waiting, False)]
            for results, in_background in reversed(pair) if number % 2 else pair:
                for key, seconds in late(make_run_of(_recipe(options, in_background), folder), options).items():
                    results[key] += seconds
    return _report(behind, waiting, options)


def make_model(folder: Path, sizes: dict[str, int]) -> None:
    """A Llama of random weights with the tokenizer of the tiny one."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

    set_seed(0)
    config = AutoConfig.from_pretrained(ASSETS / "stories260k", **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(ASSETS / "stories260k").save_pretrained(folder / "model")


def _recipe(options: argparse.Namespace, in_background: bool) -> dict[str, Any]:
    steps = options.interval * (options.saves + 1)
    return cpt_recipe(
        model={"path": "./model"},
        batch={"global_batch": "4 sequences", "micro_batch": 4, "sequence_length": 32},
        schedule={"length": f"{steps} steps", "warmup": "2 steps"},
        checkpoint={"interval": f"{options.interval} steps", "keep": 2, "async": in_background},
    )


def late(run: RunDir, options: argparse.Namespace) -> Late:
    """Train, and measure what each save but the last one, which is always waited for, delays."""
    attempt = start(run, program=("-c", TIMED))
    assert attempt.wait() == [0], attempt.log()
    lines = [line.split()[1:] for line in attempt.log().splitlines() if line.startswith("WAITED ")]
    each, worked = ([float(numbers[place]) for numbers in lines[:-1]] for place in (0, 1))
    ends = [row["time"] for row in read_json_lines(run.metrics)]
    took = [after - before for before, after in pairwise(ends)]  # took[n - 1]: from the end of step n to that of n + 1
    saving = [options.interval * number for number in range(1, options.saves + 1)]
    usual = statistics.median(one for step, one in enumerate(took[2:], start=3) if step not in saving)
    between = [sum(took[step - 1 : step - 1 + options.interval]) - options.interval * usual for step in saving]
    return {"first": each[:1], "later": each[1:], "in all": between, "CPU": worked[1:]}


def _none() -> Late:
    return {"first": [], "later": [], "in all": [], "CPU": []}


def _report(behind: Late, waiting: Late, options: argparse.Namespace) -> int:
    peer = statistics.median(waiting["first"] + waiting["later"])
    ratios = {key: statistics.median(behind[key]) / peer for key in ("first", "later", "in all")}
    ratios["CPU"] = statistics.median(behind["CPU"]) / statistics.median(waiting["CPU"])
    if options.json:
        print(json.dumps({"behind": behind, "waiting": waiting, "ratios": ratios, "bar": BAR}))
    else:
        print(f"training waits for a save                {peer:7.3f} s")
        for key, what in (
            ("first", "the first copy"),
            ("later", "a later copy"),
            ("in all", "all until the next save"),
        ):
            print(f"in the background, {what:24} {statistics.median(behind[key]):5.3f} s  ratio {ratios[key]:.3f}")
        both = [statistics.median(results["CPU"]) for results in (behind, waiting)]
        print(f"CPU seconds of a later copy and of a save {both[0]:.3f} {both[1]:.3f}    ratio {ratios['CPU']:.3f}")
        judged = "not judged" if options.smallest else "reached" if ratios["later"] <= BAR else "MISSED"
        print(f"({judged}: a later copy at most {BAR})")
    return 0 if ratios["later"] <= BAR or options.smallest else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, alternating")
    parser.add_argument("--saves", type=int, default=5, help="saves of each run that training goes on after")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--smallest", action="store_true", help="see that it works, in seconds; judge nothing")
    options = parser.parse_args()
    options.interval = INTERVAL
    if options.smallest:
        options.rounds, options.saves, options.interval = 1, 2, 2
    return options


if __name__ == "__main__":
    sys.exit(main())
