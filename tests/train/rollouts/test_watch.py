"""A training that has gone wrong ends with a reason; one that has not goes on."""

from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from jobs.train.rollouts.watch import RolloutWatch
from launcher.errors import RunError
from launcher.recipe.sections.rollouts import RolloutLimits, RolloutSampling

GOOD = {"loss": 0.1, "reward": 0.5, "kl": 0.2, "equal_rewards": 0.25, "empty": 0.0}


WHOLE = RolloutSampling()


def watch(*logs: dict[str, float], algorithm: str = "ppo", sampling: RolloutSampling = WHOLE, **limits: Any) -> None:
    callback = RolloutWatch(RolloutLimits(**limits), algorithm, sampling)
    for step, log in enumerate(logs, 1):
        arguments: Any = None
        callback.on_log(arguments, TrainerState(global_step=step), TrainerControl(), logs=GOOD | log)


def test_a_kl_that_stays_negative_ends_the_training() -> None:
    bad = {"kl": -1.5}
    with pytest.raises(
        RunError, match=r"end\.negative_kl: at step 3 the KL .* -1\.50 nats .* `precision\.dtype: fp32`"
    ):
        watch(bad, bad, bad, negative_kl=3)

    watch(bad, bad, {}, bad, bad, negative_kl=3)
    watch(*[{"kl": -0.9}] * 5, negative_kl=3)


def test_settings_that_make_a_kl_negative_are_named() -> None:
    cut = RolloutSampling(top_p=0.9, min_new_tokens=4)
    for algorithm, said in (
        ("rloo", "write `top_p: 1.0` and `min_new_tokens: 0` in"),
        ("ppo", "write `top_p: 1.0` in"),
    ):
        with pytest.raises(RunError, match=said):
            watch({"kl": -1.5}, negative_kl=1, algorithm=algorithm, sampling=cut)


def test_rewards_that_are_all_equal_end_the_training() -> None:
    bad = {"equal_rewards": 1.0, "reward": 0.0}
    with pytest.raises(RunError, match=r"end\.equal_rewards: at step 2 all completions had the same reward"):
        watch(bad, bad, equal_rewards=2)
    with pytest.raises(RunError, match="all completions of each prompt had the same reward"):
        watch(bad, bad, equal_rewards=2, algorithm="rloo")

    watch(bad, {"equal_rewards": 0.99}, bad, equal_rewards=2)


def test_a_policy_that_says_nothing_ends_the_training() -> None:
    with pytest.raises(RunError, match=r"end\.empty: at step 2 75% of the completions were empty"):
        watch({"empty": 1.0}, {"empty": 0.75}, empty=2)

    watch({"empty": 1.0}, {"empty": 0.5}, {"empty": 1.0}, empty=2)


def test_steps_that_sampled_nothing_do_not_count() -> None:
    callback = RolloutWatch(RolloutLimits(empty=2), "rloo", WHOLE)
    arguments: Any = None
    for log in ({**GOOD, "empty": 1.0}, {"loss": 0.1}, {"loss": 0.1}):
        callback.on_log(arguments, TrainerState(global_step=1), TrainerControl(), logs=log)
    with pytest.raises(RunError, match=r"end\.empty"):
        callback.on_log(arguments, TrainerState(global_step=1), TrainerControl(), logs={**GOOD, "empty": 1.0})


def test_an_algorithm_without_a_reference_has_no_kl() -> None:
    callback = RolloutWatch(RolloutLimits(negative_kl=1), "grpo", WHOLE)
    arguments: Any = None
    callback.on_log(arguments, TrainerState(), TrainerControl(), logs={k: v for k, v in GOOD.items() if k != "kl"})
