"""Numbers that the five systems published, beside our own."""

import json
from pathlib import Path

import pytest

from launcher.scores.published import published_systems, read_published
from tests.support.command_line import launcher
from tests.support.evaluations import answered, choice_report, write_evaluation


@pytest.mark.parametrize("system", published_systems())
def test_every_table_names_its_source_and_only_its_own_columns(system: str) -> None:
    table = read_published(system)

    assert table.source and table.metric
    assert {column for row in table.rows.values() for column in row} <= set(table.columns)
    assert table.rows or table.remark


@pytest.mark.parametrize(
    ("model", "columns"),
    [
        ("Clinical LLaMA-LoRA, trainable, + downstream LoRA", ["PMV", "MOR", "LOS", "DIAG", "PROC"]),
        ("BlueBERT", ["PMV", "MOR", "LOS", "DIAG", "PROC"]),
        ("LLaMA + LoRA", ["PMV", "MOR", "LOS", "DIAG", "PROC"]),
    ],
)
def test_averages_are_those_of_the_row(model: str, columns: list[str]) -> None:
    row = read_published("clinical_llama_lora").rows[model]

    assert sum(row[name] for name in columns) / len(columns) == pytest.approx(row["average"], abs=0.01)


def test_the_average_of_medcare_is_that_of_its_eight_sets() -> None:
    row = dict(read_published("medcare").rows["MedCare-14B"])
    average = row.pop("average")

    assert len(row) == 8
    assert sum(row.values()) / 8 == pytest.approx(average, abs=0.01)


def test_biomed_llama_is_beside_its_base_in_each_way_of_asking() -> None:
    rows = read_published("biomed_llama").rows
    ways = {name.removeprefix("BioMed-LLaMA-7B"): columns for name, columns in rows.items() if "BioMed-L" in name}

    assert len(ways) == 4
    assert {way: {*rows[f"LLaMA-7B{way}"]} for way in ways} == {way: {*columns} for way, columns in ways.items()}


@pytest.fixture
def ours(tmp_path: Path) -> str:
    tasks = {"medqa": choice_report(answered([True, False, True, True]))}
    return str(write_evaluation(tmp_path / "ours", tasks, "ours", "abc123"))


def test_the_table_stands_below_our_own_with_its_remark(ours: str) -> None:
    out, _ = launcher("compare", ours, "--published", "clinical_llama_lora", environ={"COLUMNS": "120"})
    shown = out[out.index("published by") :]

    assert shown.splitlines()[0].startswith("published by Clinical LLaMA-LoRA, not measured here: AUROC in percent")
    assert "arXiv 2307.03042" in shown.splitlines()[0]
    [blue] = [line for line in shown.splitlines() if line.startswith("BlueBERT  ")]
    assert blue.split() == ["BlueBERT", "53.12", "76.95", "66.36", "73.81", "77.7", "69.59"]
    assert "note: in the published code the downstream adapter gets no gradient" in shown


def test_json_has_it_too(ours: str) -> None:
    found = json.loads(launcher("compare", ours, "--published", "pubmedqa_qlora", "--json")[0])

    assert found["published"]["rows"]["fine-tuned"]["accuracy"] == 78.1


def test_an_unknown_system_is_refused_with_those_that_there_are(ours: str) -> None:
    _, said = launcher("compare", ours, "--published", "gpt-4", code=2)

    assert "no such system; write one of medcare, medicalgpt" in said
