"""What a run's time came to: GPU-hours, money and, at most, energy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.gpus import POWER_WATTS, look_up
from launcher.monitor.time_account import TIME_KINDS, TimeAccount, TimeKind
from launcher.run.ledger import Attempt

ENERGY_ASSUMPTION = (
    "each GPU takes the most that its data sheet allows, all the time that it is allocated; CPUs, network and cooling "
    "are not included"
)


@dataclass(frozen=True)
class Consumption:
    """What a run used."""

    gpus: int
    """GPUs at a time, of the newest attempt; 0 of a run on CPUs."""
    gpu_hours: dict[TimeKind, float]
    """While nodes were occupied, by what they did."""
    price: float | None
    """Of a GPU-hour, by the profile that the run was submitted with."""
    watts: float | None
    """Of one GPU; None if its type is not known."""

    @property
    def total_gpu_hours(self) -> float:
        """All GPU-hours."""
        return sum(self.gpu_hours.values())

    @property
    def cost(self) -> float | None:
        """In the currency of the price; None if the profile has none."""
        return None if self.price is None or not self.gpus else self.total_gpu_hours * self.price

    @property
    def most_kwh(self) -> float | None:
        """Energy at most (`ENERGY_ASSUMPTION`); None if the GPU is not known."""
        return None if self.watts is None or not self.gpus else self.total_gpu_hours * self.watts / 1000


def consumption_of(
    recipe: Mapping[str, Any], cluster: Mapping[str, Any], account: TimeAccount, attempts: Sequence[Attempt]
) -> Consumption:
    """Work out what a run used.

    Args:
        recipe: As it was resolved (recipe.json).
        cluster: The profile in run.json.
        account: Of the run's time.
        attempts: From the ledger; after `launcher resume --nodes` they had different numbers of nodes.
    """
    gpus, known = gpus_of(recipe, attempts[-1] if attempts else None), cluster.get("gpus") or {}
    by_attempt = {attempt.number: gpus_of(recipe, attempt) for attempt in attempts}
    hours = dict.fromkeys(TIME_KINDS, 0.0)
    for span in account.spans:
        if span.attempt is not None:
            hours[span.what] += by_attempt[span.attempt] * span.seconds / 3600
    has_gpus = known.get("device") != "cpu"  # those of a dev cluster do not exist
    watts = look_up(POWER_WATTS, known.get("type") or "") if has_gpus else None
    return Consumption(gpus, {kind: value for kind, value in hours.items() if value}, known.get("price"), watts)


def gpus_of(recipe: Mapping[str, Any], attempt: Attempt | None) -> int:
    """GPUs that an attempt holds, on all of its nodes; as many as the recipe asks for if there is no attempt."""
    return nodes_of(recipe, attempt) * int(_resources(recipe).get("gpus_per_node") or 0)


def nodes_of(recipe: Mapping[str, Any], attempt: Attempt | None) -> int:
    """Nodes that an attempt holds; without Slurm one machine stands for as many as the recipe asks for."""
    if attempt is not None and attempt.nodes and not attempt.job_id.startswith("local-"):
        return len(attempt.nodes)
    return int(_resources(recipe).get("nodes") or 1)


def _resources(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = recipe.get("resources") or {}
    return found
