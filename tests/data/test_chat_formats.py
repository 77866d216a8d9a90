"""Records of every format become the same kind of conversation; wrong ones say what is wrong."""

import re

import pytest
from pydantic import TypeAdapter

from jobs.data.chat.formats import conversation_of
from jobs.data.chat.records import read_records
from jobs.data.readers.source_stream import SourceStream
from launcher.recipe.sections.chat_sources import ChatSource
from tests.support.shared_data import shared_data

_adapter = TypeAdapter(ChatSource)


def source(form, **options):
    return _adapter.validate_python({"name": "x", "files": "x", "format": form, **options}, strict=False)


def turns(record, form, **options):
    messages = conversation_of(record, source(form, **options)).messages
    return [(message["role"], message["content"]) for message in messages]


def pair(question, answer):
    return [("user", question), ("assistant", answer)]


MEDQA = {"question": "Q?", "options": {"A": "one", "B": "two"}, "answer_idx": "B", "answer": "two"}
MEDMCQA = {"question": "Q?", "opa": "one", "opb": "two", "opc": "three", "opd": "four", "cop": 2}
PUBMEDQA = {"QUESTION": "Q?", "CONTEXTS": ["one.", "two."], "LONG_ANSWER": "So it is.", "final_decision": "yes"}
HUB = {"question": "Q?", "context": {"contexts": ["one.", "two."]}, "long_answer": "So.", "final_decision": "no"}


def test_every_format_is_read():
    assert turns({"instruction": "I", "input": "", "output": "O"}, "alpaca") == pair("I", "O")
    assert turns({"instruction": "I", "input": "J", "output": "O"}, "alpaca") == pair("I\nJ", "O")
    assert turns({"instruction": "I", "input": None, "output": "O", "system": "S"}, "alpaca") == [
        ("system", "S"),
        *pair("I", "O"),
    ]
    shared = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system_prompt": "S"}
    assert turns(shared, "sharegpt") == [("system", "S"), *pair("a", "b")]
    by_role = {"conversations": [{"role": "human", "value": "a"}, {"role": "gpt", "value": "b"}]}
    assert turns(by_role, "sharegpt") == pair("a", "b")
    messages = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2}
    assert turns(messages, "messages") == pair("a", "b") * 2
    assert turns({"prompt": "p", "completion": "c"}, "prompt_completion") == pair("p", "c")
    assert turns({"source": "usmle", "input": "i", "output": "o"}, "instruct") == pair("i", "o")


def test_questions_are_worded_as_published():
    asked = "### Question: Q?\n### Options: (A) one (B) two\n### Answer:"

    assert turns(MEDQA, "medqa") == pair(asked, "two")
    assert turns(MEDQA | {"answer_idx": "A", "answer": "one"}, "medqa") == pair(asked, "one")
    assert turns({key: MEDQA[key] for key in ("question", "options", "answer")}, "medqa") == pair(asked, "two")
    assert turns(MEDQA, "medqa", answer="letter") == pair(asked, "B")
    assert turns(MEDQA, "medqa", answer="both") == pair(asked, "(B) two")
    assert turns(MEDMCQA, "medmcqa", cop_base=1)[1] == ("assistant", "two")
    assert turns(MEDMCQA, "medmcqa", cop_base=0)[1] == ("assistant", "three")
    decide = "### Question: Q?\n### Options: (A) yes (B) no (C) maybe\n### Answer:"
    assert turns(PUBMEDQA, "pubmedqa") == pair(f"### Context: one.\ntwo.\n{decide}", "yes")
    assert turns(HUB, "pubmedqa") == pair(f"### Context: one.\ntwo.\n{decide}", "no")
    assert turns(PUBMEDQA, "pubmedqa", context=False, answer="decision_and_reason") == pair(
        decide, "Final Decision: yes\nLong Answer: So it is."
    )


@pytest.mark.parametrize(
    ("roles", "kept", "trimmed"),
    [
        ("human gpt", "01", ()),
        ("gpt human gpt", "12", ("leading_answer",)),
        ("human gpt human", "01", ("unanswered_question",)),
        ("gpt human gpt human", "12", ("leading_answer", "unanswered_question")),
        ("system gpt human gpt", "023", ("leading_answer",)),
    ],
)
def test_sharegpts_loose_ends_are_left_out(roles, kept, trimmed):
    said = [{"from": role, "value": str(number)} for number, role in enumerate(roles.split())]

    conversation = conversation_of({"conversations": said}, source("sharegpt"))

    assert "".join(message["content"] for message in conversation.messages) == kept
    assert conversation.trimmed == trimmed


def test_subsets_choose_by_source():
    record = {"source": "usmle", "input": "i", "output": "o"}

    assert conversation_of(record, source("instruct", subsets=("usmle",))) is not None
    assert conversation_of(record, source("instruct", subsets=("medpalm",))) is None


