"""Rewards of completions: functions by name, and the sum that is learned from."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from launcher.errors import LauncherError
from launcher.recipe.base import nearest_first
from launcher.recipe.sections.rewards import (
    AnswerLetterReward,
    FormatReward,
    LengthReward,
    PubMedQaReward,
    Reward,
    TokenReward,
)

if TYPE_CHECKING:
    from jobs.data.chat.formats import Message

# Not an article or a pronoun (`The answer is a beta blocker`, `Answer: I would say`), nor one of several (`A or B`).
_ALONE = r"(?![A-Za-z0-9'\u2019])(?!\.\w\.)(?!\W{0,4}(?:or|and)\W{0,4}[A-J](?![A-Za-z]))"
_CAPITAL = r"(?:[B-HJ]|[AI](?!\s+(?!because|since|as\b|due|for\b|and\b|or\b|is\b)[a-z]))" + _ALONE
_SMALL = r"[a-j]" + _ALONE + r"(?=\s*(?:[).:,;<*\]]|\Z|\n))"
_LETTER = re.compile(
    rf"(?<!\)\sor\s)(?<!\)\sand\s)\(([A-Ja-j])(?=\)){_ALONE}"
    rf"|(?i:\b(?:answer|option)\b(?:\s+is)?\s*:?\s*)\(?({_CAPITAL}|{_SMALL})"
    rf"|\A\W*((?:[A-HJa-hj]|[Ii](?!,)){_ALONE})(?=[).:,<]|\s*\Z)"
)
"""An option letter: `(B)`, `The answer is B`, or `B`, `B.` and `B)` at the start of a text."""
_DECISION = re.compile(r"\b(yes|no|maybe)\b", re.IGNORECASE)
_SHOWN = 5


@dataclass(frozen=True)
class Completion:
    """What the policy answered."""

    messages: "list[Message]"
    """The conversation up to the completion."""
    reference: str
    """The answer of the record."""
    text: str
    """The completion, without control tokens."""
    ids: list[int]
    """Its tokens, without the one that ends it."""


Scorer: TypeAlias = Callable[[Sequence[Completion]], list[float]]
"""Gives each completion a reward."""


@dataclass(frozen=True)
class NamedScorer:
    """A reward as the recipe has it."""

    label: str
    weight: float
    score: Scorer


class Rewards:
    """All rewards of a recipe."""

    def __init__(self, scorers: Sequence[NamedScorer]) -> None:
        self.scorers = tuple(scorers)
        self.labels = tuple(scorer.label for scorer in scorers)
        self.weights = tuple(scorer.weight for scorer in scorers)

    def score(self, completions: Sequence[Completion]) -> Tensor:
        """Return each reward of each completion, without weights, shape (completions, rewards)."""
        return torch.tensor([scorer.score(completions) for scorer in self.scorers], dtype=torch.float32).T

    def total(self, scores: Tensor) -> Tensor:
        """Return the weighted sums, shape (completions)."""
        return scores @ torch.tensor(self.weights, dtype=scores.dtype, device=scores.device)


def letter_of(text: str) -> str | None:
    """Return the first option letter that a text names; None if it names none."""
    found = _LETTER.search(text)
    return next(filter(None, found.groups())).upper() if found else None


def decision_of(text: str) -> str | None:
    """Return the first of PubMedQA's decisions in a text; None if there is none."""
    found = _DECISION.search(text)
    return found[1].lower() if found else None


def named_scorer(reward: Reward, place: int, tokenizer: PreTrainedTokenizerBase, references: Sequence[str]) -> Scorer:
    """Return the function of a reward that needs no model.

    Args:
        reward: The recipe's entry.
        place: Which entry it is, for messages.
        tokenizer: The policy's.
        references: The answers of all records.

    Raises:
        LauncherError: the token is none, or a record has no answer of the kind that is compared.
    """
    match reward:
        case TokenReward():
            return _token_share(_token_id(reward.token, tokenizer, f"rewards.{place}.token"))
        case FormatReward():
            pattern = re.compile(reward.pattern, re.DOTALL)
            return lambda completions: [float(bool(pattern.fullmatch(one.text))) for one in completions]
        case LengthReward():
            return lambda completions: [_length(len(one.ids), reward) for one in completions]
        case AnswerLetterReward():
            _require(letter_of, references, f"rewards.{place}", reward.type, "option letter")
            return _agreement(letter_of, reward.after)
        case PubMedQaReward():
            _require(decision_of, references, f"rewards.{place}", reward.type, "decision (yes, no or maybe)")
            return _agreement(decision_of, reward.after)
    raise AssertionError(f"{reward.type} needs a model")


def _require(read: Callable[[str], str | None], references: Sequence[str], key: str, reward: str, what: str) -> None:
    """Refuse records without an answer of the kind that is compared."""
    without = sum(read(reference) is None for reference in references)
    if without:
        raise LauncherError(
            f"{key}: {without:,} of {len(references):,} records have no {what} in their answer, with which `{reward}` "
            "compares completions; leave their source out, or write another reward"
        )


def _agreement(read: Callable[[str], str | None], after: str) -> Scorer:
    def score(completions: Sequence[Completion]) -> list[float]:
        ends = [one.text.rpartition(after) if after else ("", "", one.text) for one in completions]
        answers = [read(end) if found == after else None for _, found, end in ends]
        return [float(answer == read(one.reference)) for answer, one in zip(answers, completions, strict=True)]

    return score


def _token_share(token: int) -> Scorer:
    return lambda completions: [one.ids.count(token) / max(1, len(one.ids)) for one in completions]


def _length(tokens: int, reward: LengthReward) -> float:
    if tokens < reward.at_least:
        return tokens / reward.at_least
    return 1.0 if reward.at_most is None else min(1.0, reward.at_most / max(1, tokens))


def _token_id(token: str, tokenizer: PreTrainedTokenizerBase, key: str) -> int:
    vocabulary = tokenizer.get_vocab()
    if token in vocabulary:
        return int(vocabulary[token])
    ids: list[int] = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1:
        alike = nearest_first(token, [name for name in vocabulary if token[:2].strip() in name][:1000])
        shown = ", ".join(alike.split(", ")[:_SHOWN]) or "none like it"
        raise LauncherError(f"{key}: `{token}` is no token of the tokenizer, but {len(ids)}; it has {shown}")
    return ids[0]
