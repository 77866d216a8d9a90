"""Items of MedCare's test files (https://github.com/BlueZeros/MedCare, fcf9a3f): exams, CBLUE and CCTE.

CBLUE's tasks are worded as instructions by PromptCBLUE (https://github.com/michael-wzhu/PromptCBLUE). In its own files
an item is `input`, `target`, `answer_choices`, `task_dataset` and `sample_id`. MedCare's have `conversations` and keep
the rest under `eval`.
"""

import re
from typing import Any

from jobs.data.chat.formats import question_in, text_in
from jobs.data.chat.records import Record
from jobs.evaluation.cblue import CBLUE, data_set
from jobs.evaluation.choice_question import ChoiceQuestion, checked
from jobs.evaluation.report import text_digest


def medcare_record(record: Record, key: str | None) -> ChoiceQuestion:
    """Read MedCare's test item: options stand in the question, A to D and E if the text has `E.` (`eval_medical.py`).

    Raises:
        ValueError: it has no question of one turn, or no letter.
    """
    asked, told = _question(record), _told(record)
    named = told.get("answer_idx") or told.get("answer")
    letters = "ABCDE" if re.search(r"\bE\.", asked) else "ABCD"
    if not isinstance(named, str) or len(named.strip()) != 1:
        raise ValueError("its `eval` has no `answer_idx` or `answer` of one letter")
    return checked(key or "", asked, [*letters], named)


def cblue_record(record: Record, key: str | None) -> ChoiceQuestion:
    """Read an item of CBLUE, in PromptCBLUE's form or MedCare's.

    Raises:
        ValueError: it has no question, or its data set is not known.
    """
    if "conversations" in record:
        asked, facts, target = _question(record), _told(record), _last_answer(record)
    else:
        asked, facts, target = text_in(record, "input"), record, text_in(record, "target")
    name, labels = data_set(str(facts.get("task_dataset"))), facts.get("answer_choices") or []
    if name is None:
        raise ValueError(f"its `task_dataset` is none of {', '.join(CBLUE)}")
    if not isinstance(labels, list) or not all(isinstance(one, str) for one in labels):
        raise ValueError("its `answer_choices` are not a list of texts")
    if not asked.strip():
        raise ValueError("has no text as `input`")
    identifier = str(facts.get("sample_id") or key or "")
    return ChoiceQuestion(identifier, asked, (), 0, subject=name, references=(target,), labels=tuple(labels))


def ccte_record(record: Record, key: str | None) -> ChoiceQuestion:
    """Read an item of CCTE: its `eval` holds `description`, `question` and the `solution`.

    Questions about the same description are a group.

    Raises:
        ValueError: it has no question or no solution.
    """
    asked, told = _question(record), _told(record)
    solution, described = told.get("solution"), told.get("description")
    if not isinstance(solution, str) or not solution.strip():
        raise ValueError("its `eval` has no text as `solution`")
    group = text_digest(described)[:16] if isinstance(described, str) and described.strip() else ""
    return ChoiceQuestion(key or "", asked, (), 0, group=group, references=(solution,))


def _question(record: Record) -> str:
    asked, _ = question_in(record, "sharegpt")
    if len(asked) > 1:
        raise ValueError("is a conversation of several turns; its question would lack what was said before")
    return asked[0]["content"]


def _told(record: Record) -> dict[str, Any]:
    told = record.get("eval")
    return told if isinstance(told, dict) else {}


def _last_answer(record: Record) -> str:
    """The last turn, if it is the assistant's."""
    _, is_answered = question_in(record, "sharegpt")
    return str(record["conversations"][-1].get("value") or "") if is_answered else ""
