"""Losses of `dpo` and `reward` on a fixed batch, against slow formulas in NumPy from the papers."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl.trainer.reward_config import RewardConfig

from jobs.data.chat.render import Example
from jobs.data.preferences.samples import answer_collator, reward_collator
from jobs.models.adapters.build import adapted
from jobs.models.parallel import lay_out
from jobs.rank.process_group import RankGroup
from jobs.rank.ranks import Ranks
from jobs.train.checkpoint import CheckpointStore
from jobs.train.checkpoint_saver import CheckpointSaver
from jobs.train.pair_losses import arguments_of, trainer_of
from jobs.train.pair_trainer import give_fused_head
from jobs.train.precomputed import PrecomputedLogProbs
from jobs.train.reference import answer_log_probs
from jobs.train.reward_trainer import GuardedRewardTrainer
from launcher.recipe import DpoRecipe
from launcher.recipe.kinds.dpo import PairLoss
from launcher.recipe.sections.common import Parallel
from launcher.run.paths import RunDir
from tests.models.test_adapters import adapter
from tests.support.preference_runs import preference_recipe
from tests.support.training_runs import ASSETS

Numbers = NDArray[np.float64]
ALONE = RankGroup(0, 1, True, torch.device("cpu"), None)
BETA, SMOOTHING, TAU = 0.3, 0.1, 0.05
SIZES = [(3, 4, 2), (1, 2, 6), (5, 1, 3)]
"""Tokens of the question, of the chosen and of the rejected answer, of each pair."""


def examples() -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    made = []
    for place, (asked, good, bad) in enumerate(SIZES):
        prompt, *answers = (draw.integers(3, 500, size) for size in (asked, good, bad))
        sides = [Example(np.concatenate((prompt, one)), np.arange(asked + len(one)) >= asked) for one in answers]
        made.append({"chosen": sides[0], "rejected": sides[1], "margin": place / 2, "place": place})
    return made


def language_model(noise: float = 0.0) -> Any:
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k", dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def slow_log_probs(model: Any, side: Example) -> float:
    """The sum of the log-probabilities of an answer's tokens, one token at a time, in float64."""
    with torch.no_grad():
        logits = model(torch.from_numpy(side.ids.astype(np.int64))[None]).logits[0].double().numpy()
    total = 0.0
    for place in np.flatnonzero(side.is_answer):
        row = logits[place - 1]
        total += row[side.ids[place]] - (row.max() + math.log(np.exp(row - row.max()).sum()))
    return total


def log_ratios(noise: float) -> tuple[Numbers, Numbers]:
    """Log-ratios of model and reference: of the chosen answers, and of the rejected ones."""
    model, reference = language_model(), language_model(noise)
    found = [
        [slow_log_probs(model, one[side]) - slow_log_probs(reference, one[side]) for one in examples()]
        for side in ("chosen", "rejected")
    ]
    return np.array(found[0]), np.array(found[1])


def sigmoid(x: Numbers) -> Numbers:
    return 1 / (1 + np.exp(-x))


def softplus(x: Numbers) -> Numbers:
    """-log sigmoid(-x)."""
    return np.logaddexp(0, x)


def means(chosen: Numbers, rejected: Numbers) -> Numbers:
    good, bad = (np.array([size[side] for size in SIZES]) for side in (1, 2))
    return chosen / good - rejected / bad


def exo(c: Numbers, r: Numbers) -> Numbers:
    p, q = sigmoid(BETA * (c - r)), sigmoid(BETA * (r - c))
    return p * (np.log(p) - math.log(1 - SMOOTHING)) + q * (np.log(q) - math.log(SMOOTHING))


def discopop(c: Numbers, r: Numbers) -> Numbers:
    x = BETA * (c - r)
    return softplus(-x) * (1 - sigmoid(x / TAU)) + np.exp(-x) * sigmoid(x / TAU)


FORMULAS: dict[str, Callable[[Numbers, Numbers], Numbers]] = {
    "sigmoid": lambda c, r: softplus(-BETA * (c - r)),
    "hinge": lambda c, r: np.maximum(0, 1 - BETA * (c - r)),
    "ipo": lambda c, r: (means(c, r) - 1 / (2 * BETA)) ** 2,
    "robust": lambda c, r: (
        ((1 - SMOOTHING) * softplus(-BETA * (c - r)) - SMOOTHING * softplus(BETA * (c - r))) / (1 - 2 * SMOOTHING)
    ),
    "exo_pair": exo,
    "nca_pair": lambda c, r: softplus(-BETA * c) + 0.5 * softplus(BETA * c) + 0.5 * softplus(BETA * r),
    "bco_pair": lambda c, r: softplus(-BETA * c) + softplus(BETA * r),
    "sppo_hard": lambda c, r: (c - 0.5 / BETA) ** 2 + (r + 0.5 / BETA) ** 2,
    "apo_zero": lambda c, r: 1 - sigmoid(BETA * c) + sigmoid(BETA * r),
    "apo_down": lambda c, r: sigmoid(BETA * c) + 1 - sigmoid(BETA * (c - r)),
    "discopop": discopop,
    "sigmoid_norm": lambda c, r: softplus(-BETA * means(c, r)),
}


