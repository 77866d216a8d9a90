"""What is left to do of recipes: those that are new, and those whose runs ended before they had finished."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.cluster import Cluster
from launcher.load import LoadedRecipe
from launcher.run.identity import RunIdentity
from launcher.run.paths import RunDir, expand, list_shares
from launcher.run.queued import find_queued, note_queued
from launcher.run.record import RunRecord
from launcher.run.sweep_points import SweptRun, read_points, sweep_dir, write_points
from launcher.submit.resubmit import queue_what_fits, resubmit_group
from launcher.submit.taken_names import name_key

if TYPE_CHECKING:
    from launcher.monitor.status import RunStatus


@dataclass(frozen=True)
class SortedPoints:
    """Recipes, and the runs that there are of some of them; by the recipe's place."""

    wanted: Sequence[LoadedRecipe]
    finished: Mapping[int, RunDir]
    alive: Mapping[int, RunDir] = field(default_factory=dict)
    """Those whose run is queued or running."""
    over: Mapping[int, RunDir] = field(default_factory=dict)
    """Points whose run has failed, was stopped or got lost, and recipes whose `launcher submit` was killed."""
    known: Mapping[int, RunDir] = field(default_factory=dict)
    """The runs that earlier submissions made, whatever became of them."""

    @property
    def new(self) -> list[int]:
        """Places of recipes without a run."""
        known = self.finished.keys() | self.alive.keys() | self.over.keys()
        return [place for place in range(len(self.wanted)) if place not in known]

    @property
    def sweeps(self) -> list[str]:
        """The names of the sweeps."""
        return [*dict.fromkeys(item.point.sweep for item in self.wanted if item.point)]

    def write(self, cluster: Cluster, folders: Sequence[RunDir]) -> None:
        """Write the points of each sweep and their runs.

        Args:
            cluster: The site.
            folders: The runs of the new recipes.
        """
        runs = {**self.finished, **self.alive, **self.over, **dict(zip(self.new, folders, strict=True))}
        for name in self.sweeps:
            its = [place for place, item in enumerate(self.wanted) if item.point and item.point.sweep == name]
            rows = [_row(self.wanted[place], runs[place]) for place in its]
            is_open = all(self.wanted[place].recipe.data_use == "open" for place in its)
            write_points(expand(cluster.roots.runs), name, rows, 0o777 if is_open else 0o700)

    def note(self, cluster: Cluster, folders: Sequence[RunDir]) -> None:
        """Let later submissions find the runs that are about to be queued: the points, the rest, and what they make.

        Args:
            cluster: The site.
            folders: The runs of the new recipes.
        """
        self.write(cluster, folders)
        made = [*zip((self.wanted[place] for place in self.new), folders, strict=True)]
        keys = {item.fingerprint: folder for item, folder in made if item.point is None}
        keys |= {name_key(result): folder for item, folder in made if (result := item.recipe.makes)}
        if keys:
            note_queued(expand(cluster.roots.runs), keys)

    def resume(self, cluster: Cluster) -> list[str]:
        """Queue the runs again that are over, as far as there is room; each continues from its newest checkpoint.

        Returns:
            Their jobs.
        """
        groups = [run for run in self.over.values() if list_shares(run)]
        alone = [run for run in self.over.values() if run not in groups]
        jobs = queue_what_fits(alone, cluster)[0] if alone else []
        return [*jobs, *(job for run in groups for job in _resume_group(run, cluster))]

    def note_waiting(self, cluster: Cluster) -> dict[str, list[RunDir]]:
        """Leave a mark at each sweep with points that the queue had no room for, so that they are queued later.

        Returns:
            These points, by the sweep.
        """
        root, found = expand(cluster.roots.runs), {}
        for name in self.sweeps:
            runs = [RunDir(root / point.run) for point in read_points(root, name)]
            if waiting := [run for run in runs if not RunRecord.read(run.record).submissions]:
                found[name] = waiting
                sweep_dir(root, name).waiting.touch()
        return found


def sort_points(wanted: Sequence[LoadedRecipe], finished: Mapping[int, RunDir], cluster: Cluster) -> SortedPoints:
    """Find the runs that earlier submissions made, with the same recipe to the letter.

    Args:
        wanted: The recipes.
        finished: Those that need no run, and the run that has finished.
        cluster: The site.
    """
    known = find_known(wanted, cluster)
    found = {place: run for place, run in known.items() if place not in finished}
    if not found:
        return SortedPoints(wanted, finished, known=known)
    from launcher.monitor.status import read_statuses

    statuses = {one.folder: one for one in read_statuses(cluster, [*dict.fromkeys(found.values())])[0]}
    alive, over = {}, {}
    for place, run in found.items():
        status = statuses.get(str(run.root))
        if status is None or status.state == "finished":
            continue
        if not status.is_over:
            if wanted[place].point or _reads_the_same(wanted[place], run):
                alive[place] = run
        elif wanted[place].point or _was_never_queued(run, status):
            over[place] = run
    return SortedPoints(wanted, finished, alive, over, known)


def find_known(wanted: Sequence[LoadedRecipe], cluster: Cluster) -> dict[int, RunDir]:
    """Find the runs that recipes have, by their places: of points in the sweep, of others in the index."""
    root = expand(cluster.roots.runs)
    points = {name: _read_sweep(root, name) for name in dict.fromkeys(one.point.sweep for one in wanted if one.point)}
    found = {}
    for place, item in enumerate(wanted):
        its = points[item.point.sweep] if item.point else None
        if its == {}:
            continue
        run = find_queued(root, item.fingerprint) if its is None else its.get(item.fingerprint)
        if run is not None:
            found[place] = run
    return found


def _read_sweep(root: Path, name: str) -> dict[str, RunDir]:
    """Read the runs of a sweep, by the fingerprints of its points."""
    return {point.fingerprint: RunDir(root / point.run) for point in read_points(root, name)}


def _reads_the_same(item: LoadedRecipe, run: RunDir) -> bool:
    """Tell whether a run that is not over reads what the recipe names now."""
    is_relative = any(one.name.startswith(".") for one in (*item.recipe.inputs(), *item.recipe.optional_inputs()))
    if is_relative and RunRecord.read(run.record).recipe_folder != item.folder:
        return False
    noted = RunIdentity.read(run.identity)
    return noted is None or noted.is_unchanged()


def _was_never_queued(run: RunDir, status: "RunStatus") -> bool:
    """Tell whether the submission of a run was killed before Slurm knew of it, once all of it was frozen."""
    if status.state != "not submitted" or status.attempts or status.stop_requested:
        return False
    shares = list_shares(run)
    return not shares or len(shares) == _share_count(shares[0])


def _share_count(run: RunDir) -> int:
    share = RunRecord.read(run.record).share
    return share.count if share else 0


def _resume_group(run: RunDir, cluster: Cluster) -> list[str]:
    """Queue what a killed submission left of a `prepare` in several tasks."""
    members = [one for one in (*list_shares(run), run) if not RunRecord.read(one.record).submissions]
    return resubmit_group(run, cluster, members)


def _row(item: LoadedRecipe, run: RunDir) -> SweptRun:
    assert item.point is not None
    return SweptRun(item.point.sweep, item.point.values, run.root.name, item.fingerprint)
