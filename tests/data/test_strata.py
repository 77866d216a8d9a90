"""A stratified split: shares of each value, whole groups, whatever the files and their order."""

import gzip
import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from jobs.data.chat.formats import conversation_of
from jobs.data.chat.store import open_sequences
from jobs.data.chat.strata import choose_held_out, question_hash
from jobs.data.chat.tokenised_source import describe, finished_source, make_examples, renderer_of
from jobs.rank.context import Context
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


def several(folder, **sources):
    """A recipe of several sources, each with records of its own, of which a quarter of the questions is held out."""
    sections = []
    for name, records in sources.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
        sections.append({"name": name, "files": f"{name}.json", "format": "pubmedqa", "context": False})
    return context_for(folder, sections, validation=0.25, stratify_by="final_decision", packing="pad")


def questions(context: Context):
    """The questions of each source and split."""
    names = [source.name for source in context.recipe.data.sources]
    prepared = [finished_source(context.run.examples, name) for name in names]
    decode, found = renderer_of(context, context.recipe).tokenizer.decode, {}
    for split in ("train", "validation"):
        for opened in open_sequences(context.run.examples, prepared, split):
            examples = [opened.read(number)[0] for number in range(len(opened))]
            found[opened.name, split] = {decode(one.ids[~one.is_answer]) for one in examples}
    return found


def overlapping():
    """Two sources of 40 questions, of which 20 are in both; the second one has other answers to these."""
    records = [*PUBMEDQA.items()]
    again = {name: record | {"final_decision": "maybe"} for name, record in records[20:40]}
    return {"first": dict(records[:40]), "second": again | dict(records[40:])}


def test_a_question_of_two_sources_is_in_one_split(tmp_path):
    context = several(tmp_path, **overlapping())
    prepared = make(context)

    found = questions(context)
    train, validation = (found["first", split] | found["second", split] for split in ("train", "validation"))
    assert not train & validation
    assert (len(train), len(validation)) == (45, 15)
    assert found["first", "validation"] & found["second", "validation"], "the case occurs"
    values = Counter(record["final_decision"] for record in [*PUBMEDQA.values()][20:])
    counted = {value: sum(its.values()) for value, its in prepared[1].tally.strata.items()}
    assert counted == values, "of a question in both, the first source's value counts"


def test_a_source_alone_is_split_by_its_own_questions(tmp_path):
    context = several(tmp_path, only=PUBMEDQA)
    [source] = context.recipe.data.sources
    asked = [conversation_of(record, source).messages for record in PUBMEDQA.values()]
    values = [record["final_decision"] for record in PUBMEDQA.values()]
    held_out = choose_held_out(dict(zip(map(question_hash, asked), values, strict=True)), 0.25)

    make(context)

    found = questions(context)["only", "validation"]
    texts = [messages[0]["content"] for messages in asked if question_hash(messages) in held_out]
    assert len(found) == len(texts) == 15
    assert all(any(text in rendered for rendered in found) for text in texts)


def test_sources_with_the_same_questions_are_split_as_each_alone(tmp_path):
    alone, twice = tmp_path / "alone", tmp_path / "twice"
    for folder in (alone, twice):
        folder.mkdir()
    first, second = several(alone, first=PUBMEDQA), several(twice, first=PUBMEDQA, second=PUBMEDQA)
    for context in (first, second):
        make(context)

    found, expected = questions(second), questions(first)
    for split in ("train", "validation"):
        assert found["first", split] == found["second", split] == expected["first", split]


def test_a_resumed_run_holds_out_the_same_questions(tmp_path):
    whole, parts = several(tmp_path, **overlapping()), several(tmp_path, **overlapping())
    make(whole)

    steps = make_examples(parts, parts.recipe, parts.run.examples)
    while finished_source(parts.run.examples, "first") is None:
        next(steps)
    steps.close()
    assert finished_source(parts.run.examples, "second") is None
    make(parts)

    assert questions(parts) == questions(whole)


def test_records_without_the_key_are_bad(tmp_path):
    with pytest.raises(
        LauncherError, match=r"has no text or number as `reasoning`, by which `data\.stratify_by` divides"
    ):
        prepared(tmp_path, PUBMEDQA, stratify_by="reasoning")


def test_a_split_without_held_out_conversations_is_refused(tmp_path):
    with pytest.raises(LauncherError, match=r"data: stratify_by: nothing is held out"):
        prepared(tmp_path, PUBMEDQA, validation=0.0)
