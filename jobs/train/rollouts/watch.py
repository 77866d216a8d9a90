"""Ends a training that has gone wrong: further rollouts would waste GPUs."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from launcher.errors import RunError
from launcher.recipe.sections.rollouts import RolloutLimits, RolloutSampling


class RolloutWatch(TrainerCallback):
    """Looks at the log of each step that began with a rollout; it is the same on all ranks.

    Counts start anew with an attempt.
    """

    def __init__(self, limits: RolloutLimits, algorithm: str, sampling: RolloutSampling) -> None:
        self._limits = limits
        self._algorithm = algorithm
        self._sampling = sampling
        self._negative = self._equal = self._empty = 0

    @override
    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Count rollouts in a row.

        Raises:
            RunError: there are too many of one kind.
        """
        logs: dict[str, float] = others["logs"]
        if "reward" not in logs:
            return
        limits, step = self._limits, state.global_step
        self._negative = self._negative + 1 if logs.get("kl", 0.0) < limits.least_kl else 0
        self._equal = self._equal + 1 if logs["equal_rewards"] == 1 else 0
        self._empty = self._empty + 1 if logs["empty"] > 0.5 else 0
        if self._negative >= limits.negative_kl:
            raise RunError(
                f"end.negative_kl: at step {step} the KL to the reference was {logs['kl']:.2f} nats a completion, and "
                f"below {limits.least_kl:g} in the last {self._negative} rollouts; a true KL is never negative: "
                f"{self._why_negative()}"
            )
        if self._equal >= limits.equal_rewards:
            of = "all completions" if self._algorithm == "ppo" else "all completions of each prompt"
            raise RunError(
                f"end.equal_rewards: at step {step} {of} had the same reward, as in the last {self._equal} rollouts "
                f"(mean {logs['reward']:.4g}), so nothing can be learned; choose other `rewards`, easier or harder "
                "questions, or a higher `generation.temperature`"
            )
        if self._empty >= limits.empty:
            raise RunError(
                f"end.empty: at step {step} {logs['empty']:.0%} of the completions were empty, and most in the last "
                f"{self._empty} rollouts: the policy has learned to say nothing; resume from an earlier checkpoint "
                "with a higher `algorithm.kl_weight` or a lower `optim.lr`, or reward a `length`"
            )

    def _why_negative(self) -> str:
        """Say what can make a KL negative with these settings, and what to write."""
        whole = {"top_p": 1.0, "top_k": 0, "min_new_tokens": 0 if self._algorithm != "ppo" else None}
        wrong = [
            f"`{key}: {value}`"
            for key, value in whole.items()
            if value is not None and getattr(self._sampling, key) != value
        ]
        if wrong:
            return (
                "completions are not sampled from the policy whose probabilities are compared; write "
                f"{' and '.join(wrong)} in `generation`"
            )
        return (
            "completions are sampled from the whole policy, so either rounding or chance makes it; write "
            "`precision.dtype: fp32`, or larger rollouts (`batch.global_batch`)"
        )
