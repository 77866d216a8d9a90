"""What is typed after a `/`."""

import pytest

from jobs.chat.commands import COMMANDS, ChatState, run_command
from jobs.chat.dialogue import Dialogue
from jobs.chat.settings import ChatSettings
from launcher.errors import LauncherError
from launcher.recipe.sections.chat import ChatRequest
from launcher.recipe.sections.generation import Decoding
from tests.support.chat_subjects import chat_model, subject


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    first, second = chat_model(), chat_model(title="other", adapters={"none": ()}, system_prompt="Be kind.")
    return [Dialogue(first), Dialogue(second)]


@pytest.fixture
def state(dialogues: list[Dialogue]) -> ChatState:
    for dialogue in dialogues:
        dialogue.reset()
    return ChatState(
        dialogues, ChatSettings.of(ChatRequest(subjects=(subject(),), decoding=Decoding(max_new_tokens=4)))
    )


def said(state: ChatState, line: str) -> list[str]:
    return [*run_command(state, line)]


@pytest.mark.parametrize(
    ("line", "shown", "field", "value"),
    [
        ("/temperature 0.7", "temperature 0.7", "temperature", 0.7),
        ("/length 100", "length 100", "max_new_tokens", 100),
        ("/top_p .5", "top_p 0.5 (not in use at temperature 0)", "top_p", 0.5),
        ("/top_k 10", "top_k 10 (not in use at temperature 0)", "top_k", 10),
        ("/top_k all", "top_k all (not in use at temperature 0)", "top_k", None),
        ("/penalty 1.2", "penalty 1.2", "repetition_penalty", 1.2),
        ("/seed 3", "seed 3 (not in use at temperature 0)", "seed", 3),
    ],
)
def test_a_number_is_set_and_shown(state: ChatState, line: str, shown: str, field: str, value: object) -> None:
    assert said(state, line) == [shown]
    assert getattr(state.settings, field) == value
    assert said(state, line.split(maxsplit=1)[0]) == [shown]
    assert shown in said(state, "/settings")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("/temperature hot", "temperature: `hot` is not a number"),
        ("/temperature -1", "temperature: `-1.0`: input should be greater than or equal to 0"),
        ("/temperature nan", "temperature: `nan`: input should be"),
        ("/temperature 0.001", "temperature: `0.001` is too close to 0"),
        ("/length 1.5", "length: `1.5` is not a whole number"),
        ("/length 0", "length: `0`: input should be greater than or equal to 1"),
        ("/top_p 2", "top_p: `2.0`: input should be less than or equal to 1"),
        ("/top_k 0", "top_k: `0`: input should be"),
        ("/penalty 0.5", "penalty: `0.5`: input should be"),
        ("/seed -1", "seed: `-1` is not from 0 to"),
        ("/adapter lara", "there is no adapter `lara`; there are `lora`, `none`"),
        ("/rset", "there is no command `/rset`; there are `reset`"),
        ("/again now", "/again: write nothing behind it"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(state: ChatState, line: str, fault: str) -> None:
    before = state.settings
    with pytest.raises(LauncherError) as error:
        said(state, line)

    assert str(error.value).startswith(fault)
    assert state.settings == before


@pytest.mark.parametrize(
    ("field", "name"),
    [("seed", "seed"), ("max_new_tokens", "length"), ("temperature", "temperature"), ("repetition_penalty", "penalty")],
)
def test_a_number_that_was_cleared_is_asked_for(state: ChatState, field: str, name: str) -> None:
    with pytest.raises(LauncherError, match=f"^{name}: there is no number; write one$"):
        state.settings.changed(**{field: None})


def test_top_p_returns_with_the_temperature(state: ChatState) -> None:
    said(state, "/temperature 0.7")
    said(state, "/top_p 0.5")
    said(state, "/temperature 0")
    assert state.settings.decoding.top_p == 1
    said(state, "/temperature 0.7")
    assert state.settings.decoding.top_p == 0.5


def test_reset_forgets_and_history_shows(state: ChatState) -> None:
    first, second = state.dialogues
    answer = "".join(first.ask("Once upon a time", state.settings))

    assert said(state, "/history") == ["you: Once upon a time", f"stories: {answer}", "system: Be kind.",
                                       "nothing was said yet"]  # fmt: skip
    assert second.turns == []
    said(state, "/reset")
    assert said(state, "/history")[0] == "nothing was said yet"
    assert second.system_prompt == "Be kind."


def test_a_system_prompt_is_for_all_models(state: ChatState) -> None:
    first, second = state.dialogues
    assert said(state, "/system") == ["stories: system prompt: none", "other: system prompt: Be kind."]
    said(state, "/system You are a doctor.")
    assert first.system_prompt == second.system_prompt == "You are a doctor."
    said(state, "/system none")
    assert first.system_prompt is None
    second.set_system_prompt("Be kind.")


def test_an_adapter_is_changed_where_there_is_one_of_the_name(state: ChatState) -> None:
    assert said(state, "/adapter lora") == ["stories: adapter `lora`; there are also `none`", "other: adapter `none`"]
    said(state, "/adapter none")
    assert [dialogue.model.choice for dialogue in state.dialogues] == ["none", "none"]


def test_help_names_every_command(state: ChatState) -> None:
    lines = said(state, "/help")
    assert [line.split()[0] for line in lines[:-1]] == [f"/{name}" for name in COMMANDS]
