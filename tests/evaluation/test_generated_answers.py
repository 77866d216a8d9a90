"""Tasks of `type: generate`: prompts without answers, texts, what is read from them, and the second pass."""

import gzip
import json
from dataclasses import replace

import pytest
import torch
from pyarrow import parquet
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.evaluation import generated_answers
from jobs.evaluation.encode import PairEncoder
from jobs.evaluation.generator import GeneratedText, Generator
from jobs.evaluation.prompt_encoder import PromptEncoder
from jobs.evaluation.report import text_digest
from jobs.kinds.evaluate import main
from launcher.artifacts.scores import read_scores
from launcher.errors import LauncherError
from tests.support.evaluation_of_texts import evaluation, scores_of
from tests.support.generation_runs import write_records
from tests.support.merge_runs import BASE

pytestmark = pytest.mark.slow

MEDQA = {"name": "medqa", "files": "./assets/medqa_40.jsonl", "format": "medqa", "limit": 6}
PUBMEDQA = {"name": "pubmedqa", "files": "./assets/pubmedqa_60.json.gz", "format": "pubmedqa", "limit": 12}


def letter_of(record):
    """The letter of the right answer of a record of MedQA."""
    return next(letter for letter, text in record["options"].items() if text == record["answer"])


def medcare_items(count=6):
    """MedQA's questions as MedCare's test files have them."""
    items = []
    for line in (BASE.parent / "medqa_40.jsonl").read_text().splitlines()[:count]:
        record = json.loads(line)
        options = "\n".join(f"{letter}. {text}" for letter, text in record["options"].items())
        asked = {"from": "human", "value": f"{record['question'][-300:]}\n{options}"}
        told = {"from": "gpt", "value": f"The answer is {letter_of(record)}."}
        items.append({"conversations": [asked, told], "eval": {"answer_idx": letter_of(record)}})
    return items


def rows_of(context):
    return parquet.read_table(context.run.outputs / "items.parquet").to_pylist()


def writing(monkeypatch, write):
    """Let the model write what a function of a prompt's id says."""

    def generate(self, numbers):
        texts = [write(self._requests[number].id) for number in numbers]
        return [GeneratedText(text, (5,), "stop") for text in texts]

    monkeypatch.setattr(Generator, "generate", generate)


def test_what_was_written_is_read_and_scored(tmp_path, monkeypatch):
    """With right answers for every third question, wrong ones for others, and some that cannot be read."""
    records = [json.loads(line) for line in (BASE.parent / "medqa_40.jsonl").read_text().splitlines()]
    right = {f"medqa_40.jsonl:{number}": letter_of(record) for number, record in enumerate(records, 1)}

    def write(name):
        number = int(name.rpartition(":")[2])
        letter = right[name] if number % 3 == 0 else "ABCD"["ABCD".index(right[name]) - 1]
        return "I cannot say" if number % 5 == 0 else f"Well. The answer is {letter}."

    writing(monkeypatch, write)
    context = evaluation(tmp_path, MEDQA | {"limit": 40})

    scores = scores_of(context)["medqa"]

    hits = [number % 3 == 0 and number % 5 != 0 for number in range(1, 41)]
    assert (scores.headline, scores.scores["acc"].value) == ("acc", pytest.approx(sum(hits) / 40))
    assert scores.counts["texts that no rule could read"] == 8
    assert scores.scores["acc"].standard_error is not None
    rows = rows_of(context)
    assert [row["acc"] for row in rows] == hits
    assert rows[4]["prediction"] is None
    assert json.loads(rows[0]["details"])["rule"] == "answer_is"


def test_pubmedqa_has_the_official_metrics_and_the_long_answer(tmp_path, monkeypatch):
    records = json.loads(gzip.decompress((BASE.parent / "pubmedqa_60.json.gz").read_bytes()))
    fields = {name: record for name, record in records.items()}

    def write(name):
        record = {key.lower(): value for key, value in fields[name].items()}
        told = f"Final Decision: {record['final_decision']}\nLong Answer: {record['long_answer']}"
        return told if int(name) % 2 else "Final Decision: no"

    writing(monkeypatch, write)

    scores = scores_of(evaluation(tmp_path, PUBMEDQA | {"limit": 60, "answer": {"long_answer": True}}))["pubmedqa"]

    decisions = [next(v for k, v in record.items() if k.lower() == "final_decision") for record in fields.values()]
    said = [told if int(name) % 2 else "no" for name, told in zip(fields, decisions, strict=True)]
    from sklearn.metrics import accuracy_score, f1_score

    assert scores.scores["acc"].value == pytest.approx(accuracy_score(decisions, said))
    assert scores.scores["macro_f1"].value == pytest.approx(f1_score(decisions, said, average="macro"))
    assert scores.scores["macro_f1"].low < scores.scores["macro_f1"].value < scores.scores["macro_f1"].high
    odd = sum(int(name) % 2 for name in fields)
    assert scores.scores["rouge_l"].value == pytest.approx(odd / 60)
    assert scores.counts["texts without a long answer"] == 60 - odd


