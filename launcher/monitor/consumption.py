"""What a run's time came to: GPU-hours, money and, at most, energy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.gpus import POWER_WATTS, look_up
from launcher.monitor.time_account import TIME_KINDS, TimeAccount, TimeKind

ENERGY_ASSUMPTION = (
    "each GPU takes the most that its data sheet allows, all the time that it is allocated; CPUs, network and cooling "
    "are not included"
)


@dataclass(frozen=True)
class Consumption:
    """What a run used."""

    gpus: int
    """GPUs at a time; 0 of a run on CPUs."""
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


def consumption_of(recipe: Mapping[str, Any], cluster: Mapping[str, Any], account: TimeAccount) -> Consumption:
    """Work out what a run used.

    Args:
        recipe: As it was resolved (recipe.json).
        cluster: The profile in run.json.
        account: Of the run's time.
    """
    gpus, known = gpus_of(recipe), cluster.get("gpus") or {}
    hours = dict.fromkeys(TIME_KINDS, 0.0)
    for span in account.spans:
        if span.attempt is not None:
            hours[span.what] += gpus * span.seconds / 3600
    has_gpus = known.get("device") != "cpu"  # those of a dev cluster do not exist
    watts = look_up(POWER_WATTS, known.get("type") or "") if has_gpus else None
    return Consumption(gpus, {kind: value for kind, value in hours.items() if value}, known.get("price"), watts)


def gpus_of(recipe: Mapping[str, Any]) -> int:
    """GPUs that an attempt holds."""
    resources = recipe.get("resources") or {}
    return int(resources.get("nodes") or 1) * int(resources.get("gpus_per_node") or 0)
