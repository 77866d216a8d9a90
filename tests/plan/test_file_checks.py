"""What a credentialed run made is read by credentialed recipes alone: said before anything is queued."""

import json
from pathlib import Path

import pytest

from launcher.load import load_recipes
from launcher.plan import check_all
from tests.support.recipe_files import profile, write

HEAD = """\
name: mine
tracking: {mode: disabled}
"""
SFT = """\
kind: sft
model: {path: org/model}
data:
  sources:
  - {name: made, files: FILES, format: alpaca}
  chat_template: plain
batch: {global_batch: 8 sequences, micro_batch: 8, sequence_length: 128}
optim: {lr: 1e-4}
schedule: {length: 1 epoch}
resources: {time: 1h, gpus_per_node: 1}
"""
EVALUATE = """\
kind: evaluate
tasks:
- {type: classification, name: found, files: FILES, labels: binary}
resources: {time: 1h}
"""
PROFILE = """\
name: site
roots: {runs: runs, data: data, corpora: corpora, models: models}
"""
RUN = "runs/notes-1"


def made_by_run(folder: Path, file: str, data_use: str = "credentialed") -> None:
    """Write a file of a run whose recipe has a `data_use`."""
    path = folder / RUN / file
    path.parent.mkdir(parents=True)
    path.write_text("")
    (folder / RUN / "recipe.json").write_text(json.dumps({"data_use": data_use}))


def complaints(folder: Path, text: str, files: str, more: str = "") -> list[str]:
    """Code, key and message of each fault of a recipe that reads files."""
    loaded = load_recipes(write(folder, HEAD + more + text.replace("FILES", files)))
    found = check_all(loaded, profile(folder, PROFILE))
    return [f"{one.code} {one.key}: {one.message}".replace(f"{folder}/", "") for one in found]


CASES = pytest.mark.parametrize(
    ("text", "key", "file"),
    [
        (SFT, "data.sources.0.files", "outputs/generations.jsonl"),
        (EVALUATE, "tasks.0.files", "outputs/predictions/test.parquet"),
    ],
)


@CASES
def test_what_a_credentialed_run_made_binds_who_reads_it(tmp_path: Path, text: str, key: str, file: str) -> None:
    made_by_run(tmp_path, file)

    assert complaints(tmp_path, text, f"./{RUN}/{file}") == [
        f"data-use {key}: `./{RUN}/{file}` was made of credentialed data, as `{RUN}/recipe.json` says; "
        "write `data_use: credentialed`"
    ]
    assert complaints(tmp_path, text, f"./{RUN}/{file}", "data_use: credentialed\n") == []


@CASES
def test_what_an_open_run_made_binds_nobody(tmp_path: Path, text: str, key: str, file: str) -> None:
    made_by_run(tmp_path, file, "open")

    assert complaints(tmp_path, text, f"./{RUN}/{file}") == []


def test_what_a_credentialed_run_has_not_made_yet_binds_too(tmp_path: Path) -> None:
    made_by_run(tmp_path, "attempts.jsonl")

    found = complaints(tmp_path, SFT, f"./{RUN}/outputs/*.jsonl")

    assert [one.partition(":")[0] for one in found] == [
        "not-found data.sources.0.files",
        "data-use data.sources.0.files",
    ]


def test_a_task_that_may_be_left_out_is_looked_at_where_its_files_are_there(tmp_path: Path) -> None:
    file = "outputs/predictions/test.parquet"
    text = EVALUATE + "missing_files: leave_out\n"
    assert complaints(tmp_path, text, f"./{RUN}/{file}") == []

    made_by_run(tmp_path, file)
    [found] = complaints(tmp_path, text, f"./{RUN}/{file}")

    assert found.startswith("data-use tasks.0.files: ")
