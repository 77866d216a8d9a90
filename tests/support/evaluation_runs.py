"""Evaluations in tests: a run directory, a recipe, one rank, and what lm-eval says of the same items."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from datasets import Dataset
from lm_eval import evaluator
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

from jobs.evaluation.loaded_model import DTYPES
from jobs.rank.context import Context
from launcher.artifacts.scores import ITEMS, EvaluationScores, read_scores
from launcher.recipe import EvaluateRecipe
from tests.support.prepare_runs import ASSETS, context_of

METRICS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")


def evaluation(folder: Path, *tasks: dict[str, Any], **changes: Any) -> Context:
    """One rank of an evaluation whose files lie in `folder`; keywords change the recipe."""
    fields = {
        "kind": "evaluate",
        "name": "evaluation",
        "model": {"path": "stories260k", "dtype": "fp32"},
        "tasks": tasks,
        "tracking": {"mode": "disabled"},
        "resources": {"cpus_per_task": 1, "time": "1h"},
    }
    return context_of(folder, EvaluateRecipe.model_validate_json(json.dumps(fields | changes)))


def put_assets(folder: Path, *names: str) -> None:
    """Put files of recipes/assets into a folder."""
    for name in names:
        (folder / name).write_bytes((ASSETS / name).read_bytes())


def scores_of(context: Context) -> EvaluationScores:
    """What the run published."""
    return read_scores(context.run.outputs)


def items_of(context: Context, task: str | None = None) -> list[dict[str, Any]]:
    """The rows of items.parquet, with their details read."""
    rows = pyarrow.parquet.read_table(context.run.outputs / ITEMS).to_pylist()
    chosen = [row for row in rows if task in (None, row["task"])]
    return [row | {"details": json.loads(row["details"])} for row in chosen if row["details"]]


def lm_eval_samples(
    model: Path, dtype: str, records: Sequence[dict[str, Any]], shots: Sequence[dict[str, Any]] = (), **config: Any
) -> list[dict[str, Any]]:
    """What lm-eval computes for a multiple-choice task: its samples, in the order of the records.

    Args:
        model: Folder.
        dtype: The recipe's word.
        records: Documents of the task.
        shots: Documents of the few-shot split; all are used, in their order.
        config: Of the task: `doc_to_text`, `doc_to_choice`, `doc_to_target`.
    """
    splits = {"test": Dataset.from_list([*records]), "dev": Dataset.from_list([*(shots or records)])}
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in METRICS]
    task = ConfigurableTask(
        config={
            "task": "ours",
            "custom_dataset": lambda **_: splits,
            "test_split": "test",
            "fewshot_split": "dev",
            "fewshot_config": {"sampler": "first_n"},
            "output_type": "multiple_choice",
            "num_fewshot": len(shots),
            "metric_list": metrics,
            **config,
        }
    )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=DTYPES[dtype]).eval()
    harness = HFLM(
        pretrained=loaded, tokenizer=AutoTokenizer.from_pretrained(model), batch_size=4, device="cpu", max_length=None
    )
    with torch.inference_mode():
        result = evaluator.simple_evaluate(harness, tasks=[task], bootstrap_iters=0, log_samples=True)
    return sorted(result["samples"]["ours"], key=lambda sample: sample["doc_id"])
