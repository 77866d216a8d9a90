"""Medical questions with options, worded as in BioMed-LLaMA's fine-tuning.

`### Context: ...` if there is one, `### Question: ...`, `### Options: (A) ... (B) ...` if there are any, `### Answer:`.
With `chat_template: plain` the text is exactly that of github.com/Coldog2333/BioMed-LLaMA, commit 7a5876a.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.data.chat.records import Record
from launcher.recipe.sections.chat_sources import MedMcqaSource, MedQaSource, OptionAnswer, PubMedQaSource

DECISIONS = ("yes", "no", "maybe")


@dataclass(frozen=True)
class MedicalQuestion:
    """A question with options."""

    question: str
    options: Mapping[str, str]
    """Texts by letter."""
    answer: str
    """Letter of the right one."""
    context: str = ""


def medqa_question(record: Record) -> MedicalQuestion:
    """Read a MedQA record.

    Raises:
        ValueError: it is not one, or its fields contradict each other.
    """
    options = record.get("options")
    if not isinstance(options, dict) or len(options) < 2 or not all(_is_text(text) for text in options.values()):
        raise ValueError("its `options` are not texts by letter")
    letters = [letter for letter, text in options.items() if text == record.get("answer", text)]
    letters = [letter for letter in letters if letter == record.get("answer_idx", letter)]
    if len(letters) != 1:
        raise ValueError("its `answer` and `answer_idx` do not name one of its `options`")
    return MedicalQuestion(_question(record), options, letters[0])


def medmcqa_question(record: Record, cop_base: int) -> MedicalQuestion:
    """Read a MedMCQA record.

    Raises:
        ValueError: it is not one, or `cop` does not name an option.
    """
    options = {}
    for letter in "ABCD":
        key = f"op{letter.lower()}"
        if not _is_text(record.get(key)):
            raise ValueError(f"has no text as `{key}`")
        options[letter] = str(record[key])
    cop = record.get("cop")
    if not isinstance(cop, int) or isinstance(cop, bool) or cop - cop_base not in range(4):
        raise ValueError(f"its `cop` is not one of {cop_base} to {cop_base + 3}")
    return MedicalQuestion(_question(record), options, "ABCD"[cop - cop_base])


def pubmedqa_question(record: Record, context: bool = True) -> MedicalQuestion:
    """Read a PubMedQA record, the authors' or Hugging Face's, with or without its abstract.

    Raises:
        ValueError: it is not one.
    """
    fields = _lower_case(record)
    decision = fields.get("final_decision")
    if decision not in DECISIONS:
        raise ValueError(f"its `final_decision` is not one of {', '.join(DECISIONS)}")
    text = "\n".join(_contexts(fields)) if context else ""
    letter = "ABC"[DECISIONS.index(decision)]
    return MedicalQuestion(_question(fields), dict(zip("ABC", DECISIONS, strict=True)), letter, text)


def worded(question: str, options: Mapping[str, str], context: str) -> str:
    """Word a question with its options, texts by letter, up to where the answer comes."""
    listed = " ".join(f"({letter}) {text}" for letter, text in options.items())
    sections = {"Context": context, "Question": question, "Options": listed}
    return "".join(f"### {name}: {text}\n" for name, text in sections.items() if text) + "### Answer:"


def medqa_turns(record: Record, source: MedQaSource) -> tuple[str, str]:
    """Return question and answer of a MedQA record; raise ValueError if it is not one."""
    return _turns(medqa_question(record), source.answer)


def medmcqa_turns(record: Record, source: MedMcqaSource) -> tuple[str, str]:
    """Return question and answer of a MedMCQA record; raise ValueError if it is not one."""
    return _turns(medmcqa_question(record, source.cop_base), source.answer)


def pubmedqa_turns(record: Record, source: PubMedQaSource) -> tuple[str, str]:
    """Return question and answer of a PubMedQA record; raise ValueError if it is not one."""
    asked = pubmedqa_question(record, source.context)
    question, decision = _turns(asked, "text")
    if source.answer == "decision":
        return question, decision
    fields = _lower_case(record)
    if not _is_text(fields.get("long_answer")):
        raise ValueError("has no text as `LONG_ANSWER`")
    return question, f"Final Decision: {decision}\nLong Answer: {fields['long_answer']}"


def _lower_case(record: Record) -> Record:
    # The authors write QUESTION, CONTEXTS and LONG_ANSWER, and Hugging Face nests the contexts.
    return {key.lower(): value for key, value in record.items()}


def _question(record: Record) -> str:
    if not _is_text(record.get("question")):
        raise ValueError("has no text as `question`")
    return str(record["question"])


def _turns(asked: MedicalQuestion, answer: OptionAnswer) -> tuple[str, str]:
    prompt = worded(asked.question, asked.options, asked.context)
    letter, text = asked.answer, asked.options[asked.answer]
    return prompt, {"text": text, "letter": letter, "both": f"({letter}) {text}"}[answer]


def _contexts(fields: Record) -> list[str]:
    nested = fields.get("context")
    listed = nested.get("contexts") if isinstance(nested, dict) else fields.get("contexts")
    if not (isinstance(listed, list) and listed and all(map(_is_text, listed))):
        raise ValueError("has no `CONTEXTS`, a list of texts")
    return listed


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
