"""What algorithms of reinforcement learning learn from rewards, from three seeds, within a stated number of steps."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from launcher.run.paths import FINISHED, RunDir
from tests.support.preference_runs import SUBJECTS
from tests.support.rl_runs import make_rl, told
from tests.support.training_runs import cpt_recipe, make_run_of, train

pytestmark = pytest.mark.long

RLOO = {"name": "rloo", "generations": 4, "kl_weight": 0.001}
GRPO = {"name": "grpo", "generations": 4}
PPO = {"name": "ppo", "iterations": 2, "kl_weight": 0.0, "kl_control": "fixed", "whiten": False}
"""Where nearly all rewards are the same, whitening makes large advantages of what the value head is wrong by."""
BATCH = {"global_batch": "32 sequences", "micro_batch": 32}
RATE = 5e-4
"""With 1e-3 a policy says from some seeds the same letter to every question after few steps, and learns no more."""
STEPS = {"rloo": 60, "grpo": 60, "ppo": 100}
"""Within which a rule with two answers is learned. Chance is half of them."""
RECORDS = {"name": "rule", "files": "rule.jsonl", "format": "alpaca"}


def questions(seed: int, is_known: bool) -> list[dict[str, str]]:
    """Questions with two answers. The rule: A for happy ones, B for sad ones; where it is not known, by chance."""
    draw, found = random.Random(seed), []
    for number in range(240):
        feeling = draw.choice(("happy", "sad"))
        letter = "AB"[feeling == "sad"] if is_known else draw.choice("AB")
        text = f"{number}: a {feeling} {draw.choice(SUBJECTS)}. A or B?"
        found.append({"instruction": text, "input": "", "output": letter})
    return found


def write(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def undecided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was taught to answer these questions by A or B, with no regard to the question."""
    folder = tmp_path_factory.mktemp("undecided")
    write(folder / "rule.jsonl", questions(1, is_known=False))
    recipe = cpt_recipe(
        kind="sft",
        batch={"global_batch": "16 sequences", "micro_batch": 16, "sequence_length": 64},
        schedule={"length": "60 steps", "warmup": "2 steps"},
        optim={"lr": 3e-3},
        checkpoint={"interval": "100 steps"},
    ) | {"data": {"sources": [RECORDS], "chat_template": "plain", "packing": "pad"}}
    run = make_run_of(recipe, folder)
    attempt = train(run)
    assert attempt.exit_codes == [FINISHED], attempt.log()
    return run.outputs / "model"


def rewards(run: RunDir) -> list[float]:
    return [reward for (reward,) in told(run, "reward").values() if reward is not None]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("algorithm", [RLOO, GRPO, PPO], ids=lambda one: one["name"])
def test_a_rule_with_two_answers_is_learned(
    undecided: Path, tmp_path: Path, algorithm: dict[str, Any], seed: int
) -> None:
    write(tmp_path / "rule.jsonl", questions(2, is_known=True))
    (tmp_path / "undecided").symlink_to(undecided)
    run = make_rl(
        tmp_path,
        algorithm,
        model={"path": "./undecided"},
        data={"sources": [RECORDS], "validation": 0.25},
        batch=BATCH | {"sequence_length": 64},
        generation={"max_new_tokens": 2},
        rewards=[{"type": "answer_letter"}],
        optim={"lr": RATE},
        schedule={"length": f"{STEPS[algorithm['name']]} steps", "shape": "constant"},
        evaluation={"interval": "1000 steps"},
        seed=seed,
    )

    attempt = train(run)

    assert attempt.exit_codes == [FINISHED], attempt.log()
    before, after = (json.loads(line)["reward"] for line in run.evaluations.read_text().splitlines())
    assert 0.3 < before < 0.7, "chance"
    assert after >= 0.9, rewards(run)
