"""Questions with options, from the files of every format, and how they are worded."""

import gzip
import hashlib
import json
import re

import orjson
import pytest
import torch
from lm_eval.tasks.medmcqa import utils_medmcqa
from lm_eval.tasks.medqa import preprocess_medqa
from lm_eval.tasks.pubmedqa import preprocess_pubmedqa
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.data.chat.records import read_records
from jobs.data.readers.source_stream import SourceStream
from jobs.evaluation.choice import prepare_choice
from jobs.evaluation.encode import PairEncoder
from jobs.evaluation.loaded_model import LoadedModel
from jobs.evaluation.prompts import Prompt, choose_shots
from jobs.evaluation.question_files import read_questions
from launcher.errors import LauncherError
from launcher.recipe.sections.evaluation_tasks import ChoiceTask
from launcher.recipe.sections.generation_task import GenerateTask
from tests.support.evaluation_runs import evaluation, put_assets
from tests.support.prepare_runs import ASSETS, write_source

CPU = torch.device("cpu")
FILES = {
    "medqa": "medqa_40.jsonl",
    "medmcqa": "medmcqa_60.jsonl",
    "pubmedqa": "pubmedqa_60.json.gz",
    "mmlu": "anatomy_test.csv",
}
SIMPLE = {"question": "Which?", "options": ["one", "two", "three"], "answer": "B"}


def task_of(format, file, **changes):
    fields = {"type": "choice", "name": "t", "format": format, "files": f"./{file}"} | changes
    return ChoiceTask.model_validate_json(json.dumps(fields))


def read(folder, format, file, limit=0.0, **changes):
    task = task_of(format, file, **changes)
    context = evaluation(folder, task.model_dump(mode="json"))
    return read_questions(context, task, "tasks.0.files", limit)


