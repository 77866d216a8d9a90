"""Submitting what recipes lack: runs that nobody has queued yet, and those that ended before they had finished.

What a recipe lacks is looked up once more while no other process queues anything, so that people who submit the same at
the same moment come to one run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from launcher.cluster import Cluster
from launcher.errors import RecipeError
from launcher.load import LoadedRecipe
from launcher.load.recipes import name_points_and_recipes
from launcher.run.lock import one_at_a_time
from launcher.run.paths import RunDir
from launcher.submit.freeze import FrozenRun
from launcher.submit.plan_submission import SubmissionPlan, SubmitOptions, plan_submission, runs_root_of
from launcher.submit.queue_all import submit
from launcher.submit.reuse import find_reusable
from launcher.submit.sweeps import SortedPoints, find_known, sort_points
from launcher.submit.taken_names import find_taken


@dataclass(frozen=True)
class Missing:
    """What recipes lack, at one moment."""

    points: SortedPoints
    plan: SubmissionPlan | None
    """The runs that are to be made; None if there are none."""
    cluster: Cluster
    options: SubmitOptions
    rerun: bool


@dataclass(frozen=True)
class SubmitOutcome:
    """What became of recipes."""

    points: SortedPoints
    frozen: Sequence[FrozenRun]
    """The new runs, in the order of the recipes."""
    resumed: Sequence[str]
    """Jobs of runs that were taken up again."""
    waiting: Mapping[str, Sequence[RunDir]]
    """Points that the queue has no room for, by their sweep."""


def find_missing(
    wanted: Sequence[LoadedRecipe], cluster: Cluster, options: SubmitOptions, rerun: bool = False
) -> Missing:
    """Find out what recipes lack, and plan it. Changes nothing.

    Args:
        wanted: The recipes.
        cluster: Where they go.
        options: What else the user said.
        rerun: Make new runs of all of them, whatever there is.

    Raises:
        RecipeError: Recipes cannot work on this cluster.
    """
    points = SortedPoints(wanted, {}) if rerun else sort_points(wanted, find_reusable(wanted, cluster), cluster)
    loaded = [wanted[place] for place in points.new]
    plan = plan_submission(loaded, cluster, options) if loaded else None
    if faults := name_points_and_recipes([*find_taken(loaded, cluster, options.rehearsal)]):
        raise RecipeError(faults)
    return Missing(points, plan, cluster, options, rerun)


def submit_missing(
    missing: Missing, on_wait: Callable[[], object], on_change: Callable[[SortedPoints], object]
) -> SubmitOutcome:
    """Queue what recipes lack, and nothing that another process has queued in the meantime.

    Args:
        missing: What was found, and perhaps confirmed by a person.
        on_wait: Called before waiting for another process that queues something.
        on_change: Called with what there is now, if that is not what was found.

    Raises:
        LauncherError: Slurm refused; what this call made and queued is gone again.
    """
    cluster = missing.cluster
    with one_at_a_time(runs_root_of(cluster), on_wait):
        if not _is_current(missing):
            before, missing = missing.points, find_missing(missing.points.wanted, cluster, missing.options)
            if missing.points != before:
                on_change(missing.points)
        points, plan = missing.points, missing.plan
        resumed = points.resume(cluster)
        frozen = submit(plan, lambda folders: points.note(cluster, folders)) if plan else []
        if not plan:
            points.note(cluster, [])
        return SubmitOutcome(points, frozen, resumed, points.note_waiting(cluster))


def _is_current(missing: Missing) -> bool:
    """Tell whether nobody has queued, or taken up, any of it since it was found."""
    points = missing.points
    return missing.rerun or (not points.over and find_known(points.wanted, missing.cluster) == points.known)
