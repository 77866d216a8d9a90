"""CBLUE's tasks as PromptCBLUE asks them: which there are, and how an answer is read from a text.

Source: `post_generate_process.py` and the description of its results in https://github.com/michael-wzhu/PromptCBLUE, of
which MedCare (https://github.com/BlueZeros/MedCare, fcf9a3f, medcare/eval/cblue) uses 16 of 18 data sets. An answer is
read by the words with which the instructions ask for it; what does not have that form is not read.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

CblueAnswer: TypeAlias = frozenset[str] | str | dict[str, str]
"""Facts, each as JSON; the name of a class; or texts by the name of their section."""
Facts: TypeAlias = Iterator[dict[str, Any]]

_COLON, _COMMA, _SEMICOLON = "\uff1a\uff0c\uff1b"
_LISTS = ("描述词", "解剖部位")
_EVENT = ("主体词", "发生状态", *_LISTS)
_REPORT = ("主诉", "现病史", "辅助检查", "既往史", "诊断", "建议")
_SAME = {"相同": "是的", "不同": "不是"}
"""Of CHIP-STS: other words for its classes."""


@dataclass(frozen=True)
class CblueSet:
    """A data set of CBLUE."""

    scored_by: Literal["micro_f1", "macro_f1", "weighted_f1", "rouge_l"]
    facts: Callable[[str, Sequence[str]], Facts] | None = None
    """Reads facts from a text, given the types that the question lists."""


def data_set(name: str) -> str | None:
    """Return how a data set is called here; None if it is not known."""
    known = "CMeIE" if name == "CMeIE-V2" else name
    return known if known in CBLUE else None


def read_cblue(name: str, text: str, labels: Sequence[str]) -> CblueAnswer:
    """Read an answer from a text: the model's, or that of the files.

    Args:
        name: Of the data set.
        text: In the form that the instruction asks for.
        labels: Types or classes that the question lists.
    """
    its = CBLUE[name]
    if its.facts is not None:
        return frozenset(_as_json(fact) for fact in its.facts(text, labels))
    if name == "IMCS-V2-MRG":
        return _sections(text)
    if its.scored_by == "rouge_l":
        return {"": text.strip()}
    return _SAME.get(text.strip(), text.strip()) if name == "CHIP-STS" else text.strip()


def structured_cblue(name: str, answer: Any) -> CblueAnswer:
    """Take over an answer that a file of structured answers holds.

    Args:
        name: Of the data set.
        answer: A list of facts, a text, or an object of texts.

    Raises:
        ValueError: it is something else.
    """
    its = CBLUE[name]
    if its.facts is not None:
        if not isinstance(answer, list) or not all(isinstance(fact, dict) for fact in answer):
            raise ValueError(f"its answer is no list of objects, which `{name}` needs")
        return frozenset(map(_as_json, answer))
    if name == "IMCS-V2-MRG":
        if not isinstance(answer, dict) or not all(isinstance(text, str) for text in answer.values()):
            raise ValueError(f"its answer is no object of texts, which `{name}` needs")
        return {**answer}
    if not isinstance(answer, str):
        raise ValueError(f"its answer is no text, which `{name}` needs")
    return read_cblue(name, answer, ())


def _as_json(fact: dict[str, Any]) -> str:
    return json.dumps(fact, sort_keys=True, ensure_ascii=False)


def _entities(text: str, labels: Sequence[str]) -> Facts:
    """Yield what lines name: a type and `实体`, a colon, and names between commas."""
    for label in labels:
        for line in text.split("\n"):
            if line.startswith(f"{label}实体"):
                for name in line.replace(f"{label}实体{_COLON}", "").split(_COMMA):
                    if name.strip():
                        yield {"entity": name.strip(), "type": label}


def _relations(text: str, _labels: Sequence[str]) -> Facts:
    """Yield what lines say: `具有…关系的头尾实体对如下`, a colon, and pairs of `头实体为…` and `尾实体为…`."""
    for line in text.split("\n"):
        predicate = line.split("关系的头尾实体对")[0][2:].strip()
        for pair in line.replace(f"具有{predicate}关系的头尾实体对如下{_COLON}", "").split("。"):
            head, *tails = pair.split(f"{_COMMA}尾实体为")
            if tails:
                subject, tail = head.replace("头实体为", "").strip(), tails[0].replace("尾实体为", "").strip()
                yield {"predicate": predicate, "subject": subject, "object": tail}


def _terms(text: str, labels: Sequence[str]) -> Facts:
    """Yield the terms of the last line that are among those to choose from."""
    for name in text.rsplit("\n", maxsplit=1)[-1].split(_COMMA):
        if name.strip() in labels:
            yield {"entity": name.strip(), "type": "normalization"}


def _events(text: str, _labels: Sequence[str]) -> Facts:
    """Yield an event for each line after the first: keys and values, with semicolons between them."""
    for line in text.split("\n")[1:]:
        event: dict[str, Any] = {key: [] if key in _LISTS else "" for key in _EVENT}
        for part in line.split(_SEMICOLON):
            key, _, said = part.partition(_COLON)
            if key in _LISTS:
                event[key] = [one.strip() for one in said.split(_COMMA) if one.strip()]
            elif key in event:
                event[key] = said.strip()
        yield event


def _findings(default: str) -> Callable[[str, Sequence[str]], Facts]:
    """Return what reads lines of a finding and a judgement after the first; unknown ones become a default."""

    def read(text: str, labels: Sequence[str]) -> Facts:
        for line in text.split("\n")[1:]:
            if line.count(_COLON) == 1:
                finding, judged = line.split(_COLON)
                yield {"entity": finding.strip(), "attr": judged if judged in labels else default}

    return read


def _sections(text: str) -> dict[str, str]:
    """Return the sections of a report: lines after the first that begin with a section's name and a colon."""
    lines, found = text.strip().split("\n")[1:], {}
    for name in _REPORT:
        for line in lines:
            if line.startswith(f"{name}{_COLON}"):
                found[name] = line.strip().split(f"{name}{_COLON}")[-1].strip()
    return found


CBLUE = {
    "CMeEE-V2": CblueSet("micro_f1", _entities),
    "CMeIE": CblueSet("micro_f1", _relations),
    "CHIP-CDN": CblueSet("micro_f1", _terms),
    "CHIP-CDEE": CblueSet("micro_f1", _events),
    "IMCS-V2-NER": CblueSet("micro_f1", _entities),
    "CHIP-MDCFNPC": CblueSet("micro_f1", _findings("不标注")),
    "IMCS-V2-SR": CblueSet("micro_f1", _findings("无法根据上下文确定病人是否患有该症状")),
    "IMCS-V2-DAC": CblueSet("macro_f1"),
    "IMCS-V2-MRG": CblueSet("rouge_l"),
    "CHIP-CTC": CblueSet("macro_f1"),
    "CHIP-STS": CblueSet("weighted_f1"),
    "KUAKE-IR": CblueSet("weighted_f1"),
    "KUAKE-QIC": CblueSet("macro_f1"),
    "KUAKE-QQR": CblueSet("weighted_f1"),
    "KUAKE-QTR": CblueSet("weighted_f1"),
    "MedDG": CblueSet("rouge_l"),
}
"""The 16 that MedCare evaluates, in its order."""
