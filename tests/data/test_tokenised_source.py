"""From sources to prepared examples: what is kept, counted, refused, and told of it."""

import json
import shutil
from dataclasses import replace

import pytest

from jobs.data.chat.store import open_sequences
from jobs.data.chat.tokenised_source import describe, finished_source, make_examples, renderer_of
from launcher.errors import LauncherError
from tests.support.shared_data import shared_data
from tests.support.term_indexes import SOME, index_of
from tests.support.training_runs import ASSETS, context_of, cpt_recipe, make_run_of

REAL = {
    "medquad": ("sft/medquad_alpaca.2000.json.gz", {"format": "alpaca"}),
    "medicalgpt": ("sft/medicalgpt/medical_sft_sharegpt.600.jsonl", {"format": "sharegpt"}),
    "medmcqa": ("qa/medmcqa/dev.2000.jsonl", {"format": "medmcqa", "cop_base": 1}),
    "pubmedqa": ("qa/pubmedqa/ori_pqal.json", {"format": "pubmedqa", "exclude": "test_ground_truth.json"}),
}


def sft_recipe(sources, length=512, **data):
    recipe = cpt_recipe(kind="sft", batch={"sequence_length": length})
    return recipe | {"data": {"sources": sources, "chat_template": "alpaca", **data}}


def context_for(folder, sources, length=512, **data):
    return context_of(make_run_of(sft_recipe(sources, length, **data), folder))


def make(context):
    for _ in make_examples(context, context.recipe, context.run.examples):
        pass
    return [finished_source(context.run.examples, source.name) for source in context.recipe.data.sources]