def test_the_official_questions_alone_can_be_asked(tmp_path):
    records = json.loads(gzip.decompress((BASE.parent / "pubmedqa_60.json.gz").read_bytes()))
    chosen = {
        name: next(v for k, v in records[name].items() if k.lower() == "final_decision") for name in [*records][5:9]
    }
    (tmp_path / "only.json").write_text(json.dumps(chosen))
    context = evaluation(tmp_path, PUBMEDQA | {"limit": None, "only": "./only.json"})

    assert scores_of(context)["pubmedqa"].n == 4
    assert [row["id"] for row in rows_of(context)] == [*chosen]


def test_the_second_pass_takes_the_letter_that_plain_transformers_finds_most_likely(tmp_path):
    write_records(tmp_path / "medcare.jsonl", medcare_items())
    words = "The answer is "
    template = "{question}\nPlease format the final answer at the end of the response as: The answer is {{answer}}."
    own = {"format": "medcare", "prompt": "own", "template": template, "answer": {"forced": words}}
    context = evaluation(tmp_path, {"name": "medcare", "files": "./medcare.jsonl", **own})

    scores = scores_of(context)["medcare"]

    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    rows = rows_of(context)
    for row, item in zip(rows, medcare_items(), strict=True):
        prompt = template.format(question=item["conversations"][0]["value"])
        details = json.loads(row["details"])
        likely = []
        for letter in "ABCD":
            whole = tokenizer.encode(details["text"] + words + letter, add_special_tokens=False)
            bare = tokenizer.encode(details["text"] + words.rstrip(), add_special_tokens=False)
            ids = torch.tensor([[*tokenizer.encode(prompt), *whole]])
            with torch.no_grad():
                found = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
            likely.append(float(found[-(len(whole) - len(bare)) :].sum()))
        assert details["log_likelihoods"] == pytest.approx(likely, abs=1e-4)
        assert row["prediction"] == "ABCD"[likely.index(max(likely))]
    assert scores.scores.keys() == {"acc", "acc_read", "acc_at_3"}
    assert scores.scores["acc_at_3"].value >= scores.scores["acc"].value


LONG = "and a word more " * 12
OPTIONS = ["tea", "rest", LONG, f"{LONG}{LONG}"]


def long_questions(folder, words):
    """Questions whose second one has the longest options, with prompts that need all room or none."""
    asked = {"question": "word " * words, "answer": 0}
    write_records(
        folder / "q.jsonl", [asked | {"id": "a", "options": ["x", "y"]}, asked | {"id": "b", "options": OPTIONS}]
    )
    task = {"name": "long", "files": "./q.jsonl", "format": "choice", "prompt": "biomed_llama"}
    return evaluation(folder, task | {"answer": {"forced": "So: "}})


def test_prompts_leave_room_for_the_longest_option_of_all_questions(tmp_path, monkeypatch):
    writing(monkeypatch, lambda _: "Well.")
    lengths = []
    plain = PromptEncoder.encode

    def remember(self, name, prompt):
        request = plain(self, name, prompt)
        lengths.append(len(request.ids))
        return request

    monkeypatch.setattr(PromptEncoder, "encode", remember)

    counts = scores_of(long_questions(tmp_path, 400))["long"].counts

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    longest = len(tokenizer.encode(f"So: {OPTIONS[-1]}"))
    assert longest > 100
    assert lengths == [512 - 12 - longest - 1] * 2
    assert counts["prompts cut at their start"] == 2
    assert "prompts cut in the second pass" not in counts


