"""Scoring of options: ours against the Language Model Evaluation Harness, by its Python API, in turns in one process.

The same model, questions, prompts and threads; fp32 on CPUs. Questions of MMLU anatomy: letters and option texts,
without examples and with five. The harness' likelihoods are compared with ours, so that both do the same work.

    python bench/evaluate.py [--questions 24] [--rounds 2] [--json] [--smallest]
"""

import argparse
import csv
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import _pytest.outcomes
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.support.unmeasured import not_measured
from jobs.evaluation.choice_question import ChoiceQuestion
from jobs.evaluation.encode import PairEncoder
from jobs.evaluation.loaded_model import LoadedModel
from jobs.evaluation.option_scorer import OptionScorer
from jobs.evaluation.prompts import Prompt
from launcher.recipe.sections.evaluation_tasks import ChoiceTask

ASSETS = Path(__file__).parents[1] / "recipes" / "assets"
CASES = (("letters", 0, 1.1), ("texts", 0, 2.5), ("letters", 5, 3.0), ("texts", 5, 6.0))
"""What is scored, examples, and how many times as fast as the harness it should be."""
TOLERANCE = 1e-3
CAPACITY = 8192
"""The default of `tokens_per_batch`."""
PER_BATCH = 8
"""Requests of the harness in a batch: with five examples as many tokens as one of ours, about."""


def main() -> int:
    options = _parse()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.disable(logging.WARNING)
    try:
        model = _model(options.smallest)
    except _pytest.outcomes.Skipped as reason:
        return not_measured(reason)
    questions, examples = _questions("anatomy_test.csv")[: options.questions], _questions("anatomy_dev.csv")
    report = {}
    for what, shots, least in CASES:
        task = ChoiceTask.model_validate_json(
            json.dumps(
                {"type": "choice", "name": "t", "format": "mmlu", "files": "x", "options": what, "order": "first"}
                | ({"shots": shots, "examples": "x"} if shots else {})
            )
        )
        prompt = Prompt(task, what, examples)
        items = [(prompt.of(one), [f" {text}" for text in prompt.answers(one)]) for one in questions]
        report[f"{what}, {shots} examples"] = _compare(model, items, options.rounds) | {"least": least}
    return _print(report, options)


def _compare(model: LoadedModel, items: Sequence[tuple[str, list[str]]], rounds: int) -> dict[str, Any]:
    ways: dict[str, Callable[[], list[float]]] = {
        "ours": lambda: _ours(model, items),
        "lm-eval": lambda: _harness(model, items),
    }
    for way in (_ours, _harness):
        way(model, items[:2])  # the first computation of a shape is slow
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        for name in [*ways][:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            found[name] = ways[name]()
            seconds[name].append(time.perf_counter() - start)
    largest = max(abs(one - other) for one, other in zip(*found.values(), strict=True))
    assert largest < TOLERANCE, f"the two do not compute the same: {largest}"
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {"seconds": medians, "ratio": medians["lm-eval"] / medians["ours"], "largest_difference": largest}


def _ours(model: LoadedModel, items: Sequence[tuple[str, list[str]]]) -> list[float]:
    encoder = PairEncoder(model.tokenizer, model.max_length)
    requests = [encoder.encode(number, context, options) for number, (context, options) in enumerate(items)]
    scorer = OptionScorer(model, requests, CAPACITY)
    scores: dict[int, list[float]] = {}
    for batch in scorer.batches:
        scores |= dict(zip(batch, scorer.score(batch), strict=True))
    return [value for number in range(len(items)) for value in scores[number]]


def _harness(model: LoadedModel, items: Sequence[tuple[str, list[str]]]) -> list[float]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=PER_BATCH, device="cpu")
    pairs = [(context, option) for context, options in items for option in options]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    return [value for value, _ in harness.loglikelihood(requests, disable_tqdm=True)]


def _questions(name: str) -> list[ChoiceQuestion]:
    with (ASSETS / name).open(newline="") as file:
        rows = [*csv.reader(file)]
    return [
        ChoiceQuestion(str(number), row[0], tuple(row[1:5]), "ABCD".index(row[5]), subject="anatomy")
        for number, row in enumerate(rows)
    ]


def _model(smallest: bool) -> LoadedModel:
    """SmolLM2-135M where its package is installed (`bash .ci/model-packages`)."""
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "stories260k")
    if smallest:
        model = AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k", dtype=torch.float32)
        model.config.max_position_embeddings = tokenizer.model_max_length = 4096
    else:
        from tests.support.pretrained_models import smollm2

        with tempfile.TemporaryDirectory() as name:
            folder = smollm2(Path(name))
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(folder)
    return LoadedModel(model.eval(), tokenizer, torch.device("cpu"), torch.float32)


def _print(report: dict[str, Any], options: argparse.Namespace) -> int:
    missed = [name for name, case in report.items() if case["ratio"] < case["least"]]
    if options.json:
        print(json.dumps(report))
    else:
        for name, case in report.items():
            judged = "not judged" if options.smallest else "MISSED" if name in missed else "reached"
            ours, theirs = case["seconds"].values()
            print(
                f"{name:20s} ours {ours:6.2f} s  lm-eval {theirs:6.2f} s  {case['ratio']:5.2f} x as fast "
                f"({judged}: at least {case['least']})  largest difference {case['largest_difference']:.1e}"
            )
    return 1 if missed and not options.smallest else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smallest", action="store_true", help="see that it works, in seconds; judge nothing")
    options = parser.parse_args()
    if options.smallest:
        options.questions, options.rounds = 2, 1
    return options


if __name__ == "__main__":
    sys.exit(main())
