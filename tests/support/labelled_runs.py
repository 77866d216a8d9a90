"""Small tables of labelled notes with something to learn, and runs that learn it."""

import csv
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

from launcher.run.paths import RunDir
from tests.support.training_runs import ASSETS, make_run_of

SIZES = {"train": 48, "validation": 21, "test": 13}
"""Notes of each split: not multiples of any batch or world size."""
CODES = ("401", "250", "428", "E888")
_TOLD = ("the cat sat", "a red ball", "they ran home", "it was dark")
"""What a note says if it has a class."""

Row = tuple[str, str, str]


def classify_recipe(labels: str = "binary", **changes: Any) -> dict[str, Any]:
    """A small `classify` recipe for CPUs; keywords replace its sections' keys."""
    classes = {"binary": ["0", "1"], "multiclass": ["0", "1", "2"], "multilabel": [*CODES]}[labels]
    sections: dict[str, Any] = {
        "kind": "classify",
        "name": "tiny",
        "model": {"path": "stories260k"},
        "data": {
            "format": "csv",
            "train": f"{labels}-train.csv",
            "validation": f"{labels}-validation.csv",
            "test": f"{labels}-test.csv",
            "labels": labels,
            "classes": classes,
        },
        "evaluation": {"interval": "4 steps", "resamples": 20},
        "batch": {"global_batch": "8 sequences", "micro_batch": 2, "sequence_length": 32},
        "optim": {"lr": 2e-3},
        "schedule": {"length": "12 steps", "warmup": "1 steps"},
        "precision": {"dtype": "fp32"},
        "parallel": {"strategy": "ddp"},
        "checkpoint": {"interval": "100 steps", "keep": 1},
        "tracking": {"mode": "disabled"},
        "resources": {"nodes": 1, "cpus_per_task": 1, "time": "10min"},
    }
    for name, value in changes.items():
        sections[name] = {**sections[name], **value} if isinstance(sections.get(name), dict) else value
    return sections


def make_classify_run(folder: Path, labels: str = "binary", **changes: Any) -> RunDir:
    """Make the run directory of a `classify` recipe, and the tables it reads."""
    for split, size in SIZES.items():
        path = folder / f"{labels}-{split}.csv"
        if not path.exists():
            write_table(path, invented_notes(labels, size, split))
    return make_run_of(classify_recipe(labels, **changes), folder)


def write_table(path: Path, rows: Sequence[Row], label_column: str = "label") -> Path:
    """Write a table as CORe does."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("id", "text", label_column), *rows])
    return path


def invented_notes(labels: str, size: int, seed: str) -> list[Row]:
    """Notes that say what classes they have, most of the time."""
    draw = random.Random(f"{labels}/{seed}")
    rows = []
    for number in range(size):
        filler = ["Once upon a time, there was a little girl.\nShe was happy."] * draw.randint(0, 3)
        if labels == "multilabel":
            has = [index for index in range(len(CODES)) if draw.random() < 0.4]
            label = ",".join(CODES[index] for index in has)
        else:
            has = [draw.randrange(2 if labels == "binary" else 3)]
            label = str(has[0])
        told = [_TOLD[index] for index in has if draw.random() < 0.9] or ["nothing"]
        rows.append((str(1000 + number), f'"{". ".join([*told, *filler])}."', label))
    return rows


def make_encoder(folder: Path) -> str:
    """Make a tiny random BERT, dropout included, with the tokenizer of the tiny Llama; return its path in a recipe."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=512, max_position_embeddings=64, **shape)).save_pretrained(folder / "bert")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(ASSETS / "stories260k" / name, folder / "bert")
    return "./bert"