def make_trainer(trainer: type, arguments: Any, model: Any, folder: Path, **options: Any) -> Any:
    layout = lay_out(Parallel(strategy="ddp"), Ranks(0, 1, 0, 1, 0), torch.device("cpu"))
    saver = CheckpointSaver(CheckpointStore(RunDir(folder), ALONE, 1, []), in_background=False)
    return trainer(saver, layout, lambda _: 1.0, model=model, args=arguments, train_dataset=examples(), **options)


@pytest.fixture(scope="module")
def ratios() -> tuple[Numbers, Numbers]:
    return log_ratios(noise=0.02)


def trainer_by_recipe(folder: Path, noise: tuple[float, float] = (0.0, 0.02), **changes: Any) -> Any:
    """A trainer before its first step, as a recipe's settings reach it; `noise` is in its model and its reference."""
    trainer = trainer_of_model(folder, language_model(noise[0]), lambda: language_model(noise[1]), **changes)
    trainer._reference = trainer._frozen
    return trainer


def trainer_of_model(folder: Path, model: Any, build_reference: Callable[[], Any] | None, **changes: Any) -> Any:
    recipe = DpoRecipe.model_validate(preference_recipe("dpo", **changes), strict=False)
    own = {"use_cpu": True, "bf16": False, "activation_checkpointing": False, "report_to": "none"}
    arguments_class, arguments = arguments_of(recipe)
    options = {"group": ALONE, "build_reference": build_reference, "sync": None, "precomputed": None}
    made: Any = arguments_class
    config = made(output_dir=str(folder), **own, **arguments)
    return make_trainer(trainer_of(recipe), config, model, folder, **options)


def loss_by_recipe(folder: Path, **changes: Any) -> float:
    """The loss of the fixed batch, as a recipe's settings reach it."""
    trainer = trainer_by_recipe(folder, **changes)
    return float(trainer.compute_loss(trainer.model, answer_collator(0)(examples())).item())


@pytest.mark.parametrize("loss", get_args(PairLoss))
def test_a_loss_is_that_of_its_formula(tmp_path: Path, ratios: tuple[Numbers, Numbers], loss: str) -> None:
    smoothing = {"label_smoothing": SMOOTHING} if loss in ("robust", "exo_pair") else {}

    found = loss_by_recipe(tmp_path, loss=loss, beta=BETA, **smoothing)

    assert found == pytest.approx(float(FORMULAS[loss](*ratios).mean()), rel=1e-4)


def test_beta_reaches_the_loss(tmp_path: Path, ratios: tuple[Numbers, Numbers]) -> None:
    """MedicalGPT's published code has an option for it that it never passes on."""
    chosen, rejected = ratios
    expected = [float(softplus(-beta * (chosen - rejected)).mean()) for beta in (0.05, 0.5)]

    found = [loss_by_recipe(tmp_path, beta=beta) for beta in (0.05, 0.5)]

    assert found == pytest.approx(expected, rel=1e-4)
    assert abs(found[0] - found[1]) > 0.01


@pytest.mark.parametrize(
    "section", [{"method": "lora", "init": "pissa"}, {"method": "prefix"}, {"method": "prompt"}], ids=str
)
def test_what_is_computed_beforehand_is_of_the_model_before_training(tmp_path: Path, section: dict[str, Any]) -> None:
    """Also where the adapter has changed its weights, or has put a random prompt before the text."""
    batch = answer_collator(0)(examples())
    expected = answer_log_probs(with_head(language_model()).eval(), batch)
    model = adapted(language_model(), adapter(**section), 0, "CAUSAL_LM", 10)
    trainer = trainer_of_model(tmp_path, model, None, adapter=section, reference={"precompute": True})
    kept = PrecomputedLogProbs(tmp_path / "reference", examples(), answer_collator(0), 2, ALONE)

    trainer._precompute(kept, has_begun=False)

    torch.testing.assert_close(trainer._reference.log_probs(batch), expected, atol=1e-3, rtol=0)


def with_head(model: Any) -> Any:
    give_fused_head(model, ("log_probs",))
    return model


def test_nothing_is_reported_to_trls_authors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **said: reported.append(said))

    loss_by_recipe(tmp_path)

    assert not reported


@pytest.mark.parametrize(("with_margin", "center"), [(False, None), (True, None), (True, 0.3)])
def test_the_loss_of_rewards_is_that_of_its_formula(tmp_path: Path, with_margin: bool, center: float | None) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        ASSETS / "stories260k", num_labels=1, pad_token_id=0, dtype=torch.float32
    )
    own = {"use_cpu": True, "bf16": False, "activation_checkpointing": False, "report_to": "none"}
    arguments = RewardConfig(output_dir=str(tmp_path), center_rewards_coefficient=center, **own)
    trainer = make_trainer(GuardedRewardTrainer, arguments, model, tmp_path)
    with torch.no_grad():
        rewards = [
            [float(model(torch.from_numpy(one[side].ids.astype(np.int64))[None]).logits) for one in examples()]
            for side in ("chosen", "rejected")
        ]
    chosen, rejected = map(np.array, rewards)
    margins = np.array([one["margin"] for one in examples()]) if with_margin else np.zeros(len(SIZES))

    found = trainer.compute_loss(trainer.model, reward_collator(0, with_margin)(examples()))

    expected = softplus(-(chosen - rejected - margins)).mean() + (center or 0.0) * ((chosen + rejected) ** 2).mean()
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)
