"""Pairs of every format become the same kind of preference; wrong ones say what is wrong, without quoting it."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from jobs.data.preferences.formats import preference_of
from launcher.recipe.sections.preference_sources import PreferenceSource

_adapter: TypeAdapter[PreferenceSource] = TypeAdapter(PreferenceSource)

QUESTION = {"question": "q", "response_chosen": "good", "response_rejected": "bad"}
SHARED = {"conversations": [{"from": "human", "value": "q"}], "chosen": "good", "rejected": "bad"}
ASKED = [{"role": "user", "content": "q"}]
CHAT = {
    "prompt": ASKED,
    "chosen": [{"role": "assistant", "content": "good"}],
    "rejected": [{"role": "assistant", "content": "bad"}],
}
IMPLICIT = {"chosen": [*ASKED, *CHAT["chosen"]], "rejected": [*ASKED, *CHAT["rejected"]]}
PLAIN = {"prompt": "q", "chosen": "good", "rejected": "bad"}
HH = {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"}


def read(form: str, record: dict[str, Any], **options: Any) -> Any:
    source = _adapter.validate_python({"name": "x", "files": "x", "format": form, **options})
    return preference_of(record, source)


def sides(form: str, record: dict[str, Any]) -> list[list[tuple[str, str]]]:
    return [[(turn["role"], turn["content"]) for turn in side] for side in read(form, record).conversations()]


@pytest.mark.parametrize(
    ("form", "record"),
    [
        ("question", QUESTION),
        ("sharegpt", SHARED),
        (
            "sharegpt",
            SHARED | {"chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}},
        ),
        ("trl", PLAIN),
        ("trl", CHAT),
        ("trl", IMPLICIT),
        ("hh_rlhf", HH),
    ],
)
def test_every_format_is_read(form: str, record: dict[str, Any]) -> None:
    assert sides(form, record) == [[("user", "q"), ("assistant", answer)] for answer in ("good", "bad")]


def test_earlier_turns_and_a_system_prompt_are_context() -> None:
    turns = [
        {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}
    ]  # fmt: skip
    chat = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c")]

    shared = sides("sharegpt", SHARED | {"conversations": turns, "system_prompt": "S"})
    human = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    transcript = sides("hh_rlhf", {"chosen": f"{human} good\n\nIn two parts.", "rejected": f"{human} bad"})

    first = QUESTION | {"question": "c", "system": "S", "history": [["a", "b"]]}
    assert sides("question", first) == shared
    assert shared == [[*chat, ("assistant", answer)] for answer in ("good", "bad")]
    assert transcript == [[*chat[1:], ("assistant", answer)] for answer in ("good\n\nIn two parts.", "bad")]


def test_a_margin_is_a_number_under_the_key_that_the_source_names() -> None:
    assert read("question", QUESTION | {"gap": 2}, margin="gap").margin == 2.0
    assert read("question", QUESTION | {"gap": 2}).margin == 0.0
    for record, what in ((QUESTION, "has no `gap`"), (QUESTION | {"gap": "2"}, "its `gap` is not a number")):
        with pytest.raises(ValueError, match=what):
            read("question", record, margin="gap")


@pytest.mark.parametrize(
    ("form", "record", "what"),
    [
        ("question", QUESTION | {"response_rejected": " good\n"}, "its two answers are equal"),
        ("question", QUESTION | {"response_rejected": " \n"}, "its rejected answer is empty"),
        ("question", QUESTION | {"response_chosen": None}, "its `response_chosen` is null"),
        ("question", QUESTION | {"history": [["a"]]}, "item 1 of its `history` is not a question and its answer"),
        ("question", {"question": "q", "response_chosen": "good"}, "has no `response_rejected`"),
        ("sharegpt", SHARED | {"conversations": []}, "its turn 1 is by the assistant, not by the user"),
        ("sharegpt", SHARED | {"conversations": SHARED["conversations"] * 2}, "its turn 2 is by the user"),
        ("sharegpt", SHARED | {"chosen": 3}, "its `chosen` is not a string"),
        ("trl", {"chosen": "good", "rejected": "bad"}, "its `chosen` is not a list"),
        ("trl", CHAT | {"rejected": []}, "its rejected conversation does not end with an answer"),
        (
            "trl",
            IMPLICIT | {"chosen": [{"role": "user", "content": "another"}, *CHAT["chosen"]]},
            "its two conversations differ before their last answers",
        ),
        ("hh_rlhf", HH | {"chosen": "q\n\nAssistant: good"}, "its chosen transcript does not begin with `Human:`"),
        ("hh_rlhf", HH | {"chosen": "\n\nHuman: q"}, "its chosen conversation does not end with an answer"),
    ],
)
def test_what_is_no_pair_of_answers_says_why(form: str, record: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        read(form, record)


SINGLE = {"prompt": "q", "completion": "fine", "label": True}


def test_an_answer_without_a_partner_is_on_the_side_that_its_label_says() -> None:
    said = [{"role": "assistant", "content": "fine"}]
    chosen, rejected, chat = (
        read("unpaired", SINGLE | change) for change in ({}, {"label": False}, {"prompt": ASKED, "completion": said})
    )

    assert (chosen.chosen, chosen.rejected) == ("fine", None)
    assert (rejected.chosen, rejected.rejected) == (None, "fine")
    assert chat == chosen
    assert chosen.conversations() == [[*ASKED, *said]]


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"prompt": "q", "completion": "fine"}, "has no `label`"),
        (SINGLE | {"label": 1}, "its `label` is neither true nor false"),
        (SINGLE | {"completion": " "}, "its answer is empty"),
        (SINGLE | {"completion": None}, "its `completion` is null"),
        (SINGLE | {"prompt": ASKED, "completion": ASKED}, "its `completion` is not one answer"),
    ],
)
def test_what_is_no_labelled_answer_says_why(record: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        read("unpaired", record)
