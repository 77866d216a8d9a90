"""Real models learn something from real text: by how much, docs/fine-tuning.md and docs/classification.md say."""

import csv
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.run.ledger import read_json_lines
from launcher.run.paths import FINISHED
from tests.support.labelled_runs import classify_recipe
from tests.support.pretrained_models import minilm, smollm2
from tests.support.shared_data import shared_data
from tests.support.training_runs import ASSETS, cpt_recipe, make_run_of, train

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.mark.long
def test_held_out_answers_of_medquad_become_likelier(tmp_path: Path) -> None:
    smollm2(tmp_path / "smollm2")
    adapter = {"method": "lora", "r": 16, "alpha": 32}

    before, after = answer_losses(tmp_path, "./smollm2", 12, {}, adapter=adapter, precision={"dtype": "bf16"})

    assert after < before - 0.25


@pytest.mark.parametrize("adapter", [None, {"method": "lora", "r": 16, "alpha": 32}])
def test_held_out_answers_become_likelier_to_the_shipped_llama(tmp_path: Path, adapter: dict[str, Any] | None) -> None:
    shutil.copytree(ASSETS / "stories260k", tmp_path / "stories260k")

    data = {"chat_template": "alpaca", "too_long": "truncate"}

    before, after = answer_losses(tmp_path, "./stories260k", 30, data, length=384, adapter=adapter)

    assert after < before - 0.25


def answer_losses(
    folder: Path, model: str, steps: int, data: dict[str, Any], length: int = 192, **settings: Any
) -> list[float]:
    """Fine-tune on questions of MedQuAD that rehearsals use; return the loss of others' answers before and after."""
    shutil.copy(ASSETS / "medquad_80.json.gz", folder)
    source = {"name": "medquad", "files": "medquad_80.json.gz", "format": "alpaca"}
    recipe = cpt_recipe(
        kind="sft",
        model={"path": model},
        batch={"global_batch": "8 sequences", "micro_batch": 4, "sequence_length": length},
        schedule={"length": f"{steps} steps", "warmup": "1 steps"},
        optim={"lr": 1e-3},
        checkpoint={"interval": "100 steps"},
        evaluate="100 steps",
        **settings,
    )
    run = make_run_of(recipe | {"data": {"sources": [source], "packing": "pad", "validation": 0.25, **data}}, folder)

    attempt = train(run, ranks=2)

    assert attempt.exit_codes == [FINISHED] * 2, attempt.log()
    return [row["answer_loss"] for row in read_json_lines(run.evaluations)]


def test_mortality_of_other_patients_is_told_better_than_by_chance(tmp_path: Path) -> None:
    patients = notes_by_patient(tmp_path)
    data: dict[str, Any] = {
        "train": "train.csv",
        "validation": "validation.csv",
        "test": None,
        "classes": ["0", "1"],
        "long_notes": "head_and_tail",
    }
    recipe = classify_recipe(
        model={"path": "./minilm"},
        data=data,
        class_weights="balanced",
        batch={"global_batch": "16 sequences", "micro_batch": 8, "sequence_length": 256},
        schedule={"length": "3 epochs", "warmup": "6%"},
        optim={"lr": 1e-4, "weight_decay": 0.01},
        precision={"dtype": "bf16"},
        evaluation={"interval": "3 epochs", "resamples": 1000},
    )
    (tmp_path / "minilm").symlink_to(minilm())
    run = make_run_of(recipe, tmp_path)

    attempt = train(run, ranks=2)

    assert attempt.exit_codes == [FINISHED] * 2, attempt.log()
    assert not patients["train"] & patients["validation"]
    auroc = json.loads((run.outputs / "scores.json").read_text())["splits"]["validation"]["scores"]["auroc"]

    assert auroc["value"] > 0.6


def notes_by_patient(folder: Path) -> dict[str, set[str]]:
    """The sample's tables of mortality, a patient's number as id; validation: all notes of patients not trained on."""
    with gzip.open(shared_data("clinical/mimic_iii_like/ADMISSIONS.csv.gz"), "rt") as file:
        patient_of = {row["HADM_ID"]: row["SUBJECT_ID"] for row in csv.DictReader(file)}
    tables = {}
    for split in ("train", "val", "test"):
        path = shared_data(f"clinical/outcome_core_like/MP_IN_adm_{split}.csv")
        with path.open(newline="", encoding="utf-8") as file:
            rows = [*csv.DictReader(file)]
        tables[split] = [[patient_of[row["id"]], row["text"], row["hospital_expire_flag"]] for row in rows]
    trained = {row[0] for row in tables["train"]}
    held_out = [row for row in [*tables["val"], *tables["test"]] if row[0] not in trained]
    for name, rows_of in (("train", tables["train"]), ("validation", held_out)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["id", "text", "label"], *rows_of])
    return {"train": trained, "validation": {row[0] for row in held_out}}
