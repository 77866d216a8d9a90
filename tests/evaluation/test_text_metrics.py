"""Scores of texts: equal to the programs that define them."""

import random
import re
import string
from collections import Counter

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score

from jobs.evaluation.text_metrics import best, exact_match, macro_f1, macro_f1_interval, rouge_l, token_f1
from tests.support.prepare_runs import abstracts


def pairs():
    """Sentences of abstracts against others, and against altered copies of themselves."""
    draws = random.Random(0)
    sentences = [one for text in abstracts()[:60] for one in text.split(". ") if one]
    for number, one in enumerate(sentences[:150]):
        words = one.split()
        draws.shuffle(words)
        yield one, " ".join(words[: 1 + number % 9])
        yield one, sentences[-1 - number]


def squad_f1(prediction, truth):
    """As in the official evaluate-v1.1.py of SQuAD, line by line."""

    def normalized(text):
        text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    found, wanted = normalized(prediction).split(), normalized(truth).split()
    same = sum((Counter(found) & Counter(wanted)).values())
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(found), 1.0 * same / len(wanted)
    return (2 * precision * recall) / (precision + recall)


def test_rouge_l_is_that_of_rouge_score():
    scorer = RougeScorer(["rougeL"], use_stemmer=False)

    for text, reference in pairs():
        assert rouge_l(text, reference) == pytest.approx(scorer.score(reference, text)["rougeL"].fmeasure, abs=1e-12)


def test_token_f1_is_squads():
    found = [token_f1(text, reference) for text, reference in pairs()]

    assert found == pytest.approx([squad_f1(*pair) for pair in pairs()], abs=1e-12)
    assert 0 < np.mean(found) < 1


def test_exact_match_forgives_case_articles_and_punctuation():
    assert exact_match("The aspirin!", "aspirin") == 1
    assert exact_match("aspirin 100", "aspirin") == 0
    assert best(token_f1, "aspirin", ["ibuprofen", "aspirin 100"]) == pytest.approx(2 / 3)


def test_texts_without_words_score_nothing():
    for score in (token_f1, rouge_l):
        assert score("", "aspirin") == score("...", "aspirin") == score("药", "aspirin") == 0


def test_macro_f1_is_scikit_learns_and_an_unread_answer_is_of_no_class():
    draws = random.Random(1)
    answers = [draws.choice((0, 0, 0, 1, 1, 2)) for _ in range(200)]
    predicted = [draws.choice((answer, 0, 1, None)) for answer in answers]

    found = macro_f1(predicted, answers, 3)

    as_classes = [3 if one is None else one for one in predicted]
    assert found == pytest.approx(f1_score(answers, as_classes, labels=[0, 1, 2], average="macro", zero_division=0))
    low, high = macro_f1_interval(predicted, answers, 3, [str(number) for number in range(200)])
    assert low < found < high
    spread = np.std(
        [
            f1_score([answers[i] for i in drawn], [as_classes[i] for i in drawn], labels=[0, 1, 2], average="macro")
            for drawn in np.random.default_rng(3).integers(200, size=(60, 200))
        ]
    )
    assert (high - low) / (2 * 1.96) == pytest.approx(spread, rel=0.3)


def test_items_of_one_group_are_drawn_together():
    answers, predicted = [0, 1] * 50, [0, 1] * 25 + [1, 0] * 25
    alone = macro_f1_interval(predicted, answers, 2, [str(number) for number in range(100)])

    together = macro_f1_interval(predicted, answers, 2, [("group", number // 10) for number in range(100)])

    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])
