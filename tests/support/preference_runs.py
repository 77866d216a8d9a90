"""Runs of kinds that learn from pairs of answers, for tests."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

from launcher.run.paths import RunDir, published_steps
from tests.support.training_runs import cpt_recipe, make_run_of

SUBJECTS = ("cat", "dog", "girl", "boy", "bird", "mum", "sun", "tree")


def separable_pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Questions whose preferred answer is a happy one: told apart by words that no question has."""
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        subject = draw.choice(SUBJECTS)
        good, bad = (f"The {subject} was very {feeling}." for feeling in ("happy", "sad"))
        pairs.append({"question": f"{number}: the {subject}?", "response_chosen": good, "response_rejected": bad})
    return pairs


def write_pairs(folder: Path, count: int = 20, name: str = "pairs.jsonl") -> None:
    """Write separable pairs as MedicalGPT's first versions did."""
    text = "".join(json.dumps(pair) + "\n" for pair in separable_pairs(count))
    (folder / name).write_text(text)


def preference_recipe(kind: str, **changes: Any) -> dict[str, Any]:
    """A small recipe for CPUs; keywords replace its sections' keys."""
    source = {"name": "pairs", "files": "pairs.jsonl", "format": "question"}
    data = {"sources": [source], "chat_template": "plain", "validation": 0.2, **changes.pop("data", {})}
    sizes = {
        "batch": {"global_batch": "4 sequences", "micro_batch": 1, "sequence_length": 64},
        "schedule": {"length": "6 steps", "warmup": "1 steps"},
        "checkpoint": {"interval": "100 steps"},
    }
    return cpt_recipe(**{"kind": kind, "name": f"tiny-{kind}", **sizes, **changes}) | {"data": data}


def make_preference_run(folder: Path, kind: str, **changes: Any) -> RunDir:
    """Make the run directory of a recipe, and its pairs."""
    if not (folder / "pairs.jsonl").exists():
        write_pairs(folder)
    return make_run_of(preference_recipe(kind, **changes), folder)


def preempted_after(run: RunDir, step: int, target: Path) -> RunDir:
    """Copy a run as if it had been preempted once it had saved a step."""
    shutil.copytree(run.root, target, ignore=shutil.ignore_patterns("outputs", "logs"))
    copied = RunDir(target)
    for later in published_steps(copied):
        if later > step:
            shutil.rmtree(copied.checkpoint(later))
    return copied
