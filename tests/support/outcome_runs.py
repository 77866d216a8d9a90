"""Running `outcomes` in tests: a task that is not under Slurm, and small tables of MIMIC, invented."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.kinds.outcomes import main
from jobs.rank.context import Context
from launcher.artifacts.outcomes_manifest import OutcomesManifest, read_outcomes
from launcher.recipe.kinds.outcomes import OutcomesRecipe
from launcher.recipe.sections.labelled_notes import CORE_TASKS, NOTE_SPLITS, Outcome
from tests.support.prepare_runs import ASSETS, context_of, write_source

FOLDERS = {"mimic_iii": ASSETS / "mimic_iii_layout", "mimic_iv": ASSETS / "mimic_iv_layout"}
NAMES = {
    "mimic_iii": {
        "notes": "NOTEEVENTS_discharge.csv.gz",
        "admissions": "ADMISSIONS.csv.gz",
        "diagnoses": "DIAGNOSES_ICD.csv.gz",
        "procedures": "PROCEDURES_ICD.csv.gz",
        "ventilation": "pmv_labels.csv",
    },
    "mimic_iv": {
        "notes": "discharge_sections.csv.gz",
        "admissions": "admissions.csv.gz",
        "diagnoses": "diagnoses_icd.csv.gz",
        "procedures": "procedures_icd.csv.gz",
    },
}
"""The shipped tables, invented."""

Tables = Mapping[str, Path]


def shipped(database: str) -> dict[str, Path]:
    """The shipped tables of a database."""
    return {key: FOLDERS[database] / name for key, name in NAMES[database].items()}


def make_outcomes(folder: Path, database: str, tables: Tables, **changes: object) -> Context:
    """A task of an `outcomes` recipe that lies in `folder` beside links to the tables, and makes `folder`/core."""
    source: dict[str, object] = {"format": database}
    for key, path in tables.items():
        link = folder / path.name
        if not link.exists():
            link.symlink_to(path)
        source[key] = f"./{path.name}"
    fields = {
        "kind": "outcomes",
        "name": "outcomes",
        "data_use": "credentialed",
        "source": source,
        "output": "core",
        "resources": {"time": "10min"},
    }
    return context_of(folder, OutcomesRecipe.model_validate_json(json.dumps(fields | changes)))


def outcomes_of(folder: Path, database: str, tables: Tables, **changes: object) -> OutcomesManifest:
    """Carry out an `outcomes` recipe; return the manifest of `folder`/core."""
    main(make_outcomes(folder, database, tables, **changes))
    return read_outcomes(folder / "core")


def rows_of(folder: Path, outcome: Outcome) -> dict[str, list[tuple[str, ...]]]:
    """The rows of an outcome's tables as the csv module reads them, the first one included, by split."""
    rows = {}
    for split in NOTE_SPLITS:
        with (folder / CORE_TASKS[outcome].file(split)).open(encoding="utf-8", newline="") as file:
            rows[split] = [tuple(row) for row in csv.reader(file, strict=True)]
    return rows


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a table as MIMIC's are, text quoted, compressed as the name says."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerows([columns, *rows])
    return write_source(path, text.getvalue().encode())
