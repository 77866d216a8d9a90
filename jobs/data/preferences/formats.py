"""Read the records of every format as one: a conversation up to a question, and its two answers."""

import re
from dataclasses import dataclass
from typing import Any

from jobs.data.chat.formats import ROLES, SHAREGPT_ROLES, Message, check_turns, read_turns, text_in, with_system
from jobs.data.chat.records import Record
from launcher.recipe.sections.preference_sources import PreferenceSource

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_ANSWERS = ("chosen", "rejected")


@dataclass(frozen=True)
class Preference:
    """Two answers to the same conversation; one of them is None if the other has no partner."""

    prompt: list[Message]
    """Ends with a question."""
    chosen: str | None
    rejected: str | None
    margin: float = 0.0
    """How far apart the rewards should be."""

    def conversations(self) -> list[list[Message]]:
        """Return the conversation with the chosen answer, and that with the rejected one; those that there are."""
        return [[*self.prompt, _said(text)] for text in (self.chosen, self.rejected) if text is not None]


def preference_of(record: Record, source: PreferenceSource) -> Preference:
    """Read a record as the source's format says.

    Raises:
        ValueError: it is no pair of different answers to one question; the message does not quote it.
    """
    prompt, *answers = _READERS[source.format](record)
    chosen, rejected = answers
    for name, text in zip(_ANSWERS, answers, strict=True):
        if text is not None and not text.strip():
            raise ValueError("its answer is empty" if None in answers else f"its {name} answer is empty")
    if None not in answers and chosen.strip() == rejected.strip():
        raise ValueError("its two answers are equal")
    preference = Preference(prompt, chosen, rejected, _margin(record, source.margin))
    check_turns(preference.conversations()[0])
    return preference


def _margin(record: Record, key: str | None) -> float:
    if key is None:
        return 0.0
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"its `{key}` is not a number" if key in record else f"has no `{key}`")
    return float(value)


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _question(record: Record) -> tuple[list[Message], str, str]:
    system = text_in(record, "system") if record.get("system") else ""
    turns: list[Message] = [{"role": "system", "content": system}] if system else []
    for number, exchange in enumerate(record.get("history") or (), 1):
        if not (isinstance(exchange, list) and len(exchange) == 2 and all(isinstance(one, str) for one in exchange)):
            raise ValueError(f"item {number} of its `history` is not a question and its answer")
        turns += [{"role": "user", "content": exchange[0]}, _said(exchange[1])]
    turns.append({"role": "user", "content": text_in(record, "question")})
    return turns, text_in(record, "response_chosen"), text_in(record, "response_rejected")


def _sharegpt(record: Record) -> tuple[list[Message], str, str]:
    turns = read_turns(record, "conversations", ("from", "role"), ("value", "content"), SHAREGPT_ROLES)
    chosen, rejected = (_sharegpt_answer(record, name) for name in _ANSWERS)
    return with_system(record, turns), chosen, rejected


def _sharegpt_answer(record: Record, name: str) -> str:
    # LLaMA-Factory's records have an object such as a turn has.
    turn = record.get(name)
    if isinstance(turn, dict):
        return text_in(turn, "value", "content")
    return text_in(record, name)


def _trl(record: Record) -> tuple[list[Message], str, str]:
    if "prompt" not in record:
        return _parted(*(read_turns(record, name, ("role",), ("content",), ROLES) for name in _ANSWERS))
    if isinstance(record["prompt"], str):
        asked = [{"role": "user", "content": record["prompt"]}]
        return asked, text_in(record, "chosen"), text_in(record, "rejected")
    prompt, chosen, rejected = (
        read_turns(record, name, ("role",), ("content",), ROLES) for name in ("prompt", *_ANSWERS)
    )
    return _parted([*prompt, *chosen], [*prompt, *rejected])


def _hh_rlhf(record: Record) -> tuple[list[Message], str, str]:
    return _parted(*(_transcript(text_in(record, name), name) for name in _ANSWERS))


def _transcript(text: str, name: str) -> list[Message]:
    before, *parts = _TURN.split(text)
    if before.strip() or not parts:
        raise ValueError(f"its {name} transcript does not begin with `Human:`")
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _SPEAKERS[speaker], "content": words.strip()} for speaker, words in pairs]


def _unpaired(record: Record) -> tuple[list[Message], str | None, str | None]:
    is_desirable = record.get("label")
    if not isinstance(is_desirable, bool):
        raise ValueError("its `label` is neither true nor false" if "label" in record else "has no `label`")
    if isinstance(record.get("prompt"), str):
        asked, answer = [{"role": "user", "content": record["prompt"]}], text_in(record, "completion")
    else:
        asked, said = (read_turns(record, name, ("role",), ("content",), ROLES) for name in ("prompt", "completion"))
        if [turn["role"] for turn in said] != ["assistant"]:
            raise ValueError("its `completion` is not one answer")
        answer = said[0]["content"]
    return (asked, answer, None) if is_desirable else (asked, None, answer)


def _parted(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], str, str]:
    """Part two conversations that differ in their last answer."""
    for name, turns in zip(_ANSWERS, (chosen, rejected), strict=True):
        if not turns or turns[-1]["role"] != "assistant":
            raise ValueError(f"its {name} conversation does not end with an answer")
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("its two conversations differ before their last answers")
    return chosen[:-1], chosen[-1]["content"], rejected[-1]["content"]


_READERS: dict[str, Any] = {
    "question": _question,
    "sharegpt": _sharegpt,
    "trl": _trl,
    "hh_rlhf": _hh_rlhf,
    "unpaired": _unpaired,
}
