"""Questions that are answered by texts: their formats and wording, and what a recipe cannot say of them."""

import json
from types import SimpleNamespace

import pytest

from jobs.data.chat.questions import medmcqa_turns, medqa_turns, pubmedqa_turns
from jobs.data.chat.records import read_records
from jobs.data.readers.source_stream import SourceStream
from jobs.evaluation.prompts import Prompt
from jobs.evaluation.question_files import read_questions
from launcher.errors import LauncherError
from launcher.recipe import GenerateRecipe
from launcher.recipe.sections.evaluation_tasks import ChoiceTask
from launcher.recipe.sections.generation_task import GenerateTask
from tests.support.evaluation_of_texts import evaluation
from tests.support.generation_runs import generate_recipe, write_records
from tests.support.prepare_runs import ASSETS

ASKED = {"from": "human", "value": "Which drug?\nA. one\nB. two\nC. three\nD. four"}


def task(format, files, **changes):
    fields = {"type": "generate", "name": "t", "format": format, "files": files} | changes
    return GenerateTask.model_validate_json(json.dumps(fields))


def read(folder, format, files, **changes):
    section = task(format, files, **changes)
    context = evaluation(folder, {"name": "t", "format": format, "files": files})
    return section, read_questions(context, section, "tasks.0.files", 0.0).questions


def raw_records(file):
    return [record for _, _, record in read_records(SourceStream(ASSETS / file))]


def test_medcares_test_files_give_their_questions_as_they_are(tmp_path):
    section, found = read(tmp_path, "medcare", "./assets/medcare_layout/MedQA.json")
    originals = raw_records("medqa_40.jsonl")

    assert len(found) == 12
    for one in found:
        original = originals[int(one.id.removeprefix("medqa-")) - 1]
        assert Prompt(section, "letters").of(one) == one.question
        assert one.question.startswith(original["question"])
        assert original["options"][one.options[one.answer]] == original["answer"]


@pytest.mark.parametrize(("text", "options"), [("A. a D. d", "ABCD"), ("A. a E. e", "ABCDE"), ("Vitamin E?", "ABCD")])
def test_a_fifth_option_is_there_if_the_question_names_it(tmp_path, text, options):
    write_records(tmp_path / "q.jsonl", [{"conversations": [ASKED | {"value": text}], "eval": {"answer": "B"}}])

    _, (found,) = read(tmp_path, "medcare", "./q.jsonl")

    assert "".join(found.options) == options


@pytest.mark.parametrize(
    ("format", "record", "reason"),
    [
        ("medcare", {"conversations": [ASKED]}, "its `eval` has no `answer_idx` or `answer` of one letter"),
        ("medcare", {"conversations": [ASKED], "eval": {"answer": "AC"}}, "of one letter"),
        ("medcare", {"conversations": [ASKED], "eval": {"answer": "F"}}, "its `answer` names none of its 4 options"),
        ("medcare", {"conversations": [], "eval": {"answer": "A"}}, "its turn 1 is by the assistant"),
        (
            "medcare",
            {"conversations": [ASKED, {"from": "gpt", "value": "So?"}, ASKED], "eval": {"answer": "A"}},
            "is a conversation of several turns",
        ),
        ("answers", {"question": "Which?"}, "its `answers` are not a text"),
        ("answers", {"question": "Which?", "answers": []}, "its `answers` are not a text"),
        ("answers", {"question": " ", "answers": "one"}, "has no text as `question`"),
    ],
)
def test_items_that_cannot_be_read_are_named_with_their_line(tmp_path, format, record, reason):
    fine = {"question": "Which?", "answers": "one", "conversations": [ASKED], "eval": {"answer": "A"}}
    write_records(tmp_path / "q.jsonl", [fine, record])

    with pytest.raises(LauncherError, match=f"1 of 2 records cannot be read(.|\n)*q.jsonl:2: .*{reason}"):
        read(tmp_path, format, "./q.jsonl")


@pytest.mark.parametrize(
    ("format", "file", "turns", "source"),
    [
        ("medqa", "medqa_40.jsonl", medqa_turns, {"answer": "letter"}),
        ("medmcqa", "medmcqa_60.jsonl", medmcqa_turns, {"answer": "letter", "cop_base": 1}),
        ("pubmedqa", "pubmedqa_60.json.gz", pubmedqa_turns, {"answer": "decision", "context": True}),
    ],
)
def test_a_model_is_asked_as_it_was_taught(tmp_path, format, file, turns, source):
    cop = {"cop_base": source["cop_base"]} if "cop_base" in source else {}
    section, found = read(tmp_path, format, f"./assets/{file}", prompt="sft", **cop)

    asked = [Prompt(section, section.scored).of(one) for one in found]

    assert asked == [turns(record, SimpleNamespace(**source))[0] for record in raw_records(file)]


def test_questions_without_options_cannot_be_a_choice():
    with pytest.raises(ValueError, match="`answers` has no options to choose from"):
        ChoiceTask(type="choice", name="t", files="f", format="answers")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoding": {"top_k": 5}}, "top_k: belongs to a `temperature` above 0"),
        ({"decoding": {"top_p": 0.9}}, "top_p: belongs to a `temperature` above 0"),
        ({"decoding": {"temperature": 0.001}}, "temperature: "),
        ({"decoding": {"stop": [""]}}, "stop"),
        ({"decoding": {"max_new_tokens": 0}}, "max_new_tokens"),
        ({"data": {"files": "f", "format": "messages"}}, "chat: `messages` needs a chat template"),
        ({"data_use": "credentialed", "keep_prompts": True}, "keep_prompts: prompts of credentialed data"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GenerateRecipe.model_validate_json(json.dumps(generate_recipe(**changes)))
