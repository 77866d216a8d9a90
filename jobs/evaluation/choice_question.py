"""A question as all formats are read."""

from dataclasses import dataclass
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with options."""

    id: str
    question: str
    options: tuple[str, ...]
    answer: int
    """Number of the right option, from 0."""
    context: str = ""
    group: str = ""
    """Questions of one group (an abstract, a passage) are not independent; empty: on its own."""
    subject: str = ""
    """Few-shot examples have the same one; of `cblue`: the data set."""
    references: tuple[str, ...] = ()
    """Texts that answer it: of sets without options, and PubMedQA's long answer."""
    labels: tuple[str, ...] = ()
    """Of `cblue`: names of classes or types that an answer is made of."""


def checked(name: str, question: Any, options: Any, answer: Any, **texts: str) -> ChoiceQuestion:
    """Return a question with options.

    Args:
        name: Its id.
        question: Of a record, whatever that is.
        options: Texts.
        answer: A letter, or a number from 0.
        **texts: `context`, `group` and `subject`, if there are any.

    Raises:
        ValueError: it has no text, no options, or its answer is none of them; the message does not quote it.
    """
    if not isinstance(question, str) or not question.strip():
        raise ValueError("has no text as `question`")
    if not isinstance(options, list) or not all(isinstance(one, str) and one.strip() for one in options):
        raise ValueError("its options are not a list of texts")
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"has {len(options)} options; 2 to {len(LETTERS)} can be told apart")
    number = LETTERS.find(answer.strip()) if isinstance(answer, str) and len(answer.strip()) == 1 else answer
    if not isinstance(number, int) or isinstance(number, bool) or number not in range(len(options)):
        raise ValueError(f"its `answer` names none of its {len(options)} options")
    context, group, subject = (texts.get(field, "") for field in ("context", "group", "subject"))
    return ChoiceQuestion(name, question, tuple(options), number, context, group, subject)
