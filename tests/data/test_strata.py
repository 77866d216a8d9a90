"""A stratified split: shares of each value, whole groups, whatever the files and their order."""

import gzip
import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from jobs.data.chat.strata import choose_held_out
from jobs.data.chat.tokenised_source import describe
from launcher.errors import LauncherError
from tests.data.test_tokenised_source import context_for, make
from tests.support.training_runs import ASSETS

PUBMEDQA = json.loads(gzip.decompress((ASSETS / "pubmedqa_60.json.gz").read_bytes()))


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=200), st.sampled_from([0.1, 0.25, 0.5, 0.37]))
def test_each_value_has_its_share_to_a_whole_number(values, share):
    groups = dict(enumerate(values))

    held_out = choose_held_out(groups, share)

    assert len(held_out) == round(share * len(groups) + 1e-12) or abs(share * len(groups) % 1 - 0.5) < 1e-9
    found, all_of_them = Counter(groups[one] for one in held_out), Counter(values)
    for value, count in all_of_them.items():
        assert abs(found[value] - share * count) < 1


def test_the_counts_are_those_of_scikit_learn():
    values = ["yes"] * 276 + ["no"] * 169 + ["maybe"] * 55
    [(_, test)] = StratifiedShuffleSplit(1, test_size=50, random_state=0).split(values, values)

    held_out = choose_held_out(dict(enumerate(values)), 0.1)

    assert Counter(values[one] for one in held_out) == Counter(values[one] for one in test)


def test_the_choice_depends_neither_on_the_order_nor_on_chance():
    draw = random.Random(3)
    groups = {draw.getrandbits(64): draw.choice("abc") for _ in range(100)}
    mixed = dict(draw.sample([*groups.items()], 100))

    assert choose_held_out(groups, 0.1) == choose_held_out(mixed, 0.1)


def prepared(folder, records, **data):
    (folder / "q.json").write_text(json.dumps(records))
    source = {"name": "pubmedqa", "files": "q.json", "format": "pubmedqa", "context": False}
    fields = {"validation": 0.25, "stratify_by": "final_decision", **data}
    [found] = make(context_for(folder, [source], **fields))
    return found


def test_the_record_of_a_source_counts_the_examples_of_each_value(tmp_path):
    found = prepared(tmp_path, PUBMEDQA)

    values = Counter(record["final_decision"] for record in PUBMEDQA.values())
    assert found.examples["validation"].documents == 15
    for value, count in values.items():
        its = found.tally.strata[value]
        assert its["train"] + its["validation"] == count
        assert abs(its["validation"] - count / 4) < 1
    assert f"yes: {found.tally.strata['yes']['train']} train, " in describe(found)


def test_a_question_that_occurs_twice_is_in_one_split(tmp_path):
    twice = PUBMEDQA | {f"again-{name}": record for name, record in PUBMEDQA.items()}

    found = prepared(tmp_path, twice)

    assert found.examples["validation"].documents == 2 * 15


def test_records_without_the_key_are_bad(tmp_path):
    with pytest.raises(
        LauncherError, match=r"has no text or number as `reasoning`, by which `data\.stratify_by` divides"
    ):
        prepared(tmp_path, PUBMEDQA, stratify_by="reasoning")


def test_a_split_without_held_out_conversations_is_refused(tmp_path):
    with pytest.raises(LauncherError, match=r"data: stratify_by: nothing is held out"):
        prepared(tmp_path, PUBMEDQA, validation=0.0)
