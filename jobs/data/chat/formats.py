"""From the records of every format to one: turns of a user and the assistant, after a system prompt if there is one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from jobs.data.chat.questions import medmcqa_turns, medqa_turns, pubmedqa_turns
from jobs.data.chat.records import Record
from launcher.recipe.chat import ChatSource, InstructSource, ShareGptSource

Message: TypeAlias = dict[str, str]
"""`role` (`system`, `user` or `assistant`) and `content`."""

_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_ROLES = {"user": "user", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Conversation:
    """Turns from a question to an answer."""

    messages: list[Message]
    trimmed: tuple[str, ...] = ()
    """Kinds of the turns that were left out: `leading_answer`, `unanswered_question`."""


def conversation_of(record: Record, source: ChatSource) -> Conversation | None:
    """Read a record as the source's format says; None if the source does not want it.

    ShareGPT's conversations were recorded in chats and cut into pieces: one may begin with an answer to nothing, which
    MedCare leaves out, too (https://github.com/BlueZeros/MedCare, medcare/train/train.py), or end with a question.

    Raises:
        ValueError: it is no conversation that ends with an answer; the message quotes nothing of it.
    """
    if isinstance(source, InstructSource) and source.subsets and text_in(record, "source") not in source.subsets:
        return None
    conversation = Conversation(_READERS[source.format](record, source))
    if isinstance(source, ShareGptSource):
        conversation = _trimmed(conversation.messages)
    _check(conversation.messages)
    return conversation


def text_in(record: Record, *keys: str) -> str:
    """Return the text under the first of the keys that is there.

    Raises:
        ValueError: none is there, or it holds something else.
    """
    for key in keys:
        if key in record:
            if not isinstance(record[key], str):
                raise ValueError(f"its `{key}` is not a string")
            return str(record[key])
    raise ValueError(f"has no `{keys[0]}`")


def _trimmed(messages: Sequence[Message]) -> Conversation:
    """Leave out a first turn that answers nothing and a last one that nobody answers."""
    first = 1 if messages and messages[0]["role"] == "system" else 0
    system, turns = [*messages[:first]], [*messages[first:]]
    trimmed = []
    if turns and turns[0]["role"] == "assistant":
        turns, trimmed = turns[1:], ["leading_answer"]
    if turns and turns[-1]["role"] == "user":
        turns, trimmed = turns[:-1], [*trimmed, "unanswered_question"]
    return Conversation([*system, *turns], tuple(trimmed))


def _check(messages: Sequence[Message]) -> None:
    """Refuse turns in another order than user, assistant, user, assistant, and turns that say nothing."""
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    for number, message in enumerate(turns, 1):
        expected = "user" if number % 2 else "assistant"
        if message["role"] != expected:
            raise ValueError(f"its turn {number} is by the {message['role']}, where one by the {expected} should be")
        if not message["content"].strip():
            raise ValueError(f"its turn {number}, by the {expected}, is empty")
    if not turns or len(turns) % 2:
        raise ValueError("does not end with an answer")


def _alpaca(record: Record, _: Any) -> list[Message]:
    instruction, given = text_in(record, "instruction"), text_in({"input": "", **_without_null(record)}, "input")
    system = text_in(record, "system") if record.get("system") else ""
    question = f"{instruction}\n{given}" if given.strip() else instruction
    return _pair(question, text_in(record, "output"), system)


def _sharegpt(record: Record, _: Any) -> list[Message]:
    messages = _turns(record, "conversations", ("from", "role"), ("value", "content"), _SHAREGPT_ROLES)
    if not record.get("system_prompt"):
        return messages
    if messages and messages[0]["role"] == "system":
        raise ValueError("has a `system_prompt` and a turn of the system")
    return [{"role": "system", "content": text_in(record, "system_prompt")}, *messages]


def _messages(record: Record, _: Any) -> list[Message]:
    return _turns(record, "messages", ("role",), ("content",), _ROLES)


def _prompt_completion(record: Record, _: Any) -> list[Message]:
    return _pair(text_in(record, "prompt"), text_in(record, "completion"))


def _instruct(record: Record, _: Any) -> list[Message]:
    return _pair(text_in(record, "input"), text_in(record, "output"))


def _turns(
    record: Record, key: str, role_keys: Sequence[str], text_keys: Sequence[str], roles: dict[str, str]
) -> list[Message]:
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


def _without_null(record: Record) -> Record:
    return {key: value for key, value in record.items() if value is not None}


def _asked(turns: Callable[[Record, Any], tuple[str, str]]) -> Callable[[Record, Any], list[Message]]:
    return lambda record, source: _pair(*turns(record, source))


_READERS: dict[str, Callable[[Record, Any], list[Message]]] = {
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": _messages,
    "prompt_completion": _prompt_completion,
    "instruct": _instruct,
    "medqa": _asked(medqa_turns),
    "medmcqa": _asked(medmcqa_turns),
    "pubmedqa": _asked(pubmedqa_turns),
}
