"""On the node, too, what a credentialed run made is read by credentialed recipes alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.data.labelled.notes import read_notes
from jobs.evaluation.classification import prepare_classification
from jobs.rank.context import Context
from launcher.errors import LauncherError
from launcher.recipe import ClassifyRecipe
from launcher.recipe.kinds.evaluate import EvaluateRecipe
from launcher.recipe.sections.classification_task import ClassificationTask
from tests.data.test_tokenised_source import ask, make, sft_recipe
from tests.support.labelled_runs import classify_recipe, invented_notes, write_table
from tests.support.training_runs import context_of, make_run_of

MADE = "notes-1/outputs"
"""Outputs of another run."""


@pytest.fixture(params=["credentialed", "open"])
def data_use(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """That of the other run."""
    (tmp_path / MADE).mkdir(parents=True)
    said = {"data_use": request.param}
    (tmp_path / "notes-1" / "recipe.json").write_text(json.dumps(said))
    yield request.param


def contexts(folder: Path, recipe: dict[str, Any]) -> dict[str, Context]:
    """A run of a recipe for each `data_use`."""
    return {use: context_of(make_run_of(recipe | {"data_use": use}, folder)) for use in ("open", "credentialed")}


def refusal(key: str, file: str) -> str:
    return (
        rf"^{key}: `\S+/{file}` was made of credentialed data, as `\S+/notes-1/recipe\.json` says; "
        "write `data_use: credentialed`$"
    )


def test_conversations(tmp_path: Path, data_use: str) -> None:
    (tmp_path / MADE / "generations.jsonl").write_text(json.dumps(ask(1)))
    source = {"name": "made", "files": f"{MADE}/generations.jsonl", "format": "alpaca"}
    read = contexts(tmp_path, sft_recipe([source]))

    make(read["credentialed"])
    if data_use == "open":
        make(read["open"])
    else:
        with pytest.raises(LauncherError, match=refusal(r"data\.sources\.0\.files", r"generations\.jsonl")):
            make(read["open"])


def test_predictions(tmp_path: Path, data_use: str) -> None:
    rows = [{"id": str(number), "label": "ab"[number % 2], "p_a": 0.5, "p_b": 0.5} for number in range(4)]
    (tmp_path / MADE / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"type": "classification", "name": "found", "files": f"{MADE}/*.jsonl", "labels": "binary"}
    recipe = {"kind": "evaluate", "name": "scores", "tasks": [task], "resources": {"time": "5min"}}

    def read(context: Context) -> None:
        assert isinstance(context.recipe, EvaluateRecipe)
        [only] = context.recipe.tasks
        assert isinstance(only, ClassificationTask)
        prepare_classification(context, context.recipe, only, "tasks.0")

    found = contexts(tmp_path, recipe)
    read(found["credentialed"])
    if data_use == "open":
        read(found["open"])
    else:
        with pytest.raises(LauncherError, match=refusal(r"tasks\.0\.files", r"test\.jsonl")):
            read(found["open"])


def test_tables_of_labelled_notes(tmp_path: Path, data_use: str) -> None:
    for split, folder in (("train", MADE), ("validation", "."), ("test", ".")):
        write_table(tmp_path / folder / f"binary-{split}.csv", invented_notes("binary", 12, split))

    def read(context: Context) -> None:
        assert isinstance(context.recipe, ClassifyRecipe)
        read_notes(context, context.recipe)

    found = contexts(tmp_path, classify_recipe(data={"train": f"{MADE}/binary-train.csv"}))
    read(found["credentialed"])
    if data_use == "open":
        read(found["open"])
    else:
        with pytest.raises(LauncherError, match=refusal(r"data\.train", r"binary-train\.csv")):
            read(found["open"])
