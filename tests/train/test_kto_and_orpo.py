"""KTO and ORPO on a fixed batch, against slow formulas in NumPy from their papers, and against TRL's ORPO."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.data.chat.render import Example
from jobs.data.preferences.samples import answer_collator, single_collator
from jobs.data.preferences.store import NOTHING
from jobs.train.orpo_trainer import log_odds_ratio
from tests.train.test_dpo_losses import (
    BETA,
    SIZES,
    Numbers,
    examples,
    language_model,
    sigmoid,
    slow_log_probs,
    softplus,
    trainer_by_recipe,
)

Answers = list[tuple[str, Example]]
WEIGHTS = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
LONG = 64
NOISE = (0.02, 0.0)
"""In the model and in its reference: the other way round z0 would be negative."""
SINGLE = {"sources": [{"name": "answers", "files": "answers.jsonl", "format": "unpaired"}]}


def batch_of(is_paired: bool) -> list[dict[str, Any]]:
    """The fixed batch, each sample with the one before it; unpaired: the first and the last answer are chosen."""
    made = examples()
    if not is_paired:
        for number, one in enumerate(made):
            one["rejected" if number % 2 == 0 else "chosen"] = NOTHING
    return [one | {"before": made[number - 1]} for number, one in enumerate(made)]


def answers_of(sample: dict[str, Any]) -> Answers:
    return [(side, sample[side]) for side in ("chosen", "rejected") if len(sample[side].ids)]


def question_of(sample: dict[str, Any]) -> list[int]:
    side = answers_of(sample)[0][1]
    return [int(token) for token, told in zip(side.ids, side.is_answer, strict=True) if not told]


def swapped(sample: dict[str, Any]) -> Iterator[Example]:
    """This sample's question with each answer of the one before."""
    for _, other in answers_of(sample["before"]):
        answer = [int(token) for token, told in zip(other.ids, other.is_answer, strict=True) if told]
        asked = question_of(sample)
        yield Example(np.array([*asked, *answer]), np.arange(len(asked) + len(answer)) >= len(asked))


def slow_kto(samples: list[dict[str, Any]]) -> tuple[float, float]:
    """Equations 7 and 8 of the paper: the loss, and z0."""
    model, reference = map(language_model, NOISE)

    def ratio(side: Example) -> float:
        return slow_log_probs(model, side) - slow_log_probs(reference, side)

    z0 = max(0.0, float(np.mean([ratio(side) for sample in samples for side in swapped(sample)])))
    losses = []
    for side, answer in (pair for sample in samples for pair in answers_of(sample)):
        gain = BETA * (ratio(answer) - z0) * (1 if side == "chosen" else -1)
        weight = WEIGHTS["desirable_weight" if side == "chosen" else "undesirable_weight"]
        losses.append(weight * (1 - float(sigmoid(np.array(gain)))))
    return float(np.mean(losses)), z0


@pytest.mark.parametrize("is_paired", [True, False])
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_kto_is_that_of_its_formula_whatever_the_micro_batch(tmp_path: Path, is_paired: bool, micro_batch: int) -> None:
    samples = batch_of(is_paired)
    settings = WEIGHTS | ({} if is_paired else {"data": SINGLE})
    trainer = trainer_by_recipe(tmp_path, NOISE, loss="kto", beta=BETA, **settings)
    collator = single_collator(0, LONG)
    batches = [collator(samples[start : start + micro_batch]) for start in range(0, len(samples), micro_batch)]

    read, _ = trainer.get_batch_samples(iter(batches), len(batches), torch.device("cpu"))
    losses = [float(trainer.compute_loss(trainer.model, one).item()) for one in read]

    expected, z0 = slow_kto(samples)
    assert float(trainer._kl) == pytest.approx(z0, rel=1e-4) and z0 > 0.1
    assert np.mean(losses) == pytest.approx(expected, rel=1e-4)


def test_a_negative_estimate_counts_as_no_kl(tmp_path: Path) -> None:
    trainer = trainer_by_recipe(tmp_path, loss="kto", beta=BETA)
    batch = single_collator(0, LONG)(batch_of(True))
    losses = []
    for estimate in (-3.0, 0.0, 3.0):
        trainer._kl = torch.tensor([estimate])
        losses.append(float(trainer.compute_loss(trainer.model, batch).item()))

    assert losses[0] == losses[1] != losses[2]


def test_a_question_with_an_answer_to_another_one_is_cut_to_its_length() -> None:
    batch = single_collator(0, 5)(batch_of(True))

    assert batch["mismatched_input_ids"].shape == (6, 5)
    assert batch["mismatched_completion_mask"].sum(1).tolist() == [1, 2, 4, 2, 0, 0]
    assert batch["label"].tolist() == [1, 1, 1, 0, 0, 0] and batch["record"].tolist() == [0, 1, 2] * 2
    assert "mismatched_input_ids" not in single_collator(0, 5)(examples())


def mean_log_probs() -> tuple[Numbers, Numbers]:
    model = language_model()
    found = [
        [slow_log_probs(model, one[side]) / size[place] for one, size in zip(examples(), SIZES, strict=True)]
        for side, place in (("chosen", 1), ("rejected", 2))
    ]
    return np.array(found[0]), np.array(found[1])


def test_orpo_is_that_of_its_formula(tmp_path: Path) -> None:
    """Equations 3 to 7 of the paper."""
    trainer = trainer_by_recipe(tmp_path, loss="orpo", beta=BETA)

    found = float(trainer.compute_loss(trainer.model, answer_collator(0)(examples())).item())

    chosen, rejected = mean_log_probs()
    odds = [np.exp(one) / (1 - np.exp(one)) for one in (chosen, rejected)]
    expected = -chosen + BETA * softplus(-np.log(odds[0] / odds[1]))
    assert found == pytest.approx(float(expected.mean()), rel=1e-4)
    [margin] = trainer._metrics["train"]["rewards/margins"]
    assert margin == pytest.approx(BETA * float((chosen - rejected).mean()), rel=1e-4)


def test_the_odds_ratio_is_trls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    chosen, rejected = (torch.from_numpy(one).float() for one in mean_log_probs())
    accelerator = type("Accelerator", (), {"device": torch.device("cpu")})
    trainer = type("Trainer", (), {"beta": BETA, "accelerator": accelerator})

    theirs, *_ = ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)

    ours = BETA * torch.nn.functional.logsigmoid(log_odds_ratio(chosen, rejected))
    torch.testing.assert_close(ours, theirs)


def test_the_odds_of_almost_certain_and_of_impossible_answers_have_a_gradient() -> None:
    chosen, rejected = (torch.tensor([-1e-7, -1e-4, -0.69, -40.0], requires_grad=True) for _ in range(2))

    log_odds_ratio(chosen, rejected.flip(0)).sum().backward()

    for side in (chosen, rejected):
        assert side.grad is not None
        expected = [1 / -math.expm1(p) for p in side.tolist()]
        assert side.grad.abs().tolist() == pytest.approx(expected, rel=1e-3)