def write_choice(folder, *records):
    (folder / "q.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def raw_records(file):
    return [record for _, _, record in read_records(SourceStream(ASSETS / file))]


def lm_eval_text(format, record):
    """The prompt of lm-eval's own function, from the fields that it expects."""
    if format == "medqa":
        endings = {f"ending{number}": text for number, text in enumerate(record["options"].values())}
        return preprocess_medqa.doc_to_text({"sent1": record["question"], **endings})
    if format == "medmcqa":
        return utils_medmcqa.doc_to_text(record)
    return preprocess_pubmedqa.doc_to_text(record)


@pytest.mark.parametrize("format", ["medqa", "medmcqa", "pubmedqa"])
def test_prompts_are_those_of_lm_eval(tmp_path, format):
    put_assets(tmp_path, FILES[format])
    prompt = Prompt(task_of(format, FILES[format]), "letters")

    found = read(tmp_path, format, FILES[format])

    records = raw_records(FILES[format])
    assert len(records) >= 40
    assert [prompt.of(one) for one in found.questions] == [lm_eval_text(format, record) for record in records]


@pytest.mark.parametrize("format", FILES)
@pytest.mark.parametrize("prompt", ["lm_eval", "biomed_llama"])
def test_a_prompt_does_not_depend_on_the_right_answer(tmp_path, format, prompt):
    put_assets(tmp_path, FILES[format])
    questions = read(tmp_path, format, FILES[format]).questions
    worded = Prompt(task_of(format, FILES[format], prompt=prompt), "texts")

    for one in questions:
        others = [one.__class__(**{**vars(one), "answer": number}) for number in range(len(one.options))]
        assert len({worded.of(other) for other in others}) == 1


def test_biomed_llama_hides_the_options(tmp_path):
    put_assets(tmp_path, FILES["mmlu"])
    first = read(tmp_path, "mmlu", FILES["mmlu"]).questions[0]

    text = Prompt(task_of("mmlu", FILES["mmlu"], prompt="biomed_llama"), "texts").of(first)

    assert text == f"Question: {first.question}\nAnswer:"


def test_a_prompt_of_ones_own_is_the_template(tmp_path):
    write_choice(tmp_path, SIMPLE | {"subject": "law", "context": "Text."})
    task = task_of("choice", "q.jsonl", prompt="own", template="{subject}: {context} {question}\n{options}\n=>")
    [one] = read(tmp_path, "choice", "q.jsonl").questions

    assert Prompt(task, "letters").of(one) == "law: Text. Which?\nA. one\nB. two\nC. three\n=>"


def test_mmlu_reads_the_official_files_and_those_of_hugging_face_alike(tmp_path):
    put_assets(tmp_path, FILES["mmlu"])
    official = read(tmp_path, "mmlu", FILES["mmlu"]).questions
    rows = [
        {"question": one.question, "choices": [*one.options], "answer": one.answer, "subject": "anatomy"}
        for one in official
    ]
    (tmp_path / "hf.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    other = read(tmp_path, "mmlu", "hf.jsonl").questions

    assert len(official) == 25
    assert [(o.question, o.options, o.answer, o.subject) for o in official] == [
        (o.question, o.options, o.answer, o.subject) for o in other
    ]


ROW = '"Does naïve aspirin work?",yes,no,maybe,A\n'


@pytest.mark.parametrize("name", ["a_test.csv", "a_test.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_mmlu_is_read_with_a_byte_order_mark(tmp_path, name, encoding):
    write_source(tmp_path / name, (ROW * 2).encode(encoding))

    found = read(tmp_path, "mmlu", name)

    assert [one.question for one in found.questions] == ["Does naïve aspirin work?"] * 2
    assert [one.id for one in found.questions] == [f"{name}:1", f"{name}:2"]
    assert [one.sha256 for one in found.files] == [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", (ROW + ROW).encode("cp1252"), r"a\.csv:1: byte 0xef is not UTF-8; save the file as UTF-8"),
        ("a.csv", ROW.encode("utf-16"), r"a\.csv:1: byte 0xff at its start says that it is UTF-16; save it as UTF-8"),
        ("a.csv", b"a\0b,yes,no,A\n", r"a\.csv: holds NUL bytes, as after a failed copy; fetch it again"),
        ("a.csv.gz", gzip.compress(ROW.encode() * 99)[:-9], r"a\.csv\.gz: the file is corrupt: .*; fetch it again"),
        ("a.csv.gz", ROW.encode(), r"a\.csv\.gz: the file is corrupt: Not a gzipped file; fetch it again"),
    ],
    ids=["cp1252", "utf-16", "NUL", "torn", "no gzip"],
)
def test_csv_files_that_cannot_be_read_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(LauncherError, match=said):
        read(tmp_path, "mmlu", name)


@pytest.mark.parametrize("base", [0, 1])
def test_explanations_tell_how_cop_counts(tmp_path, base):
    records = [
        {"question": f"Q{n}", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": n % 3 + base, "id": str(n)}
        | {"exp": f"Ans. is '{'abc'[n % 3]}' since it is."}
        for n in range(12)
    ]
    write_choice(tmp_path, *records)

    found = read(tmp_path, "medmcqa", "q.jsonl").questions

    assert [one.answer for one in found] == [n % 3 for n in range(12)]


def test_an_article_in_an_explanation_tells_nothing(tmp_path):
    records = [medmcqa_record(n, n % 3, exp=f"Ans. {'abc'[n % 3]} i.e. this one") for n in range(12)]
    records += [medmcqa_record(n, 1, exp="The answer is a rare disease") for n in range(12, 18)]
    write_choice(tmp_path, *records)

    with pytest.raises(LauncherError, match=r"cop_base: 12 of 12 explanations .* counts from 0; write `cop_base: 0`"):
        read(tmp_path, "medmcqa", "q.jsonl", cop_base=1)


def medmcqa_record(number, cop, **more):
    return {"question": f"Q{number}", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": cop, **more}


def test_values_of_cop_tell_where_no_explanation_does(tmp_path):
    write_choice(tmp_path, *(medmcqa_record(number, number % 4 + 1) for number in range(8)))

    assert [one.answer for one in read(tmp_path, "medmcqa", "q.jsonl").questions][:4] == [0, 1, 2, 3]


def test_cop_that_nothing_explains_is_asked_for(tmp_path):
    write_choice(tmp_path, *(medmcqa_record(number, number % 3 + 1) for number in range(8)))

    with pytest.raises(LauncherError, match=r"^tasks\.0\.cop_base: neither .* write `cop_base: 0`"):
        read(tmp_path, "medmcqa", "q.jsonl")
    assert read(tmp_path, "medmcqa", "q.jsonl", cop_base=0).questions[0].answer == 1


def test_a_wrong_cop_base_is_refused(tmp_path):
    write_choice(tmp_path, *(medmcqa_record(n, n % 3 + 1, exp=f"Answer: {'ABC'[n % 3]}") for n in range(12)))

    with pytest.raises(LauncherError, match=r"cop_base: 12 of 12 explanations .* counts from 1; write `cop_base: 1`"):
        read(tmp_path, "medmcqa", "q.jsonl", cop_base=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": " "}, "has no text as `question`"),
        ({"options": ["one"], "answer": 0}, "has 1 options; 2 to 26"),
        ({"options": ["x"] * 27, "answer": 0}, "has 27 options; 2 to 26"),
        ({"answer": "D"}, "names none of its 3 options"),
        ({"answer": 3}, "names none of its 3 options"),
        ({"answer": -1}, "names none of its 3 options"),
        ({"answer": True}, "names none of its 3 options"),
        ({"options": ["one", "", "three"]}, "not a list of texts"),
    ],
)
def test_a_record_that_cannot_be_scored_is_refused_with_its_place(tmp_path, change, said):
    write_choice(tmp_path, SIMPLE, SIMPLE | change)

    with pytest.raises(LauncherError, match=rf"(?s)1 of 2 records cannot be read.*q\.jsonl:2: .*{re.escape(said)}"):
        read(tmp_path, "choice", "q.jsonl")


def test_records_left_out_are_counted_and_named_in_the_log(tmp_path, capsys):
    write_choice(tmp_path, *([SIMPLE] * 9), SIMPLE | {"answer": 9})

    found = read(tmp_path, "choice", "q.jsonl", limit=0.1)

    assert len(found.questions) == 9
    assert found.counts == {"unreadable records": 1}
    log = capsys.readouterr().out
    assert log.startswith(
        f"tasks.0.files: 1 of 10 records cannot be read and are left out\n    {tmp_path}/q.jsonl:10: "
    )


def test_26_options_have_a_letter_each(tmp_path):
    options = [f"option {number}" for number in range(26)]
    write_choice(tmp_path, SIMPLE | {"options": options, "answer": "Z"})
    [one] = read(tmp_path, "choice", "q.jsonl").questions

    assert one.answer == 25
    assert Prompt(task_of("choice", "q.jsonl"), "letters").answers(one)[25] == "Z"


def test_ids_that_occur_twice_are_refused(tmp_path):
    write_choice(tmp_path, SIMPLE | {"id": "x"}, SIMPLE | {"id": "x"})

    with pytest.raises(LauncherError, match="1 ids occur more than once, first `x`"):
        read(tmp_path, "choice", "q.jsonl")


def test_questions_of_files_of_one_name_have_ids_of_their_own(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write_choice(tmp_path / place, SIMPLE)

    both, alone = (read(tmp_path, "choice", files).questions for files in ("*/q.jsonl", "a/q.jsonl"))

    assert [one.id for one in both] == ["a/q.jsonl:1", "b/q.jsonl:1"]
    assert [one.id for one in alone] == ["q.jsonl:1"]


def test_official_questions_are_chosen_by_their_numbers(tmp_path):
    put_assets(tmp_path, FILES["pubmedqa"])
    everyone = read(tmp_path, "pubmedqa", FILES["pubmedqa"]).questions
    wanted = {one.id: one.options[one.answer] for one in everyone[5:15]}
    (tmp_path / "only.json").write_bytes(orjson.dumps(wanted))

    found = read(tmp_path, "pubmedqa", FILES["pubmedqa"], only="./only.json")

    assert [one.id for one in found.questions] == [*wanted]


@pytest.mark.parametrize("change", [{"999": "yes"}, None])
def test_official_questions_must_be_there_with_their_decision(tmp_path, change):
    put_assets(tmp_path, FILES["pubmedqa"])
    first = read(tmp_path, "pubmedqa", FILES["pubmedqa"]).questions[0]
    wrong = {first.id: "no" if first.options[first.answer] == "yes" else "yes"}
    (tmp_path / "only.json").write_bytes(orjson.dumps(change or wrong))

    with pytest.raises(LauncherError, match=r"tasks\.0\.only: (1 of its 1 questions are not|says)"):
        read(tmp_path, "pubmedqa", FILES["pubmedqa"], only="./only.json")


def test_an_example_is_never_the_question_nor_from_its_group(tmp_path):
    records = [SIMPLE | {"question": f"Q{n}", "id": str(n), "group": str(n // 2)} for n in range(8)]
    write_choice(tmp_path, *records)
    questions = read(tmp_path, "choice", "q.jsonl").questions
    task = task_of("choice", "q.jsonl", shots=3, examples="./q.jsonl")
    prompt = Prompt(task, "letters", choose_shots(task, questions, seed=1))

    for one in questions:
        shown = re.findall(r"Question: Q(\d)\n", prompt.of(one))
        assert len(shown) == 4
        assert shown[-1] == one.id
        assert not {int(name) // 2 for name in shown[:-1]} & {int(one.id) // 2}


def test_drawn_examples_depend_on_the_seed_alone(tmp_path):
    put_assets(tmp_path, FILES["mmlu"])
    questions = read(tmp_path, "mmlu", FILES["mmlu"]).questions
    task = task_of("mmlu", FILES["mmlu"], shots=2, examples="./x")

    one, again, other = (choose_shots(task, questions, seed) for seed in (1, 1, 2))

    assert one == again != other
    assert choose_shots(task.model_copy(update={"order": "first"}), questions, 3) == [*questions]


def test_too_few_examples_are_an_error_that_says_how_many_there_are(tmp_path):
    write_choice(tmp_path, SIMPLE, SIMPLE | {"question": "Other?"})
    questions = read(tmp_path, "choice", "q.jsonl").questions
    task = task_of("choice", "q.jsonl", shots=2, examples="./q.jsonl")

    with pytest.raises(LauncherError, match="can have 1 examples, not 2; write fewer `shots`"):
        Prompt(task, "letters", questions).of(questions[0])


def test_a_group_that_is_called_0_is_one(tmp_path):
    records = [{"id": name, "question": "Which?", "answers": "tea", "group": group} for name, group in GROUPS.items()]
    write_choice(tmp_path, *records)
    task = GenerateTask.model_validate({"type": "generate", "name": "t", "format": "answers", "files": "./q.jsonl"})

    found = read_questions(evaluation(tmp_path, SIMPLE_TASK), task, "tasks.0.files", 0.0)

    assert [one.group for one in found.questions] == ["0", "0", "", ""]


GROUPS = {"a": 0, "b": 0, "c": None, "d": " "}
SIMPLE_TASK = {"type": "choice", "name": "t", "format": "choice", "files": "./q.jsonl"}


@pytest.mark.parametrize("shared", [True, False])
def test_batches_of_a_model_that_was_found_to_be_another_are_others(tmp_path, monkeypatch, shared):
    """On another GPU a probe can end otherwise: what was computed then must not be taken for damaged."""
    write_choice(tmp_path, SIMPLE)
    context = evaluation(tmp_path, SIMPLE_TASK)
    folder = ASSETS / "stories260k"
    model = LoadedModel(
        AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), CPU, torch.float32
    )
    [task] = context.recipe.tasks
    found = []
    for takes in (True, shared):
        monkeypatch.setattr("jobs.evaluation.option_scorer.takes_masks", lambda _, takes=takes: takes)
        found.append(prepare_choice(context, context.recipe, task, "tasks.0", model).batches.identity)

    assert (found[0] == found[1]) == shared


def test_options_that_cannot_be_scored_are_named_by_question_and_letter_and_never_quoted(tmp_path, monkeypatch):
    """Also those that have no tokens only without the question, which is known before anything is computed."""
    write_choice(tmp_path, SIMPLE | {"id": "q1", "options": ["tea", "SECRET"], "answer": 0})
    context = evaluation(tmp_path, SIMPLE_TASK | {"options": "texts"})
    folder = ASSETS / "stories260k"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LoadedModel(AutoModelForCausalLM.from_pretrained(folder), tokenizer, CPU, torch.float32)
    [task] = context.recipe.tasks
    bare = PairEncoder._bare
    monkeypatch.setattr(PairEncoder, "_bare", lambda self, text: [] if "SECRET" in text else bare(self, text))

    with pytest.raises(LauncherError) as said:
        prepare_choice(context, context.recipe, task, "tasks.0", model)

    assert str(said.value) == (
        "tasks.0.files: question `q1`: option B has no tokens of its own after the prompt; correct or remove it"
    )
