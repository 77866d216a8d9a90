"""The question before a large submission: what it comes to, and when it would start."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from launcher.submit.plan_submission import SubmissionPlan
    from launcher.submit.searches import SearchPlan

ASK_ABOVE_GPU_HOURS = 64


def ask_if_large(runs: int, gpu_hours: float, describe: Callable[[], str]) -> None:
    """Ask for confirmation in a terminal before several runs or many GPU-hours.

    Args:
        runs: How many would be queued.
        gpu_hours: That each of them may take in one attempt, added up.
        describe: Says what they are and when the first one would start; called only if a person is asked.
    """
    is_large = runs > 1 or gpu_hours > ASK_ABOVE_GPU_HOURS
    if is_large and sys.stdin.isatty() and sys.stderr.isatty():
        typer.echo(describe(), err=True)
        typer.confirm("submit?", abort=True, err=True)


def runs_gpu_hours(plan: "SubmissionPlan") -> float:
    """GPU-hours of all runs, if each takes one attempt up to its time limit."""
    return sum(item.forecast.attempt_gpu_hours for item in plan.recipes)


def search_gpu_hours(plan: "SearchPlan") -> float:
    """GPU-hours of the trials that are left of a search, if each takes one attempt up to its time limit."""
    return plan.left * max(item.forecast.attempt_gpu_hours for item in plan.corners.recipes)
