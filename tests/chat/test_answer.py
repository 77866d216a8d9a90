"""Answers part by part: the texts of `kind: generate`, and what happens to dialogues around them."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.chat.dialogue import Dialogue
from jobs.chat.model import ChatModel
from jobs.chat.settings import ChatSettings
from jobs.kinds.generate import main
from launcher.errors import LauncherError
from launcher.recipe.sections.chat import ChatRequest
from launcher.recipe.sections.generation import Decoding
from tests.support.chat_subjects import LORA, STORIES, chat_model, subject
from tests.support.generation_runs import generation, texts_of, write_records

QUESTION = "One day, a little girl"


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return chat_model()


@pytest.fixture
def dialogue(model: ChatModel) -> Dialogue:
    model.use("none")
    return Dialogue(model)


def settings(**decoding: Any) -> ChatSettings:
    return ChatSettings.of(ChatRequest(subjects=(subject(),), decoding=Decoding(**{"max_new_tokens": 24} | decoding)))


@pytest.mark.parametrize(
    "decoding",
    [
        {"max_new_tokens": 24},
        {"max_new_tokens": 40, "temperature": 0.9, "top_p": 0.9, "top_k": 50},
        {"max_new_tokens": 40, "repetition_penalty": 1.3},
        {"max_new_tokens": 60, "stop": ["She", "park. One day, she saw"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_an_answer_is_the_text_that_generate_writes(
    tmp_path: Path, dialogue: Dialogue, decoding: dict[str, Any], adapter: str
) -> None:
    write_records(tmp_path / "prompts.jsonl", [{"id": "turn-0", "prompt": QUESTION}])
    chosen = {"path": str(STORIES.name), "dtype": "fp32"}
    if adapter == "lora":
        chosen |= {"adapters": [{"path": LORA.name}]}
    data = {"files": "./prompts.jsonl", "format": "prompt", "chat": {"template": "plain"}}
    context = generation(tmp_path, model=chosen, decoding=decoding, data=data)
    main(context)
    [expected] = texts_of(context)

    dialogue.model.use(adapter)
    parts = [*dialogue.ask(QUESTION, settings(**json.loads(json.dumps(decoding), object_hook=_tuples)))]

    assert "".join(parts) == expected["text"]
    assert len(parts) > 3
    assert dialogue.answer is not None
    assert (dialogue.answer.finish, dialogue.answer.tokens) == (expected["finish"], expected["tokens"])
    assert dialogue.turns == [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": expected["text"]},
    ]


def _tuples(found: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def test_a_stopped_answer_is_part_of_the_dialogue(dialogue: Dialogue) -> None:
    answer = dialogue.ask(QUESTION, settings(max_new_tokens=400))
    first = [*itertools.islice(answer, 3)]
    dialogue.stop()
    rest = [*answer]

    assert dialogue.answer is not None
    assert dialogue.answer.finish == "stopped"
    assert dialogue.answer.tokens < 400
    assert dialogue.turns[-1]["content"] == "".join([*first, *rest])
    assert "stopped" in dialogue.summary()


def test_an_answer_that_nobody_reads_further_ends(dialogue: Dialogue) -> None:
    answer = dialogue.ask(QUESTION, settings(max_new_tokens=400))
    part = next(answer)
    answer.close()  # type: ignore[attr-defined]

    assert dialogue.turns[-1]["content"] == part


def test_the_next_question_is_asked_after_all_that_was_said(dialogue: Dialogue, model: ChatModel) -> None:
    dialogue.set_system_prompt("Be brief.")
    first = "".join(dialogue.ask(QUESTION, settings(max_new_tokens=8)))
    asked = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And then?"},
    ]
    whole, left_out = model.answer(asked, settings(), "turn-1")

    assert "".join(dialogue.ask("And then?", settings())) == "".join(whole)
    assert left_out == dialogue.left_out == 0


def test_the_oldest_messages_are_left_out_once_the_model_has_no_place_for_them(dialogue: Dialogue) -> None:
    for number in range(6):
        [*dialogue.ask(f"{number} " + "a long question about a girl " * 10, settings(max_new_tokens=16))]

    assert dialogue.left_out > 0
    assert dialogue.left_out % 2 == 0
    assert f"the {dialogue.left_out} oldest messages" in dialogue.summary()
    assert len(dialogue.turns) == 12


def test_a_question_that_is_too_long_is_refused_and_not_kept(dialogue: Dialogue) -> None:
    with pytest.raises(LauncherError, match=r"has \d+ tokens; with 24 .* more than the model's 512 positions"):
        [*dialogue.ask("word " * 600, settings())]
    assert dialogue.turns == []


def test_a_control_token_in_a_question_is_refused(dialogue: Dialogue) -> None:
    with pytest.raises(LauncherError, match="control token"):
        [*dialogue.ask("a </s> b", settings())]


def test_characters_of_several_tokens_appear_whole(model: ChatModel) -> None:
    """The tokenizer writes what is not in its vocabulary as bytes: a character is up to four tokens."""
    from jobs.chat.answer import Answer

    tokenizer = model._loaded.tokenizer  # type: ignore[union-attr]
    ids = tokenizer.encode("\N{GREEK SMALL LETTER BETA}-blocker \N{PILL}", add_special_tokens=False)
    answer = Answer(model._loaded, frozenset(), [1], Decoding(), 1, "a")  # type: ignore[arg-type]
    shown = []
    for one in ids:
        answer._ids.append(one)
        shown += [*answer._new_part(answer._safe_text())]

    assert len(ids) > len(shown)
    assert "".join(shown).strip() == "\N{GREEK SMALL LETTER BETA}-blocker \N{PILL}"
    assert not any("\ufffd" in part for part in shown)


def test_a_seed_decides_and_asking_again_differs(dialogue: Dialogue) -> None:
    hot = settings(temperature=1.0)
    one, same, again, other = (
        "".join(_fresh(dialogue).ask(QUESTION, how, times))
        for how, times in ((hot, 0), (hot, 0), (hot, 1), (hot.changed(seed=7), 0))
    )

    assert one == same
    assert len({one, again, other}) == 3


def _fresh(dialogue: Dialogue) -> Dialogue:
    dialogue.reset()
    return dialogue


def test_a_model_without_chat_template_says_what_is_used(model: ChatModel) -> None:
    assert "`plain` is used" in model.note
    assert chat_model(template="alpaca").note == ""
    with pytest.raises(LauncherError, match="tokenizer has none"):
        chat_model(template="tokenizer")


def test_llama2s_template_takes_a_system_prompt_and_chatml_needs_tokens() -> None:
    assert chat_model(template="llama2").has_system_prompt
    with pytest.raises(LauncherError, match=r"needs `<\|im_start\|>`"):
        chat_model(template="chatml")


def test_an_unknown_adapter_is_refused_with_those_there_are(dialogue: Dialogue) -> None:
    with pytest.raises(LauncherError, match=r"no adapter `lara`; there are `lora`, `none`"):
        dialogue.model.use("lara")


def test_an_adapter_that_cannot_be_loaded_leaves_the_one_before(tmp_path: Path) -> None:
    model = chat_model(adapters={"none": (), "gone": (str(tmp_path),)})
    with pytest.raises(LauncherError, match="is not an adapter"):
        model.use("gone")

    assert model.choice == "none"
    assert "".join(Dialogue(model).ask(QUESTION, settings()))
