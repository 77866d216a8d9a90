"""Rewards by name, and their sum."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from jobs.train.rollouts.rewards import Completion, NamedScorer, Rewards, decision_of, letter_of, named_scorer
from launcher.errors import LauncherError
from launcher.recipe.sections.rewards import Reward
from tests.support.chat_examples import tokenizer_of

_adapter: TypeAdapter[Reward] = TypeAdapter(Reward)


def completion(text: str, reference: str = "", ids: Sequence[int] = ()) -> Completion:
    return Completion([{"role": "user", "content": "?"}], reference, text, [*ids])


def score(section: dict[str, Any], *completions: Completion, references: Sequence[str] = ()) -> list[float]:
    scorer = named_scorer(_adapter.validate_python(section), 0, tokenizer_of("stories"), references)
    return scorer(completions)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("b) because", "B"),
        ("(C) aspirin", "C"),
        ("The answer is D.", "D"),
        ("Answer: A", "A"),
        ("B</answer>", "B"),
        ("A patient with fever (B)", "B"),
        ("A patient with fever", None),
        ("b", "B"),
        ("The answer is (c).", "C"),
        ("the answer is b", "B"),
        ("Answer: d, since it lowers the pressure", "D"),
        ("The answer is a.", "A"),
        ("answer: A because it is", "A"),
        ("Option A is right", "A"),
        ("The answer is I.", "I"),
        ("The answer is a beta blocker, (C)", "C"),
        ("The answer is a beta blocker", None),
        ("The answer is A patient-centred plan (B)", "B"),
        ("Answer: I would choose (B)", "B"),
        ("Answer: I'd choose (B)", "B"),
        ("I, for one, would choose (B)", "B"),
        ("Answer: b cells (D)", "D"),
        ("Answer: e.g. aspirin (B)", "B"),
        ("Option a would be aspirin, but the answer is C", "C"),
        ("The answer is A or B", None),
        ("The answer is (A) or (B).", None),
        ("(A) is wrong and (C) is right", "A"),
        ("I do not know", None),
        ("", None),
    ],
)
def test_the_first_option_letter_is_read(text: str, letter: str | None) -> None:
    assert letter_of(text) == letter


@pytest.mark.parametrize(
    ("text", "decision"),
    [("Yes, it does", "yes"), ("Final Decision: maybe\nLong Answer: no", "maybe"), ("nobody knows", None), ("", None)],
)
def test_the_first_decision_is_read(text: str, decision: str | None) -> None:
    assert decision_of(text) == decision


def test_right_letters_and_decisions_are_rewarded() -> None:
    letters = [completion("(B) heparin", "(B) heparin"), completion("(A)", "B"), completion("none", "B")]
    decisions = [completion("no", "no"), completion("yes", "no")]

    assert score({"type": "answer_letter"}, *letters, references=["B"]) == [1, 0, 0]
    assert score({"type": "pubmedqa_decision"}, *decisions, references=["no"]) == [1, 0]


def test_thoughts_before_the_answer_do_not_count() -> None:
    texts = ["<think>(A)? No.</think><answer>B</answer>", "(B)", "<answer>A</answer>", "<answer>A<answer>B"]

    rewards = score({"type": "answer_letter", "after": "<answer>"}, *[completion(text, "B") for text in texts])

    assert rewards == [1, 0, 0, 1]


@pytest.mark.parametrize("kind", ["answer_letter", "pubmedqa_decision"])
def test_records_without_such_an_answer_are_refused(kind: str) -> None:
    with pytest.raises(LauncherError, match=r"rewards\.0: 1 of 3 records have no .* in their answer"):
        score({"type": kind}, references=["(B) yes", "(A) no", "heparin"])


def test_a_form_is_rewarded_if_the_whole_completion_has_it() -> None:
    section = {"type": "format", "pattern": "<think>.+</think>.+"}
    completions = [completion(text) for text in ("<think>a\nb</think> B", "so <think>a</think> B", "B")]

    assert score(section, *completions) == [1, 0, 0]


@pytest.mark.parametrize(("tokens", "reward"), [(0, 0), (2, 0.5), (4, 1), (8, 1), (16, 0.5)])
def test_a_length_is_rewarded_less_the_further_it_is_off(tokens: int, reward: float) -> None:
    section = {"type": "length", "at_least": 4, "at_most": 8}

    assert score(section, completion("", ids=[7] * tokens)) == [reward]


def test_a_token_is_rewarded_by_its_share() -> None:
    token = tokenizer_of("stories").convert_tokens_to_ids("▁the")
    mixed = completion("", ids=[token, 3, token, 3])

    assert score({"type": "token", "token": "▁the"}, mixed, completion("")) == [0.5, 0]


def test_what_is_no_token_is_refused_with_tokens_like_it() -> None:
    with pytest.raises(LauncherError, match=r"rewards\.0\.token: `▁theory` is no token .* `▁the"):
        score({"type": "token", "token": "▁theory"})


def test_rewards_are_weighted_and_added_and_known_apart() -> None:
    rewards = Rewards(
        [
            NamedScorer("long", 2.0, lambda some: [float(len(one.ids)) for one in some]),
            NamedScorer("wrong", -0.5, lambda some: [1.0 for _ in some]),
        ]
    )

    scores = rewards.score([completion("", ids=[1]), completion("", ids=[1, 2, 3])])

    assert rewards.labels == ("long", "wrong")
    assert torch.equal(scores, torch.tensor([[1.0, 1.0], [3.0, 1.0]]))
    assert rewards.total(scores).tolist() == [1.5, 5.5]
