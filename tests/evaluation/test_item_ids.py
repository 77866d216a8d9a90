"""Ids of items are unique where they can be made so, and as they were where they are."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.evaluation.item_ids import check_ids, numbered, with_folders
from launcher.errors import LauncherError

BASE, OTHER = Path("/data/hh/base/train.jsonl"), Path("/data/hh/online/train.jsonl")
names = st.lists(st.sampled_from(["x", "x#2", "x#3", "y", "z"]), max_size=12)


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    found = with_folders(["train.jsonl:1", "own", "train.jsonl:1", "more"], [BASE, BASE, OTHER, OTHER])

    assert found == ["base/train.jsonl:1", "own", "online/train.jsonl:1", "more"]


def test_folders_are_named_below_the_one_that_holds_all_files() -> None:
    deeper = OTHER.parent / "a" / "train.jsonl"

    assert with_folders(["train.jsonl:1"] * 2, [OTHER, deeper]) == ["train.jsonl:1", "a/train.jsonl:1"]


@pytest.mark.parametrize("ids", [["train.jsonl:1", "train.jsonl:2"], ["own", "train.jsonl:1"], []])
def test_ids_that_are_unique_stay(ids: list[str]) -> None:
    assert with_folders(ids, [BASE, OTHER][: len(ids)]) == ids
    assert numbered(ids) == ids


def test_the_second_of_an_id_gets_a_number_that_no_other_has() -> None:
    assert numbered(["x", "x", "y", "x", "x#3"]) == ["x", "x#2", "y", "x#4", "x#3"]


@given(names)
def test_numbered_ids_are_unique_and_the_first_of_each_stays(ids: list[str]) -> None:
    found = numbered(ids)

    assert len({*found}) == len(ids)
    for name in {*ids}:
        assert found[ids.index(name)] == name


def test_ids_that_stay_twice_are_refused() -> None:
    check_ids(["x", "y"], "tasks.0.files")
    with pytest.raises(LauncherError, match=r"^tasks\.0\.files: 1 ids occur more than once, first `x`; make them"):
        check_ids(["x", "y", "x"], "tasks.0.files")
