"""How long a step takes: computing at the expected utilisation, or sending, whichever is longer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.artifacts.site_measurements import SiteMeasurements, measurements_of_site
from launcher.cluster import Cluster
from launcher.gpus import LINK_BYTES, look_up, peak_flops
from launcher.plan.cost import uses_gpus
from launcher.plan.flops import flops_of_token, tokens_of_step
from launcher.plan.model_shape import ModelShape
from launcher.plan.rollout import RolloutTime, estimate_rollout
from launcher.plan.traffic import LEVELS, Collective, estimate_traffic
from launcher.plan.utilisation import expected_mfu
from launcher.run.paths import expand

if TYPE_CHECKING:
    from launcher.recipe.kinds.training import TrainingRecipe

USUAL_NETWORK = 25_000_000_000
"""Bytes that a node sends in a second where neither the profile nor a check of the site says: one InfiniBand HDR link;
an assumption."""


def measured_at(cluster: Cluster) -> SiteMeasurements | None:
    """Give what `launcher doctor --submit` measured on a site's GPUs; None if it was not run there, or on CPUs."""
    found = measurements_of_site(Path(expand(cluster.roots.runs)))
    return found if found and found.device == "cuda" else None


@dataclass(frozen=True)
class StepTime:
    """What the time of a step consists of, in seconds."""

    computing: float
    mfu: float
    """The share of the GPU's peak that was assumed."""
    sending: dict[str, float]
    """By level of `LEVELS`."""
    traffic: tuple[Collective, ...]
    rollout: RolloutTime | None = None
    """Before the first of some steps; None if nothing is sampled."""

    @property
    def training(self) -> float:
        """The step without a rollout: what is sent while the GPUs compute takes no time of its own."""
        return max(self.computing, *self.sending.values(), 0.0)

    @property
    def seconds(self) -> float:
        """The step, with its part of a rollout."""
        return self.training + (self.rollout.per_step if self.rollout else 0.0)

    @property
    def longest(self) -> float:
        """The step that begins with a rollout."""
        return self.training + (self.rollout.seconds if self.rollout else 0.0)


def estimate_step(
    recipe: "TrainingRecipe", shape: ModelShape, cluster: Cluster, scoring: Sequence[ModelShape] = ()
) -> StepTime | None:
    """Estimate a step's time; None on CPUs, or on a GPU that the tables do not know.

    Args:
        recipe: The training.
        shape: Its model.
        cluster: Where it is to run.
        scoring: The models that score what it writes.
    """
    gpu, resources = cluster.gpus.type or "", recipe.resources
    peak = peak_flops(gpu, recipe.precision.dtype, recipe.precision.tf32) if gpu else None
    if peak is None or not uses_gpus(recipe, cluster):
        return None
    mfu = expected_mfu(shape, gpu, recipe.batch.sequence_length, recipe.model.activation_checkpointing)
    flops = tokens_of_step(recipe) * flops_of_token(recipe, shape)
    traffic = estimate_traffic(recipe, shape)
    sending = _sending(traffic, cluster, gpu)
    rollout = estimate_rollout(recipe, shape, gpu, scoring)
    return StepTime(flops / (peak * mfu * resources.world_size), mfu, sending, traffic, rollout)


def _sending(traffic: Sequence[Collective], cluster: Cluster, gpu: str) -> dict[str, float]:
    """Seconds by level; a level where nothing is sent, or whose speed is not known, is left out.

    Rings that leave a node side by side share its network. A single one has all of it, as far as the link of a rank
    goes: that is why the "bus bandwidth" of NVIDIA's nccl-tests
    (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md), which is what one rank sends, comes up to
    the network of a whole node.
    """
    inside, _ = LEVELS
    measured = measured_at(cluster)
    link = (measured and measured.link) or look_up(LINK_BYTES, gpu) or math.inf
    network = cluster.gpus.network.bytes if cluster.gpus.network else measured and measured.network
    seconds = dict.fromkeys(LEVELS, 0.0)
    for one in traffic:
        speed = link if one.level == inside else min(link, (network or USUAL_NETWORK) / one.rings)
        seconds[one.level] += one.bytes / speed
    return {level: taken for level, taken in seconds.items() if taken}
