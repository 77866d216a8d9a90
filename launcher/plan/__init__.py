"""Will a recipe fit, what does it cost, can it work? Answers before a job waits in the queue."""

from launcher.plan.cost import attempt_gpu_hours
from launcher.plan.feasibility import check, check_all, check_each
from launcher.plan.forecast import Forecast, checkpoint_bytes, forecast, starting_micro_batch

__all__ = [
    "Forecast",
    "attempt_gpu_hours",
    "check",
    "check_all",
    "check_each",
    "checkpoint_bytes",
    "forecast",
    "starting_micro_batch",
]