def test_prompts_that_the_second_pass_has_to_cut_are_counted(tmp_path, monkeypatch):
    writing(monkeypatch, lambda name: "A text of more tokens than were foreseen. " * 20 if name == "a" else "Well.")

    assert scores_of(long_questions(tmp_path, 400))["long"].counts["prompts cut in the second pass"] == 1


def test_options_that_do_not_fit_into_the_model_are_refused_by_the_name_of_their_question(tmp_path, monkeypatch):
    writing(monkeypatch, lambda _: "Well.")
    monkeypatch.setattr(PairEncoder, "encode", lambda *_: raising("an option has 900 tokens"))

    with pytest.raises(LauncherError, match=r"tasks\.0\.files: question `a`: an option has 900 tokens; correct or"):
        main(long_questions(tmp_path, 4))


def raising(said):
    raise ValueError(said)


def test_answers_without_options_are_compared_as_texts(tmp_path, monkeypatch):
    records = [
        {"id": "a", "question": "Which drug lowers a fever?", "answers": ["the paracetamol", "aspirin"]},
        {"id": "b", "question": "And which one cures it?", "answers": "none of them"},
    ]
    write_records(tmp_path / "qa.jsonl", records)
    writing(monkeypatch, {"a": "Aspirin.", "b": "rest"}.__getitem__)

    scores = scores_of(evaluation(tmp_path, {"name": "qa", "files": "./qa.jsonl", "format": "answers"}))["qa"].scores

    assert {name: score.value for name, score in scores.items()} == {
        "exact_match": 0.5,
        "token_f1": 0.5,
        "rouge_l": 0.5,
    }


def _changed(record):
    """The same question with another answer, however the format tells it."""
    if isinstance(record.get("options"), dict):
        return record | {"answer": next(text for text in record["options"].values() if text != record["answer"])}
    if "cop" in record:
        return record | {"cop": record["cop"] % 4 + 1}
    if "eval" in record:
        other = "ABCD"["ABCD".index(record["eval"]["answer_idx"]) - 1]
        asked, told = record["conversations"]
        return {"conversations": [asked, told | {"value": f"It is {other}."}], "eval": {"answer_idx": other}}
    if "answers" in record:
        return record | {"answers": "something else"}
    if "choices" in record or "options" in record:
        return record | {"answer": (record["answer"] + 1) % 4}
    upper = {"FINAL_DECISION", "final_decision"} & record.keys()
    other = {"yes": "no", "no": "maybe", "maybe": "yes"}[record[upper.copy().pop()]]
    return record | {name: other for name in upper} | {"LONG_ANSWER": "Something else."}


def _records(format):
    assets = BASE.parent
    choice = {"question": "Which drug?", "options": ["a1", "b2", "c3", "d4"], "answer": 1}
    match format:
        case "medqa" | "medmcqa":
            name = {"medqa": "medqa_40.jsonl", "medmcqa": "medmcqa_60.jsonl"}[format]
            return [json.loads(line) for line in (assets / name).read_text().splitlines()[:12]]
        case "pubmedqa":
            read = json.loads(gzip.decompress((assets / "pubmedqa_60.json.gz").read_bytes()))
            return [record | {"pubid": int(name)} for name, record in [*read.items()][:8]]
        case "medcare":
            return medcare_items()
        case "mmlu":
            return [{"question": "Which drug?", "choices": ["a1", "b2", "c3", "d4"], "answer": 1, "subject": "x"}]
        case "answers":
            return [{"id": "a", "question": "Which drug lowers a fever?", "answers": ["aspirin"]}]
        case _:
            return [choice]


@pytest.mark.parametrize("format", ["medqa", "medmcqa", "pubmedqa", "mmlu", "choice", "medcare", "answers"])
@pytest.mark.parametrize("chat", [None, {"template": "alpaca"}], ids=["plain", "chat"])
def test_no_prompt_depends_on_the_right_answer(tmp_path, monkeypatch, format, chat):
    write_records(tmp_path / "told.jsonl", _records(format))
    write_records(tmp_path / "changed.jsonl", [_changed(record) for record in _records(format)])
    asked, answers = [], []

    def remember(self, numbers):
        asked[-1] |= {self._requests[number].id.rpartition(":")[2]: self._requests[number].ids for number in numbers}
        return [GeneratedText("", (5,), "stop") for _ in numbers]

    monkeypatch.setattr(Generator, "generate", remember)
    for name in ("told", "changed"):
        asked.append({})
        cop = {"cop_base": 1} if format == "medmcqa" else {}
        context = evaluation(
            tmp_path / name, {"name": "t", "files": f"../{name}.jsonl", "format": format, "chat": chat, **cop}
        )
        main(context)
        answers.append([row["answer"] for row in rows_of(context)])

    assert asked[0]
    assert asked[0] == asked[1]
    assert all(one != other for one, other in zip(*answers, strict=True))


