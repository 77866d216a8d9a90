"""What a score says about the corpora of the model: found by the model's manifest, told by the corpus' own."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.evaluation.contamination import training_data
from launcher.artifacts.corpus_manifest import EvaluationSet, file_sha256
from launcher.artifacts.scores import ScoredFile, TaskScores
from launcher.recipe.sections.evaluated_model import EvaluatedModel
from tests.support.corpora import make_corpus
from tests.support.training_runs import context_of, make_run_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that was trained from another, on corpora one of which was decontaminated against two files."""
    (tmp_path / "questions.jsonl").write_text('{"question": "a"}\n')
    for name in ("clean", "other"):
        make_corpus(tmp_path / "corpora" / name, [[[1, 2]]], validation=[[1, 2]])
    manifest = tmp_path / "corpora" / "clean" / "manifest.json"
    sets = [
        (str(tmp_path / "questions.jsonl"), file_sha256(tmp_path / "questions.jsonl")),
        ("/elsewhere/test.json", "0" * 64),
    ]
    found = [
        EvaluationSet(path=path, sha256=sha, records=1, ngrams=1, documents=7, found=1, found_most={}).model_dump()
        for path, sha in sets
    ]
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"decontamination": found}))
    for name, content in {
        "trained": {"corpora": ["questions"], "base_model": "./base"},
        "base": {"corpora": ["clean", "other"], "base_model": "./trained"},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(content))
    return tmp_path


def notes(folder: Path, path: Path, sha256: str | None = None, **settings: Any) -> tuple[str, ...]:
    recipe = {
        "kind": "evaluate",
        "name": "scores",
        "model": {"path": "./trained"},
        "tasks": [{"type": "choice", "name": "a", "format": "choice", "files": "a"}],
        "resources": {"time": "5min"},
    }
    context = context_of(make_run_of(recipe, folder))
    file = ScoredFile(path=str(path), sha256=sha256 or file_sha256(path))
    scores = TaskScores(
        type="choice", headline="acc", n=1, scores={}, files=(file,), items_sha256="", settings=settings
    )
    return training_data(context, EvaluatedModel(path="./trained")).notes(scores)


FINE_TUNED = "trained on `questions`, which is no corpus here: not checked for this task"


def test_a_file_that_a_corpus_was_decontaminated_against_is_told_by_its_content(folder: Path) -> None:
    assert notes(folder, folder / "questions.jsonl") == (
        "trained on `clean`, which was decontaminated against questions.jsonl (7 documents were dropped for it)",
        "trained on `other`, which was not decontaminated against questions.jsonl",
        FINE_TUNED,
    )
    assert notes(folder, folder / "test.json", "1" * 64) == (
        "trained on `clean`, which was decontaminated against a file test.json of other content, not against this one",
        "trained on `other`, which was not decontaminated against test.json",
        FINE_TUNED,
    )


def test_the_split_of_a_corpus_is_told_apart_from_what_was_trained_on(folder: Path) -> None:
    manifest = folder / "corpora" / "other" / "manifest.json"
    assert "trained on `other`, whose `validation` split was held out" in notes(folder, manifest, split="validation")
    assert "trained on this split of `other`" in notes(folder, manifest, split="train")
    assert "trained on `clean`; whether it shares documents with other was not checked" in notes(folder, manifest)


def test_without_a_manifest_nothing_is_said(folder: Path) -> None:
    (folder / "trained" / "manifest.json").unlink()
    assert notes(folder, folder / "questions.jsonl") == ()
