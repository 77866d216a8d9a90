"""What is left to do of a sweep: points that are new, and points whose runs ended before they had finished."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from launcher.cluster import Cluster
from launcher.load import LoadedRecipe
from launcher.run.paths import RunDir, expand
from launcher.run.record import RunRecord, fingerprint
from launcher.run.sweep_points import SweptRun, read_points, sweep_dir, write_points
from launcher.submit.resubmit import queue_what_fits


@dataclass(frozen=True)
class SortedPoints:
    """Recipes, and the runs that there are of some of them; by the recipe's place."""

    wanted: Sequence[LoadedRecipe]
    finished: Mapping[int, RunDir]
    alive: Mapping[int, RunDir] = field(default_factory=dict)
    """Points whose run is queued or running."""
    over: Mapping[int, RunDir] = field(default_factory=dict)
    """Points whose run has failed, was stopped or got lost."""

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

    def resume(self, cluster: Cluster) -> list[str]:
        """Queue the runs again that are over, as far as there is room; each continues from its newest checkpoint.

        Returns:
            The new jobs.
        """
        return queue_what_fits([*self.over.values()], cluster)[0]

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
    """Find the runs of points that earlier submissions of a sweep made, with the same recipe to the letter.

    Args:
        wanted: The recipes.
        finished: Those that need no run, and the run that has finished.
        cluster: The site.
    """
    known = _known_runs(wanted, cluster)
    if not known:
        return SortedPoints(wanted, finished)
    from launcher.monitor.status import read_statuses

    found = {
        place: run
        for place, item in enumerate(wanted)
        if item.point and place not in finished and (run := known.get(_fingerprint(item)))
    }
    statuses = read_statuses(cluster, [*found.values()])[0] if found else []
    ended = {one.folder for one in statuses if one.is_over and one.state != "finished"}
    unfinished = {one.folder for one in statuses if one.state != "finished"}
    over = {place: run for place, run in found.items() if str(run.root) in ended}
    alive = {place: run for place, run in found.items() if str(run.root) in unfinished - ended}
    return SortedPoints(wanted, finished, alive, over)


def _known_runs(wanted: Sequence[LoadedRecipe], cluster: Cluster) -> dict[str, RunDir]:
    """Read the runs of the sweeps of recipes, by their fingerprints."""
    root = expand(cluster.roots.runs)
    names = dict.fromkeys(item.point.sweep for item in wanted if item.point)
    return {point.fingerprint: RunDir(root / point.run) for name in names for point in read_points(root, name)}


def _row(item: LoadedRecipe, run: RunDir) -> SweptRun:
    assert item.point is not None
    return SweptRun(item.point.sweep, item.point.values, run.root.name, _fingerprint(item))


def _fingerprint(item: LoadedRecipe) -> str:
    return fingerprint(json.loads(item.recipe.model_dump_json()))
