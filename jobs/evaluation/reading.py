"""Reading an answer from a text, by named rules. A rule is a pattern, what it finds, and which find counts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.evaluation.choice_question import LETTERS, ChoiceQuestion
from launcher.recipe.sections.generation_task import ReadingRule

_LISTED = (
    # `B, C.`, `B, C and D`, `B, C are`: another option; `B, E. coli`, `B, T cells`, `B, A patient`: not one
    r"[A-Z][*_`\"'\u201d\u2019)\]}$]{0,4}"
    r"(?:\s*(?:\Z|\n|[,\uff0c、/:\uff1a)\]]|[.。;\uff1b!\uff01?\uff1f](?!\s?[a-z])|和|或|及|与|都|均)"
    r"|\s+(?:and|or|are|were|both|because|since)\b)"
)
_ALONE = (
    r"(?![A-Za-z0-9'\u2019])"
    r"(?!\W{0,4}(?:or|and|或|和|及|与|、|/|&)\W{0,4}[A-Z](?![A-Za-z]))"  # `A or B`: undecided
    r"(?!\W{0,4}[,\uff0c]\W{0,4}" + _LISTED + ")"
)
_LETTER = (
    # `A patient`: an article; `I would say`: a pronoun
    r"(?P<found>[B-HJ-Z]|[AI](?!\s+(?!because|since|as\b|due|for\b|and\b|or\b)[a-z]))" + _ALONE
)
_OPENING = r"[\s:\uff1a*_`\"'“(\[{$]*(?:\\(?:text|mathrm|mathbf)\{)?"
_DECISIONS = "(?:yes|no|maybe)"
_DECISION = (
    rf"(?P<found>{_DECISIONS})(?![\w-])"
    rf"(?!\W{{0,4}}(?:or\b|/|\|)\W{{0,4}}{_DECISIONS}\b)"  # `yes or no`, `yes, no or maybe`: undecided
    rf"(?!\W{{0,4}},\W{{0,4}}{_DECISIONS}\W{{1,4}}(?:or\W{{1,4}})?{_DECISIONS}\b)"
)


@dataclass(frozen=True)
class _Rule:
    pattern: re.Pattern[str]
    finds: Literal["letter", "option", "text"]
    """A letter, the text of an option, or an answer as it stands."""
    counts: Literal["first", "last"]


RULES: dict[ReadingRule, _Rule] = {
    "answer_is": _Rule(
        re.compile(
            r"(?:(?i:\banswer\b[*_]*\s*(?:(?:is|would be|should be)\b|[:\uff1a]|\bchoice\b\s*(?:is\b|[:\uff1a])))"
            r"|(?:答案|选项|选择)\s*(?:应?(?:为|是|选)|[:\uff1a]))"
            + _OPENING
            + r"(?:(?i:option|choice)\s*)?[(*]*"
            + _LETTER
        ),
        "letter",
        "last",
    ),
    "boxed": _Rule(re.compile(r"\\boxed" + _OPENING + _LETTER), "letter", "last"),
    "leading_letter": _Rule(
        re.compile(
            r"\A[\s*_(\[]*(?:(?i:option)\s+)?(?P<found>[A-Z])" + _ALONE + r"(?:[)\]*_.。:\uff1a,\uff0c、]|\s*\Z|\s*\n)"
        ),
        "letter",
        "first",
    ),
    "last_letter": _Rule(re.compile(r"(?<![A-Za-z])" + _LETTER + r"(?=[).\]*:\uff1a]|\s*\Z|\s*\n)"), "letter", "last"),
    "final_decision": _Rule(re.compile(r"(?i:final decision\W{0,8}" + _DECISION + ")"), "option", "first"),
    "decision_is": _Rule(
        re.compile(r"(?i:\banswer\b[*_]*\s*(?:is\b|[:\uff1a])\W{0,6}" + _DECISION + ")"), "option", "last"
    ),
    "leading_decision": _Rule(re.compile(r"(?i:\A\W*" + _DECISION + ")"), "option", "first"),
    "after_answer": _Rule(
        re.compile(r"(?i:\banswer\b\s*(?:is\b|[:\uff1a]))[ \t*]*(?P<found>\S[^\n]*)"), "text", "last"
    ),
    "first_line": _Rule(re.compile(r"\A\s*(?P<found>\S[^\n]*)"), "text", "first"),
    "whole": _Rule(re.compile(r"\A\s*(?P<found>\S.*?)\s*\Z", re.DOTALL), "text", "first"),
}
"""All rules but `option_text`, which needs no pattern."""

_LONG_ANSWER = re.compile(r"(?i:long answer)[\s*_]*[:\uff1a][\s*_]*(?P<found>\S.*?)\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class ReadAnswer:
    """What was read from a text."""

    option: int | None
    """Number of an option; None if none was read, or questions have none."""
    text: str | None
    """The answer as a text; None if none was read."""
    rule: ReadingRule | None
    """By which it was read."""


def read_answer(text: str, question: ChoiceQuestion, rules: Sequence[ReadingRule]) -> ReadAnswer:
    """Read the answer to a question, by the first rule that finds one.

    Args:
        text: What the model wrote.
        question: Its options are all that is looked at, never which one is right.
        rules: In their order.
    """
    for rule in rules:
        if rule == "option_text":
            option = _only_option(text, question.options)
        else:
            found = _find(RULES[rule], text)
            if found and RULES[rule].finds == "text":
                return ReadAnswer(None, found, rule)
            option = _option(RULES[rule], found, question.options)
        if option is not None:
            return ReadAnswer(option, question.options[option], rule)
    return ReadAnswer(None, None, None)


def long_answer(text: str) -> str | None:
    """Return what is written after `Long Answer:`; None if that is not there."""
    found = _LONG_ANSWER.search(text)
    return found["found"] if found else None


def _find(rule: _Rule, text: str) -> str | None:
    found = [match["found"] for match in rule.pattern.finditer(text)]
    return None if not found else found[0] if rule.counts == "first" else found[-1]


def _option(rule: _Rule, found: str | None, options: Sequence[str]) -> int | None:
    if found is None:
        return None
    if rule.finds == "letter":
        number = LETTERS.find(found)
        return number if number in range(len(options)) else None
    return next((number for number, text in enumerate(options) if text.casefold() == found.casefold()), None)


def _only_option(text: str, options: Sequence[str]) -> int | None:
    """Return the only option whose text stands in a text, as whole words and not as a part of another option's."""
    said = _words(text)
    there = [number for number, option in enumerate(options) if f" {_words(option)} " in f" {said} "]
    whole = [
        number
        for number in there
        if not any(
            other != number and f" {_words(options[number])} " in f" {_words(options[other])} " for other in there
        )
    ]
    return whole[0] if len(whole) == 1 else None


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