def test_texts_and_scores_are_the_same_after_a_stop_and_with_other_rules_nothing_is_written_again(
    tmp_path, monkeypatch
):
    first = evaluation(tmp_path, MEDQA)
    scores = scores_of(first)["medqa"]
    (first.run.outputs / "scores.json").unlink()
    monkeypatch.setattr(Generator, "generate", lambda *_: 1 / 0)

    again = replace(first, recipe=evaluation(tmp_path, MEDQA | {"answer": {"rules": ["last_letter"]}}).recipe)

    assert scores_of(again)["medqa"].n == scores.n == 6


def test_tasks_without_files_are_left_out_by_name_if_the_recipe_says_so(tmp_path, capsys):
    absent = MEDQA | {"name": "cmb", "files": "./CMB.json"}
    context = evaluation(tmp_path, MEDQA, absent, missing_files="leave_out")

    main(context)

    scores = read_scores(context.run.outputs)
    assert scores.tasks.keys() == {"medqa"}
    assert scores.notes == ("left out, since its files are not there: cmb",)
    assert "tasks.1: left out, since its files are not there: cmb" in capsys.readouterr().out
    assert [one.key for one in context.recipe.inputs()] == ["model.path"]


def test_a_missing_file_is_refused_otherwise(tmp_path):
    for changes, match in (({}, r"tasks\.0\.files"), ({"missing_files": "leave_out"}, "no task has its files")):
        with pytest.raises(LauncherError, match=match):
            main(evaluation(tmp_path, MEDQA | {"files": "./CMB.json"}, **changes))
        torch.distributed.destroy_process_group()


def test_credentialed_texts_stay_in_their_batches(tmp_path, capsys):
    context = evaluation(tmp_path, MEDQA, data_use="credentialed")

    main(context)

    details = [json.loads(row["details"]) for row in rows_of(context)]
    written = [
        json.loads(line)["text"]
        for path in context.run.batches.rglob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    told = capsys.readouterr()
    assert all("text" not in one for one in details)
    assert not any(len(text) > 9 and text in told.out + told.err for text in written)


TOLD = "aspirin tablets"
ASKED = {"id": "a", "question": "Which drug lowers a fever?"}
CONVERSATION = [{"from": "human", "value": "Which drug lowers a fever?"}]
BY_TEXT = {
    "answers": (ASKED | {"answers": [TOLD]}, {}, text_digest(TOLD)),
    "ccte": ({"conversations": CONVERSATION, "eval": {"solution": TOLD}}, {}, text_digest(TOLD)),
    "choice": (ASKED | {"options": ["tea", TOLD], "answer": 1}, {"prompt": "biomed_llama"}, "B"),
}
"""Of each format a record whose answer is a text of it, the wording, and what is told of the answer if it is secret."""


@pytest.mark.parametrize("format", BY_TEXT)
@pytest.mark.parametrize("data_use", ["open", "credentialed"])
def test_items_hold_no_text_of_credentialed_data(tmp_path, monkeypatch, format, data_use):
    record, wording, told = BY_TEXT[format]
    write_records(tmp_path / "q.jsonl", [record])
    writing(monkeypatch, lambda _: TOLD)
    context = evaluation(tmp_path, {"name": "qa", "files": "./q.jsonl", "format": format, **wording}, data_use=data_use)

    scores = scores_of(context)["qa"]

    (row,) = rows_of(context)
    assert scores.scores[scores.headline].value == 1
    assert (TOLD in json.dumps(row)) == (data_use == "open")
    if data_use == "open":
        assert row["prediction"] == row["answer"] == TOLD
    else:
        assert (row["prediction"], row["answer"]) == ("B" if format == "choice" else None, told)


def test_the_headings_of_scores_are_those_of_the_page() -> None:
    assert generated_answers.__doc__
    for name in ("acc", "acc_read", "acc_at_3", "macro_f1", "exact_match", "token_f1", "rouge_l"):
        assert name in generated_answers.__doc__
