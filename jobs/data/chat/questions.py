"""Medical questions with answers to choose from, worded as BioMed-LLaMA worded them for its fine-tuning.

`### Context: ...` if there is one, `### Question: ...`, `### Options: (A) ... (B) ...` if there are any, `### Answer:`.
With `chat_template: plain` the text is to the letter that of github.com/Coldog2333/BioMed-LLaMA, commit 7a5876a.
"""

from collections.abc import Mapping
from typing import Any

from jobs.data.chat.records import Record
from launcher.recipe.chat import MedMcqaSource, MedQaSource, OptionAnswer, PubMedQaSource

_DECISIONS = ("yes", "no", "maybe")


def medqa_turns(record: Record, source: MedQaSource) -> tuple[str, str]:
    """Return question and answer of a MedQA record.

    Raises:
        ValueError: it is none, or its parts contradict each other.
    """
    options = record.get("options")
    if not isinstance(options, dict) or len(options) < 2 or not all(_is_text(text) for text in options.values()):
        raise ValueError("its `options` are not texts by letter")
    letters = [letter for letter, text in options.items() if text == record.get("answer", text)]
    letters = [letter for letter in letters if letter == record.get("answer_idx", letter)]
    if len(letters) != 1:
        raise ValueError("its `answer` and `answer_idx` do not name one of its `options`")
    return _worded(record, options), _chosen(letters[0], options, source.answer)


def medmcqa_turns(record: Record, source: MedMcqaSource) -> tuple[str, str]:
    """Return question and answer of a MedMCQA record.

    Raises:
        ValueError: it is none, or `cop` names no option.
    """
    options = {}
    for letter in "ABCD":
        key = f"op{letter.lower()}"
        if not _is_text(record.get(key)):
            raise ValueError(f"has no text as `{key}`")
        options[letter] = str(record[key])
    cop = record.get("cop")
    if not isinstance(cop, int) or isinstance(cop, bool) or cop - source.cop_base not in range(4):
        raise ValueError(f"its `cop` is not one of {source.cop_base} to {source.cop_base + 3}")
    return _worded(record, options), _chosen("ABCD"[cop - source.cop_base], options, source.answer)


def pubmedqa_turns(record: Record, source: PubMedQaSource) -> tuple[str, str]:
    """Return question and answer of a PubMedQA record, the authors' or Hugging Face's.

    Raises:
        ValueError: it is none.
    """
    # The authors write QUESTION, CONTEXTS and LONG_ANSWER, and Hugging Face nests the contexts.
    fields = {key.lower(): value for key, value in record.items()}
    decision = fields.get("final_decision")
    if decision not in _DECISIONS:
        raise ValueError(f"its `final_decision` is not one of {', '.join(_DECISIONS)}")
    context = "\n".join(_contexts(fields)) if source.context else ""
    question = _worded(fields, dict(zip("ABC", _DECISIONS, strict=True)), context)
    if source.answer == "decision":
        return question, str(decision)
    if not _is_text(fields.get("long_answer")):
        raise ValueError("has no text as `LONG_ANSWER`")
    return question, f"Final Decision: {decision}\nLong Answer: {fields['long_answer']}"


def _contexts(fields: Record) -> list[str]:
    nested = fields.get("context")
    listed = nested.get("contexts") if isinstance(nested, dict) else fields.get("contexts")
    if not (isinstance(listed, list) and listed and all(map(_is_text, listed))):
        raise ValueError("has no `CONTEXTS`, a list of texts")
    return listed


def _worded(record: Record, options: Mapping[str, str], context: str = "") -> str:
    if not _is_text(record.get("question")):
        raise ValueError("has no text as `question`")
    listed = " ".join(f"({letter}) {text}" for letter, text in options.items())
    parts = {"Context": context, "Question": record["question"], "Options": listed}
    return "".join(f"### {name}: {text}\n" for name, text in parts.items() if text) + "### Answer:"


def _chosen(letter: str, options: Mapping[str, str], answer: OptionAnswer) -> str:
    return {"text": options[letter], "letter": letter, "both": f"({letter}) {options[letter]}"}[answer]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
