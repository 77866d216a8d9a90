"""How long a step takes: computing at the expected utilisation, or sending, whichever is longer."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.artifacts.site_measurements import SiteMeasurements, measurements_of_site
from launcher.cluster import Cluster
from launcher.gpus import LINK_BYTES, look_up, peak_flops
from launcher.plan.cost import flops_of_token, tokens_of_step
from launcher.plan.model_shape import ModelShape
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

    @property
    def seconds(self) -> float:
        """The whole step: what is sent while the GPUs compute takes no time of its own."""
        return max(self.computing, *self.sending.values(), 0.0)


def estimate_step(recipe: "TrainingRecipe", shape: ModelShape, cluster: Cluster) -> StepTime | None:
    """Estimate a step's time; None on CPUs, or on a GPU that the tables do not know."""
    gpu, resources = cluster.gpus.type or "", recipe.resources
    peak = peak_flops(gpu, recipe.precision.dtype, recipe.precision.tf32) if gpu else None
    if peak is None or not resources.gpus_per_node:
        return None
    mfu = expected_mfu(shape, gpu, recipe.batch.sequence_length, recipe.model.activation_checkpointing)
    flops = tokens_of_step(recipe) * flops_of_token(recipe, shape)
    traffic = estimate_traffic(recipe, shape)
    inside, between = LEVELS
    measured = measured_at(cluster)
    network = cluster.gpus.network.bytes if cluster.gpus.network else measured and measured.network
    # The ranks of a node share its network.
    speeds = {
        inside: (measured and measured.link) or look_up(LINK_BYTES, gpu),
        between: (network or USUAL_NETWORK) / resources.ranks_per_node,
    }
    sums = {level: sum(one.bytes for one in traffic if one.level == level) for level in LEVELS}
    sending = {level: sums[level] / speed for level, speed in speeds.items() if speed and sums[level]}
    return StepTime(flops / (peak * mfu * resources.world_size), mfu, sending, traffic)
