"""Read the records of every format as one: turns of a user and the assistant, after an optional system prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from jobs.data.chat.questions import medmcqa_turns, medqa_turns, pubmedqa_turns
from jobs.data.chat.records import Record
from launcher.recipe.sections.chat_sources import ChatSource, InstructSource, ShareGptSource

Message: TypeAlias = dict[str, str]
"""`role` (`system`, `user` or `assistant`) and `content`."""

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
ROLES = {"user": "user", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Conversation:
    """Turns from a question to an answer."""

    messages: list[Message]
    trimmed: tuple[str, ...] = ()
    """Which turns were left out: `leading_answer`, `unanswered_question`."""


def conversation_of(record: Record, source: ChatSource) -> Conversation | None:
    """Read a record as the source's format says; None if the source leaves it out.

    ShareGPT's conversations are parts of chats: one may begin with an answer, which MedCare leaves out as well
    (https://github.com/BlueZeros/MedCare, medcare/train/train.py), or end with a question.

    Raises:
        ValueError: it is not a conversation that ends with an answer; the message does not quote it.
    """
    if isinstance(source, InstructSource) and source.subsets and text_in(record, "source") not in source.subsets:
        return None
    conversation = Conversation(_READERS[source.format](record, source))
    if isinstance(source, ShareGptSource):
        conversation = _trimmed(conversation.messages)
    check_turns(conversation.messages)
    return conversation


def question_in(record: Record, format: Literal["messages", "sharegpt"]) -> tuple[list[Message], bool]:
    """Read a conversation up to its last question.

    Returns:
        The turns, and whether an answer at the end was left out.

    Raises:
        ValueError: it is not a conversation that asks for an answer; the message does not quote it.
    """
    messages = _READERS[format](record, None)
    if format == "sharegpt":
        messages = _without_leading_answer(messages)
    is_answered = bool(messages) and messages[-1]["role"] == "assistant"
    asked = messages[:-1] if is_answered else messages
    check_turns([*asked, {"role": "assistant", "content": "an answer"}])
    return asked, is_answered


def text_in(record: Record, *keys: str) -> str:
    """Return the text under the first of the keys that is there.

    Raises:
        ValueError: none is there, or it is not text.
    """
    for key in keys:
        if key in record:
            if not isinstance(record[key], str):
                raise ValueError(f"its `{key}` is {'null' if record[key] is None else 'not a string'}")
            return str(record[key])
    raise ValueError(f"has no `{keys[0]}`")


def _trimmed(messages: Sequence[Message]) -> Conversation:
    """Leave out an answer at the start and a question at the end."""
    turns = _without_leading_answer(messages)
    trimmed = ["leading_answer"] if len(turns) < len(messages) else []
    if turns and turns[-1]["role"] == "user":
        turns, trimmed = turns[:-1], [*trimmed, "unanswered_question"]
    return Conversation(turns, tuple(trimmed))


def _without_leading_answer(messages: Sequence[Message]) -> list[Message]:
    first = 1 if messages and messages[0]["role"] == "system" else 0
    begins_with_answer = messages[first : first + 1] and messages[first]["role"] == "assistant"
    return [*messages[:first], *messages[first + 1 if begins_with_answer else first :]]


def check_turns(messages: Sequence[Message]) -> None:
    """Refuse empty turns, and any order but user, assistant, user, assistant.

    Raises:
        ValueError: it is not a conversation that ends with an answer.
    """
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    for number, message in enumerate(turns, 1):
        expected = "user" if number % 2 else "assistant"
        if message["role"] != expected:
            raise ValueError(f"its turn {number} is by the {message['role']}, not by the {expected}")
        if not message["content"].strip():
            raise ValueError(f"its turn {number}, by the {expected}, is empty")
    if not turns or len(turns) % 2:
        raise ValueError("does not end with an answer")


def _alpaca(record: Record, _: Any) -> list[Message]:
    instruction = text_in(record, "instruction")
    given = _input_of(record) if "input" in record else ""
    system = text_in(record, "system") if record.get("system") else ""
    question = f"{instruction}\n{given}" if given.strip() else instruction
    return _pair(question, text_in(record, "output"), system)


def _input_of(record: Record) -> str:
    # Tables that were saved as JSON have null in empty cells.
    return "" if record.get("input", "") is None else text_in(record, "input")


def _sharegpt(record: Record, _: Any) -> list[Message]:
    messages = read_turns(record, "conversations", ("from", "role"), ("value", "content"), SHAREGPT_ROLES)
    return with_system(record, messages)


def with_system(record: Record, messages: list[Message]) -> list[Message]:
    """Put a record's `system_prompt`, if it has one, before its turns.

    Raises:
        ValueError: there is a turn of the system as well.
    """
    if not record.get("system_prompt"):
        return messages
    if messages and messages[0]["role"] == "system":
        raise ValueError("has a `system_prompt` and a turn of the system")
    return [{"role": "system", "content": text_in(record, "system_prompt")}, *messages]


def read_turns(
    record: Record, key: str, role_keys: Sequence[str], text_keys: Sequence[str], roles: dict[str, str]
) -> list[Message]:
    """Read a list of turns.

    Args:
        record: Holds it.
        key: Under which it stands.
        role_keys: Under the first of these that is there a turn says who speaks.
        text_keys: Under the first of these that is there it says what.
        roles: Our name of each speaker.

    Raises:
        ValueError: it is not such a list.
    """
    listed = record.get(key)
    if not isinstance(listed, list):
        raise ValueError(f"its `{key}` is not a list" if key in record else f"has no `{key}`")
    messages = []
    for number, turn in enumerate(listed, 1):
        if not isinstance(turn, dict):
            raise ValueError(f"item {number} of its `{key}` is not an object")
        try:
            role, text = text_in(turn, *role_keys), text_in(turn, *text_keys)
        except ValueError as error:
            raise ValueError(f"item {number} of its `{key}`: {error}") from None
        if role not in roles:
            raise ValueError(f"item {number} of its `{key}` is by none of {', '.join(roles)}")
        messages.append({"role": roles[role], "content": text})
    return messages


def _pair(question: str, answer: str, system: str = "") -> list[Message]:
    pair = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [{"role": "system", "content": system}, *pair] if system else pair


def _asked(turns: Callable[[Record, Any], tuple[str, str]]) -> Callable[[Record, Any], list[Message]]:
    return lambda record, source: _pair(*turns(record, source))


_READERS: dict[str, Callable[[Record, Any], list[Message]]] = {
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": lambda record, _: read_turns(record, "messages", ("role",), ("content",), ROLES),
    "prompt_completion": lambda record, _: _pair(text_in(record, "prompt"), text_in(record, "completion")),
    "instruct": lambda record, _: _pair(_input_of(record), text_in(record, "output")),
    "medqa": _asked(medqa_turns),
    "medmcqa": _asked(medmcqa_turns),
    "pubmedqa": _asked(pubmedqa_turns),
}