def write(folder, name, records):
    (folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return {"name": name.split(".")[0], "files": name, "format": "alpaca"}


def ask(number, answer="Yes, it is."):
    return {"instruction": f"Is {number} a number?", "output": answer}


@pytest.mark.slow
def test_real_sources_are_prepared_and_accounted_for(tmp_path):
    sources = []
    for name, (file, options) in REAL.items():
        shutil.copy(shared_data(file), tmp_path)
        sources.append({"name": name, "files": file.rpartition("/")[2], **options})
    shutil.copy(shared_data("qa/pubmedqa/test_ground_truth.json"), tmp_path)
    context = context_for(tmp_path, sources, length=2048, validation=0.1)

    prepared = {source.name: source for source in make(context)}

    records = {name: source.tally.records for name, source in prepared.items()}
    assert records == {"medquad": 2000, "medicalgpt": 600, "medmcqa": 2000, "pubmedqa": 1000}
    assert prepared["pubmedqa"].tally.dropped["excluded"] == 500
    for source in prepared.values():
        kept = sum(shard.documents for shard in source.examples.values())
        assert kept + sum(source.tally.dropped.values()) == source.tally.records
        assert source.examples["validation"].documents == pytest.approx(0.1 * kept, rel=0.35)
        assert source.tally.bad_records == 0
    renderer = renderer_of(context, context.recipe)
    for opened in open_sequences(context.run.examples, list(prepared.values()), "train"):
        answers = 0
        for index in range(len(opened)):
            examples = opened.read(index)
            assert sum(len(one.ids) for one in examples) <= 2048
            assert all(one.is_answer.any() for one in examples)
            answers += sum(int(one.is_answer.sum()) for one in examples)
        assert answers == prepared[opened.name].tally.answer_tokens["train"]
        assert "### Response:" in renderer.tokenizer.decode(opened.read(0)[0].ids)


def test_too_long_examples_are_dropped_or_truncated_and_counted(tmp_path):
    records = [ask(1), ask(2, "word " * 300), ask("long " * 300)]
    source = write(tmp_path, "a.jsonl", records)

    (dropped,) = make(context_for(tmp_path, [source], length=128, too_long="drop"))
    (cut,) = make(context_for(tmp_path, [source], length=128, too_long="truncate"))

    assert (dropped.tally.dropped, dropped.tally.truncated) == ({"too_long": 2}, 0)
    assert (cut.tally.dropped, cut.tally.truncated) == ({"no_answer_left": 1}, 1)
    assert "train 2 examples" in describe(cut)
    assert "dropped 1 (no_answer_left); 1 truncated; 0 of 3 records unreadable" in describe(cut)


def test_loose_ends_of_sharegpt_are_no_bad_records_and_are_counted(tmp_path, capfd):
    turns = [{"from": "gpt", "value": "Hello!"}, {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    records = [{"conversations": some} for some in (turns, turns[1:], [*turns[1:], turns[1]], [*turns, turns[1]])]
    source = write(tmp_path, "a.jsonl", records) | {"format": "sharegpt"}

    (prepared,) = make(context_for(tmp_path, [source]))

    assert (prepared.tally.bad_records, prepared.examples["train"].documents) == (0, 4)
    assert prepared.tally.trimmed == {"leading_answer": 2, "unanswered_question": 2}
    assert "trimmed 2 (leading_answer); trimmed 2 (unanswered_question); 0 of 4" in capfd.readouterr().out


def test_too_many_bad_records_are_refused_and_named_without_their_text(tmp_path, capfd):
    source = write(tmp_path, "a.jsonl", [ask(1), {"instruction": "secret"}, ask(2), ask("secret", " ")])
    context = context_for(tmp_path, [source])

    with pytest.raises(LauncherError) as error:
        make(context)

    assert str(error.value) == (
        "data: 2 of 4 records cannot be read, more than `max_bad_fraction: 0.001` allows. The first one: "
        f"{tmp_path}/a.jsonl:2: has no `output`; correct the files or raise the limit, and submit again\n"
        f"  {tmp_path}/a.jsonl:4: its turn 2, by the assistant, is empty\n"
        "  in all 1: has no `output`\n  in all 1: its turn N, by the assistant, is empty"
    )
    assert "secret" not in capfd.readouterr().out


def test_few_bad_records_are_forgiven_and_told(tmp_path, capfd):
    source = write(tmp_path, "a.jsonl", [ask(1), {"instruction": "secret </s>", "output": "secret"}, ask(2)])

    (prepared,) = make(context_for(tmp_path, [source], max_bad_fraction=0.5))

    assert (prepared.tally.records, prepared.tally.bad_records, prepared.examples["train"].documents) == (3, 1, 2)
    assert prepared.tally.bad_reasons == {"holds the name of one of the tokenizer's control tokens": 1}
    said = capfd.readouterr().out
    assert f"{tmp_path}/a.jsonl:2: holds the name of one of the tokenizer's control tokens" in said
    assert "secret" not in said
    assert "secret" not in (tmp_path / "run-0" / "examples" / "a" / "source.json").read_text()


@pytest.mark.parametrize(
    ("records", "data", "fault"),
    [
        (
            [ask("long " * 300)],
            {},
            r"dropped 1 \(too_long\); .*\); raise `batch.sequence_length`, or write `too_long: tr",
        ),
        (
            [ask("long " * 300)],
            {"too_long": "truncate"},
            r"dropped 1 \(no_answer_left\); .*raise `batch.sequence_length`$",
        ),
        ([], {}, r"0 of 0 records unreadable\); correct `files`"),
    ],
)
def test_a_source_without_answers_is_refused_with_the_reason(tmp_path, records, data, fault):
    sources = [write(tmp_path, "good.jsonl", [ask(1)]), write(tmp_path, "bad.jsonl", records)]

    with pytest.raises(LauncherError, match=rf"data\.sources\.1: nothing is left to train on \(bad: .*{fault}"):
        make(context_for(tmp_path, sources, length=128, **data))


@pytest.mark.parametrize("subsets", [["usmel"], ["usmle", "usmel"]], ids=["none matches", "another matches"])
def test_each_subset_must_be_the_source_of_a_record(tmp_path, subsets):
    records = [{"source": name, "input": "i", "output": "o"} for name in ("other", "other", "usmle")]
    source = write(tmp_path, "a.jsonl", records)

    with pytest.raises(LauncherError) as caught:
        make(context_for(tmp_path, [source | {"format": "instruct", "subsets": subsets}]))

    assert str(caught.value).startswith("data.sources.0.subsets: no record has `usmel` as `source`; ")
    assert "there are `usmle` (1 record), `other` (2 records);" in str(caught.value)


def test_records_of_earlier_versions_that_counted_no_values_are_read(tmp_path):
    source = write(tmp_path, "a.jsonl", [{"source": "usmle", "input": "i", "output": "o"}])
    context = context_for(tmp_path, [source | {"format": "instruct", "subsets": ["usmle"]}])
    make(context)
    (path,) = context.run.examples.glob("*/source.json")
    before = json.loads(path.read_text())
    assert before.pop("values") == {"usmle": 1}
    path.write_text(json.dumps(before))

    make(context)

    assert "values" not in json.loads(path.read_text()), "it was not made again"


def test_finished_sources_are_not_made_again(tmp_path):
    sources = [write(tmp_path, "a.jsonl", [ask(1)]), write(tmp_path, "b.jsonl", [ask(2)])]
    context = context_for(tmp_path, sources)
    steps = make_examples(context, context.recipe, context.run.examples)
    while finished_source(context.run.examples, "a") is None:
        next(steps)
    steps.close()
    (tmp_path / "a.jsonl").unlink()

    first, second = make(context)

    assert (first.tally.records, second.tally.records) == (1, 1)


def test_a_source_of_which_a_file_was_cut_short_is_made_again(tmp_path):
    context = context_for(tmp_path, [write(tmp_path, "a.jsonl", [ask(1), ask(2)])])
    make(context)
    path = context.run.examples / "a" / "train.examples"
    content = path.read_bytes()
    path.write_bytes(content[:-4])

    make(context)

    assert path.read_bytes() == content


def test_the_same_records_give_the_same_bytes(tmp_path):
    source = write(tmp_path, "a.jsonl", [ask(number) for number in range(600)])
    files = []
    for _ in range(2):
        context = context_for(tmp_path, [source], validation=0.2)
        make(context)
        folder = context.run.examples / "a"
        files.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})

    assert files[0] == files[1]
    assert files[0].keys() >= {"train.examples", "train.packs", "validation.examples", "source.json"}


def test_one_question_is_in_one_split(tmp_path):
    source = write(tmp_path, "a.jsonl", [ask(number // 4, f"Answer {number}") for number in range(80)])
    context = context_for(tmp_path, [source], validation=0.4, packing="pad")
    prepared, tokenizer = make(context), renderer_of(context, context.recipe).tokenizer

    questions = {}
    for split in ("train", "validation"):
        (opened,) = open_sequences(context.run.examples, prepared, split)
        questions[split] = {
            tokenizer.decode(one.ids[~one.is_answer]) for i in range(len(opened)) for one in opened.read(i)
        }

    assert questions["train"]
    assert questions["validation"]
    assert not questions["train"] & questions["validation"]


def test_exclusions_have_to_be_objects(tmp_path):
    (tmp_path / "ids.json").write_text("[1, 2]")
    source = write(tmp_path, "a.jsonl", []) | {"format": "pubmedqa", "exclude": "ids.json"}

    with pytest.raises(LauncherError, match=r"data\.sources\.0\.exclude: .*ids\.json is not a JSON object"):
        make(context_for(tmp_path, [source]))


def test_terms_are_changed_in_what_is_trained_on_and_nowhere_else(tmp_path):
    index = index_of(tmp_path / "terms", SOME)
    texts = [f"Does coeliac disease number {number} hurt?" for number in range(60)]
    source = write(tmp_path, "a.jsonl", [{"instruction": text, "output": "A heart attack does."} for text in texts])
    context = context_for(tmp_path, [source], validation=0.3, packing="pad", terminology={"index": index.folder.name})
    roots = context.record.cluster["roots"] | {"models": str(tmp_path)}
    (tmp_path / "stories260k").symlink_to(ASSETS / "stories260k")
    context = replace(context, record=replace(context.record, cluster=context.record.cluster | {"roots": roots}))

    [prepared] = make(context)

    decode = renderer_of(context, context.recipe).tokenizer.decode
    words = {"train": ("celiac disease", "myocardial infarction"), "validation": ("coeliac disease", "heart attack")}
    for split, (question, answer) in words.items():
        [examples] = open_sequences(context.run.examples, [prepared], split)
        rendered = [decode(examples.read(number)[0].ids) for number in range(len(examples))]
        assert len(rendered) > 5
        assert all(f"Does {question} number" in text and answer in text for text in rendered)
    trained = prepared.examples["train"].documents
    assert prepared.tally.terminology == {"documents": trained, "normalised": 2 * trained}
    assert "terms normalised" in describe(prepared)
