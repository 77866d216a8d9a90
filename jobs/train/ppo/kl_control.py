"""The weight of the KL penalty: fixed, or steered towards a target.

Ziegler et al. 2019, section 2.2 (https://arxiv.org/abs/1909.08593): a proportional controller in the logarithm of the
weight, whose error is clipped to 20 %.
"""

from launcher.recipe.sections.rl_algorithms import Ppo

_MAX_ERROR = 0.2


class KlControl:
    """Holds the weight of the KL penalty, and adjusts it after each rollout."""

    def __init__(self, settings: Ppo) -> None:
        self._settings = settings
        self.weight = settings.kl_weight
        """Factor of the penalty in the next rollout; part of a checkpoint."""

    def update(self, kl: float, completions: int) -> None:
        """Take a rollout into account.

        Args:
            kl: Its mean KL to the reference, in nats a completion.
            completions: How many it had, over all ranks.
        """
        if self._settings.kl_control == "fixed":
            return
        error = min(max(kl / self._settings.kl_target - 1, -_MAX_ERROR), _MAX_ERROR)
        self.weight *= 1 + error * completions / self._settings.kl_horizon