@pytest.mark.parametrize(
    ("form", "record", "fault"),
    [
        ("alpaca", {"instruction": "secret"}, "has no `output`"),
        ("alpaca", {"instruction": "secret", "output": 5}, "its `output` is not a string"),
        ("alpaca", {"instruction": "secret", "output": " \n"}, "its turn 2, by the assistant, is empty"),
        ("alpaca", {"instruction": " ", "output": "secret"}, "its turn 1, by the user, is empty"),
        ("instruct", {"source": "a", "output": "secret"}, "has no `input`"),
        ("instruct", {"source": "a", "input": None, "output": "secret"}, "its turn 1, by the user, is empty"),
        ("instruct", {"source": "a", "input": "i", "output": None}, "its `output` is null"),
        ("sharegpt", {}, "has no `conversations`"),
        ("sharegpt", {"conversations": "secret"}, "its `conversations` is not a list"),
        ("sharegpt", {"conversations": []}, "does not end with an answer"),
        ("sharegpt", {"conversations": ["secret"]}, "item 1 of its `conversations` is not an object"),
        ("sharegpt", {"conversations": [{"from": "human"}]}, "item 1 of its `conversations`: has no `value`"),
        (
            "sharegpt",
            {"conversations": [{"from": "secret", "value": "a"}]},
            "item 1 of its `conversations` is by none of human, user, gpt, assistant, system",
        ),
        ("sharegpt", {"conversations": [{"from": "gpt", "value": "secret"}]}, "does not end with an answer"),
        (
            "sharegpt",
            {"conversations": [{"from": "gpt", "value": "secret"}] * 2},
            "its turn 1 is by the assistant, not by the user",
        ),
        (
            "messages",
            {"messages": [{"role": "assistant", "content": "secret"}, {"role": "user", "content": "secret"}]},
            "its turn 1 is by the assistant, not by the user",
        ),
        ("sharegpt", {"conversations": [{"from": "human", "value": "secret"}]}, "does not end with an answer"),
        (
            "sharegpt",
            {"conversations": [{"from": "system", "value": "secret"}], "system_prompt": "secret"},
            "has a `system_prompt` and a turn of the system",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": "secret"}] * 2},
            "its turn 2 is by the user, not by the assistant",
        ),
        ("medqa", MEDQA | {"answer_idx": "C"}, "its `answer` and `answer_idx` do not name one of its `options`"),
        ("medqa", MEDQA | {"answer": "secret"}, "its `answer` and `answer_idx` do not name one of its `options`"),
        (
            "medqa",
            {key: MEDQA[key] for key in ("question", "options")},
            "its `answer` and `answer_idx` do not name one of its `options`",
        ),
        ("medqa", MEDQA | {"options": {"A": 1, "B": 2}}, "its `options` are not texts by letter"),
        ("medmcqa", MEDMCQA | {"cop": 0}, "its `cop` is not one of 1 to 4"),
        ("medmcqa", MEDMCQA | {"cop": True}, "its `cop` is not one of 1 to 4"),
        ("medmcqa", MEDMCQA | {"opc": None}, "has no text as `opc`"),
        ("pubmedqa", PUBMEDQA | {"final_decision": "secret"}, "its `final_decision` is not one of yes, no, maybe"),
        ("pubmedqa", PUBMEDQA | {"CONTEXTS": []}, "has no `CONTEXTS`, a list of texts"),
    ],
)
def test_what_is_wrong_is_said_without_quoting(form, record, fault):
    options = {"cop_base": 1} if form == "medmcqa" else {}

    with pytest.raises(ValueError, match=r".") as error:
        conversation_of(record, source(form, **options))

    assert str(error.value) == fault


@pytest.mark.parametrize(
    ("name", "form", "options"),
    [
        ("sft/medquad_alpaca.2000.json.gz", "alpaca", {}),
        ("sft/medicalgpt/medical_sft_sharegpt.600.jsonl", "sharegpt", {}),
        ("qa/medqa/US/4_options/phrases_no_exclude_test.vis800.jsonl", "medqa", {}),
        ("qa/medqa/US/5_options/test.300.jsonl", "medqa", {"answer": "both"}),
        ("qa/medmcqa/dev.2000.jsonl", "medmcqa", {"cop_base": 1}),
        ("qa/pubmedqa/ori_pqal.json", "pubmedqa", {"answer": "decision_and_reason"}),
    ],
)
def test_no_real_record_is_bad(name, form, options):
    stream = SourceStream(shared_data(name))

    found = [conversation_of(record, source(form, **options)) for _, _, record in read_records(stream)]

    assert len(found) == stream.count > 200


def test_explanations_of_medmcqa_agree_with_a_count_from_one():
    stream = SourceStream(shared_data("qa/medmcqa/dev.2000.jsonl"))

    agreeing = named = 0
    for _, _, record in read_records(stream):
        if said := re.match(r"\s*Ans(?:wer)?[.:-]?\s*(?:is)?\s*\(?'?([a-dA-D])\)?[' .]", str(record.get("exp") or "")):
            named += 1
            agreeing += turns(record, "medmcqa", cop_base=1, answer="letter")[1][1] == said[1].upper()

    assert agreeing == named > 400
