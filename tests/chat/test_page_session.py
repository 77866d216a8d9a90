"""What tabs of the chat page talk about, without a browser."""

import os
from collections.abc import Iterator

import pytest

from jobs.chat.directions import directions
from jobs.chat.model import ChatModel
from jobs.chat.page_session import PageSession, PageSessions
from jobs.chat.settings import ChatSettings
from launcher.errors import LauncherError
from launcher.recipe.sections.chat import ChatRequest
from launcher.recipe.sections.generation import Decoding
from tests.support.chat_subjects import chat_model, subject

QUESTION = "One day, a little girl"
NONE = ["", ""]


@pytest.fixture(scope="module")
def models() -> list[ChatModel]:
    return [chat_model(), chat_model(title="other")]


@pytest.fixture
def session(models: list[ChatModel]) -> Iterator[PageSession]:
    made = PageSession(models)
    yield made
    made.stop()


def settings(length: int = 12) -> ChatSettings:
    return ChatSettings.of(ChatRequest(subjects=(subject(),), decoding=Decoding(max_new_tokens=length)))


def ask(session: PageSession, *choices: str, question: str = QUESTION, length: int = 12) -> list[str]:
    """Ask, and return the answers."""
    for _ in session.ask(question, settings(length), choices, NONE):
        pass
    return [side[-1]["content"] for side in session.messages()]


def test_each_side_answers_with_its_adapter(session: PageSession) -> None:
    plain, adapted = ask(session, "none", "lora")
    assert plain != adapted
    session.reset()
    assert ask(session, "lora", "none") == [adapted, plain]
    assert all(one.startswith("12 tokens") for one in session.summaries())


def test_what_is_shown_grows_to_the_answer(session: PageSession) -> None:
    shown = []
    for _ in session.ask(QUESTION, settings(), ["none", "none"], NONE):
        shown.append(session.messages()[0][-1]["content"])

    assert shown[0] == "\N{HORIZONTAL ELLIPSIS}"
    parts = list(dict.fromkeys(shown[1:]))
    assert len(parts) > 3
    assert all(shown[-1].startswith(part) for part in parts if part != shown[0])
    assert session.messages()[0] == [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": shown[-1]},
    ]


def test_what_cannot_be_asked_is_not_part_of_the_conversation(session: PageSession) -> None:
    before = ask(session, "none", "none")
    with pytest.raises(LauncherError, match="control tokens"):
        ask(session, "none", "none", question="a </s> b")
    with pytest.raises(LauncherError, match="no adapter `lara`"):
        ask(session, "none", "lara")

    assert [len(side) for side in session.messages()] == [2, 2]
    assert [side[-1]["content"] for side in session.messages()] == before
    assert ask(session, "none", "none")


def test_a_tab_that_is_closed_gives_the_models_back(models: list[ChatModel]) -> None:
    sessions = PageSessions(models)
    first, second = sessions.of("first"), sessions.of("second")
    answers = first.ask(QUESTION, settings(400), ["none", "none"], NONE)
    next(answers)
    next(answers)
    sessions.close("first")  # nobody reads its answers any more

    assert all(ask(second, "none", "none"))
    assert [len(side) for side in sessions.of("first").messages()] == [0, 0]


def test_each_model_has_its_own_system_prompt(models: list[ChatModel]) -> None:
    session = PageSession(models)
    for _ in session.ask(QUESTION, settings(4), ["none", "none"], ["Be kind.", " "]):
        pass
    assert [dialogue.system_prompt for dialogue in session._dialogues] == ["Be kind.", None]


@pytest.mark.parametrize(("host", "jump"), [(None, ""), ("login.example.org", "-J me@login.example.org ")])
def test_the_tunnel_leads_through_the_login_node(monkeypatch: pytest.MonkeyPatch, host: str | None, jump: str) -> None:
    monkeypatch.setenv("LOGNAME", "me")
    lines = [*directions(7861, "secret", host)]

    assert lines[0].endswith(f"  ssh -N -L 7861:127.0.0.1:7861 {jump}me@{os.uname().nodename}")
    assert [line.split()[-1] for line in lines[1:4]] == ["http://127.0.0.1:7861", "chat", "secret"]
