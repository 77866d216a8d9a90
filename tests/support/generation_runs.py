"""Generation in tests: prompts from shipped text, run directories of a run and of its array elements."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.rank.context import Context
from launcher.recipe import GenerateRecipe
from launcher.run.record import CorpusShare
from tests.support.prepare_runs import abstracts, context_of

DECODING = {"max_new_tokens": 12}


def write_prompts(folder: Path, count: int = 24) -> Path:
    """Write prompts of many lengths: the first words of abstracts."""
    texts = [" ".join(text.split()[: 3 + 7 * number % 40]) for number, text in enumerate(abstracts()[:count])]
    return write_records(folder / "prompts.jsonl", [{"id": f"p{i}", "prompt": text} for i, text in enumerate(texts)])


def write_records(path: Path, records: Sequence[object]) -> Path:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def generate_recipe(**changes: Any) -> dict[str, Any]:
    """A small recipe for CPUs; keywords replace its keys."""
    return {
        "kind": "generate",
        "name": "texts",
        "model": {"path": "stories260k", "dtype": "fp32"},
        "data": {"files": "./prompts.jsonl", "format": "prompt"},
        "decoding": DECODING,
        "too_long": "cut",
        "tokens_per_batch": 400,
        "tracking": {"mode": "disabled"},
        "resources": {"cpus_per_task": 1, "time": "10min"},
    } | changes


def generation(folder: Path, models: Path | None = None, **changes: Any) -> Context:
    """The only rank of a `generate` whose recipe, prompts and run directory lie in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = GenerateRecipe.model_validate_json(json.dumps(generate_recipe(**changes)))
    return context_of(folder, recipe, *([models] if models else []))


def share_of(context: Context, index: int, count: int) -> Context:
    """One of the array elements that work for a run."""
    run = context.run.share(index)
    run.root.mkdir(parents=True, exist_ok=True)
    record = replace(context.record, id=run.root.name, share=CorpusShare(index, count))
    run.recipe.write_text(context.run.recipe.read_text())
    record.write(run.record)
    return replace(context, run=run, record=record)


def texts_of(context: Context) -> list[dict[str, Any]]:
    """The lines that a run published."""
    lines = (context.run.outputs / "generations.jsonl").read_bytes().splitlines()
    return [json.loads(line) for line in lines]
