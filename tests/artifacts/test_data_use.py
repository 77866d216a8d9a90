"""What lies in or below a folder that says `credentialed` is credentialed, however it is reached."""

import json
from pathlib import Path

import pytest

from launcher.artifacts.adapter_folder import is_credentialed
from launcher.artifacts.data_use import find_credentialed


def put(path: Path, content: object = "") -> Path:
    """Write a file, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def say(path: Path, data_use: str = "credentialed") -> Path:
    return put(path, {"data_use": data_use})


@pytest.mark.parametrize(
    ("record", "file"),
    [
        ("recipe.json", "outputs/generations.jsonl"),
        ("recipe.json", "outputs/predictions/test.parquet"),
        ("recipe.json", "outputs/samples.jsonl"),
        ("outputs/generations.json", "outputs/generations.jsonl"),
        ("outputs/scores.json", "outputs/predictions/test.parquet"),
        ("outputs/scores.json", "outputs/items.parquet"),
        ("manifest.json", "los_train.csv"),
    ],
)
def test_what_lies_below_a_record_is_as_it_says(tmp_path: Path, record: str, file: str) -> None:
    closed, opened = put(tmp_path / "closed" / file), put(tmp_path / "open" / file)
    told = say(tmp_path / "closed" / record)
    say(tmp_path / "open" / record, "open")

    assert find_credentialed([opened, closed]) == (closed, told)
    assert find_credentialed([opened]) is None


def test_links_are_followed_and_the_folder_of_a_link_counts(tmp_path: Path) -> None:
    told = say(tmp_path / "run" / "recipe.json")
    file = put(tmp_path / "run" / "outputs" / "generations.jsonl")
    data = tmp_path / "data"
    data.mkdir()
    (data / "texts.jsonl").symlink_to(file)
    (data / "outputs").symlink_to(file.parent)

    assert find_credentialed([data / "texts.jsonl"]) == (data / "texts.jsonl", told)
    assert find_credentialed([data / "outputs" / "generations.jsonl"]) is not None

    free = put(tmp_path / "free.jsonl")
    (tmp_path / "run" / "outputs" / "more.jsonl").symlink_to(free)
    assert find_credentialed([tmp_path / "run" / "outputs" / "more.jsonl"]) is not None
    assert find_credentialed([free]) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '"credentialed"', '{"data_use": ["credentialed"]}', "[" * 100_000])
def test_a_record_that_cannot_be_read_says_nothing_and_the_next_one_counts(tmp_path: Path, content: str) -> None:
    file = put(tmp_path / "run" / "outputs" / "a.jsonl")
    put(tmp_path / "run" / "outputs" / "generations.json", content)
    assert find_credentialed([file]) is None

    told = say(tmp_path / "run" / "recipe.json")
    assert find_credentialed([file]) == (file, told)


def test_a_checkpoint_of_a_credentialed_run_is_credentialed_too(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints" / "step-00000002"
    put(folder / "adapter_config.json", {})
    assert not is_credentialed(folder)

    say(tmp_path / "run" / "recipe.json")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(folder)
    assert is_credentialed(folder)
    assert is_credentialed(tmp_path / "models" / "mine")
