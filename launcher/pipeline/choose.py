"""Which run carries a stage out: a finished one, one that another pipeline has queued already, or its own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from launcher.cluster import Cluster
from launcher.pipeline.find import list_pipelines
from launcher.pipeline.record import Pipeline, StageRecord, made_for
from launcher.pipeline.search_stage import read_search
from launcher.pipeline.selection import select_best
from launcher.pipeline.states import read_stages
from launcher.recipe import Recipe, read_recipe
from launcher.recipe.identity import identify, recipe_checksum
from launcher.run.index import find_finished, may_be_finished
from launcher.run.locations import Locations, Root, root_of
from launcher.run.paths import RunDir, expand
from launcher.run.record import RunRecord


@dataclass
class Choice:
    """Runs that were chosen for the stages of one pipeline so far, in their order."""

    cluster: Cluster
    exclude: str = ""
    """Folder of the pipeline itself."""
    finished: dict[str, RunDir] = field(default_factory=dict)
    shared: dict[str, RunDir] = field(default_factory=dict)
    alive: dict[str, RunDir] = field(default_factory=dict)
    """Those that are queued or running, some of them for other pipelines, too."""
    made: dict[tuple[Root, str], str] = field(default_factory=dict)
    """Where the artifacts of finished stages lie."""
    going: set[str] = field(default_factory=set)
    """Selections from points that all are finished or carried out by other pipelines."""
    _in_flight: dict[str, RunDir] | None = None

    def choose(self, stage: StageRecord, recipe: Recipe, folder: str, awaited: Iterable[str]) -> RunDir | None:
        """Find a run that makes a run of its own needless; None if there is none.

        Args:
            stage: The stage.
            recipe: Its recipe.
            folder: Of the recipe's file.
            awaited: The stages it waits for; they were chosen before.
        """
        awaited = [*awaited]
        if not self._are_known(awaited):
            return None
        is_ready = all(name in self.finished for name in awaited)
        if is_ready and (run := self._find_finished(recipe, folder)):
            self.note_finished(stage, run)
            return run
        if run := self._in_other_pipelines().get(stage.key):
            self.shared[stage.name] = run
        return run

    def select(self, stage: StageRecord) -> RunDir | None:
        """Find the run that a selection selects; None if not all of its points have finished."""
        assert stage.select is not None
        points = {name: self.finished[name] for name in stage.awaits if name in self.finished}
        if len(points) < len(stage.awaits):
            self.going |= {stage.name} if self._are_known(stage.awaits) else set()
            return None
        run = select_best(stage.select, points).run
        if run:
            self.note_finished(stage, run)
        return run

    def select_trial(self, stage: StageRecord) -> RunDir | None:
        """Find the trial that a search selects; None if not all trials are over."""
        found = read_search(stage, expand(self.cluster.roots.runs), self.cluster)
        run = found.verdict.run if found else None
        if run:
            self.note_finished(stage, run)
        return run

    def _are_known(self, awaited: Iterable[str]) -> bool:
        known = {*self.finished, *self.shared, *self.going}
        return all(name in known or self._is_shared(name) for name in awaited)

    def _is_shared(self, name: str) -> bool:
        return name in self.alive and self.alive[name] in self._in_other_pipelines().values()

    def note_finished(self, stage: StageRecord, run: RunDir) -> None:
        """Let later stages find what a finished one made."""
        self.finished[stage.name] = run
        if stage.makes:
            artifact, name = stage.makes
            self.made[root_of(artifact), name] = str(made_for(stage, run))

    def _find_finished(self, recipe: Recipe, folder: str) -> RunDir | None:
        root = expand(self.cluster.roots.runs)
        if not may_be_finished(root, recipe_checksum(recipe)):
            return None
        identity = identify(recipe, Locations(self.cluster.roots.model_dump(), folder, made=self.made))
        return find_finished(root, identity) if identity else None

    def _in_other_pipelines(self) -> Mapping[str, RunDir]:
        """Runs of other pipelines that are queued, running or about to be, by the keys of their stages."""
        if self._in_flight is None:
            self._in_flight = {}
            for other in list_pipelines(expand(self.cluster.roots.runs)):
                if other.folder.root.name != self.exclude and not other.record.rerun:
                    self._in_flight.update(_runs_in_flight(other, self.cluster))
        return self._in_flight


def _runs_in_flight(pipeline: Pipeline, cluster: Cluster) -> Mapping[str, RunDir]:
    states, _ = read_stages(pipeline, cluster)
    going: set[str] = set()
    found = {}
    for name, one in states.items():
        if one.is_finished:
            going.add(name)
            continue
        is_going = one.is_alive or (one.may_advance and not pipeline.is_stopped)
        if one.stage.select:
            is_coming = is_going or not one.stage.search  # of a sweep, what is awaited are its points
            going |= {name} if is_coming and set(one.stage.awaits) <= going else set()
        elif one.run and is_going and set(one.stage.awaits) <= going:
            going.add(name)
            found[one.stage.key] = one.run
    return found


def recipe_of(run: RunDir) -> tuple[Recipe, str]:
    """Read a run's recipe, and the folder of its file."""
    return read_recipe(run.recipe.read_text(encoding="utf-8")), RunRecord.read(run.record).recipe_folder
