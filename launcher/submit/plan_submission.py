"""All that a submission will be, worked out before anything is written or queued.

`plan_submission` returns one object. What is shown of it (`--dry-run`, `--test-only`, the question before a large
submission) and what `launcher.submit.queue_all.submit` and `launcher debug` carry out is that same object.
"""

import hashlib
import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from launcher.cluster import Cluster
from launcher.errors import Fault, LauncherError, RecipeError, RunError
from launcher.load import LoadedRecipe
from launcher.load.recipes import name_points_and_recipes, name_recipes
from launcher.monitor.find import find_run
from launcher.monitor.run_state import read_state
from launcher.plan import check_each
from launcher.plan.conflicts import find_conflicts
from launcher.plan.edges import find_edges, sort_stages
from launcher.recipe import read_recipe
from launcher.run.paths import RunDir, SubmissionDir, expand, submissions_root
from launcher.run.record import CorpusShare
from launcher.slurm.queue import Queue, queue_of
from launcher.submit.partition_checks import find_unstartable
from launcher.submit.planned_recipe import PlannedRecipe, estimate_recipes
from launcher.submit.render import Request, group, render
from launcher.submit.snapshot import Snapshot, read_code


@dataclass(frozen=True)
class SubmitOptions:
    """What the user may say about a submission besides recipes and cluster."""

    after: tuple[str, ...] = ()
    """Start only when these runs have finished; as `launcher.monitor.find.find_run` understands them."""
    max_parallel: int | None = None
    """How many runs of an array may run at once."""
    rehearsal: bool = False
    """The recipes were shrunk by their `rehearsal` section."""
    pipeline: Path | None = None
    """Folder of the pipeline that the only recipe is a stage of."""
    stage: str | None = None
    """Name of the stage."""
    check: bool = True
    """Refuse recipes that cannot work here; `launcher render` also works where the site's files are not."""


@dataclass(frozen=True)
class PlannedRun:
    """One run to come."""

    position: int
    """Which of the recipes."""
    in_group: bool = False
    """Whether it is one of several that make the recipe's corpus together."""
    share: CorpusShare | None = None
    """What it does for the one that completes the corpus."""


@dataclass(frozen=True)
class SbatchCall:
    """What one sbatch call is for."""

    runs: tuple[PlannedRun, ...]
    """Their order is that of the array's elements."""
    purpose: str = ""
    waits: bool = False
    """Whether it starts when the shares of its recipe are over."""


@dataclass(frozen=True)
class PlannedSubmission:
    """One sbatch call to come."""

    call: SbatchCall
    folder: SubmissionDir
    script: str


@dataclass(frozen=True)
class SubmissionPlan:
    """Everything that `submit` will write and send, to the byte."""

    cluster: Cluster
    options: SubmitOptions
    runs_root: Path
    recipes: tuple[PlannedRecipe, ...]
    submissions: tuple[PlannedSubmission, ...]
    snapshot: Snapshot
    dependencies: tuple[str, ...]
    """Conditions for sbatch's `--dependency` that all of it waits for: `afterok:12`."""
    makers: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """For recipes that read what others of them make: the places of those."""

    def awaited_by(self, submission: PlannedSubmission) -> list[SubmissionDir]:
        """Submissions that have to be over before this one starts."""
        if not submission.call.waits:
            return []
        position = submission.call.runs[0].position
        first_runs = {one.folder: one.call.runs[0] for one in self.submissions if not one.call.waits}
        return [folder for folder, run in first_runs.items() if run.share and run.position == position]


def plan_submission(
    loaded: Sequence[LoadedRecipe], cluster: Cluster, options: SubmitOptions, snapshot: Snapshot | None = None
) -> SubmissionPlan:
    """Check and estimate recipes, and render what will be queued. Changes nothing.

    Args:
        loaded: The recipes.
        cluster: Where they go.
        options: What else the user said.
        snapshot: The code, if it was read before.

    Returns:
        What `launcher.submit.queue_all.submit` takes.

    Raises:
        RecipeError: Recipes cannot work on this cluster; with all faults of all of them.
        RunError: `options.after` names a run that failed, or none.
        LauncherError: The cluster profile's `roots.runs` cannot be used.
    """
    awaited = [find_run(cluster, run) for run in options.after]
    open_runs = [run for run in awaited if not read_state(run).is_finished]  # what the others made can be looked at
    pending = {name: use for run in open_runs for name, use in _made_by(run).items()}
    makers = _find_makers(loaded, cluster)
    for maker in (loaded[place].recipe for its in makers.values() for place in its):
        pending |= {maker.makes.name: maker.data_use} if maker.makes else {}
    if pending:
        loaded = [replace(item, awaited={**item.awaited, **pending}) for item in loaded]
    if options.check and (faults := _find_faults(loaded, cluster)):
        raise RecipeError(faults)
    runs_root = runs_root_of(cluster)
    dependencies = tuple(condition for run in awaited if (condition := _condition(run)))
    recipes, snapshot = estimate_recipes(loaded, cluster), snapshot or read_code(runs_root)
    submissions, taken = [], set[Path]()
    for call in plan_calls(loaded, queue_of(cluster), makers):
        members = [recipes[run.position] for run in call.runs]
        folder = _free_folder(submissions_root(runs_root), members, taken)
        sweeps = {item.loaded.point.sweep if item.loaded.point else None for item in members}
        sweep = sweeps.pop() if len(sweeps) == 1 else None
        request = Request(tuple(item.recipe for item in members), options.max_parallel, call.purpose, sweep)
        script = render(request, cluster, folder, snapshot.folder, cluster.python or sys.executable)
        submissions.append(PlannedSubmission(call, folder, script))
    return SubmissionPlan(cluster, options, runs_root, recipes, tuple(submissions), snapshot, dependencies, makers)


def _find_makers(loaded: Sequence[LoadedRecipe], cluster: Cluster) -> dict[int, frozenset[int]]:
    """Find the recipes that read what others of them make.

    Raises:
        LauncherError: They wait for each other, or there is no Slurm to let them wait.
    """
    found: dict[int, set[int]] = {}
    for edge in find_edges([item.recipe for item in loaded]):
        found.setdefault(edge.reader, set()).add(edge.maker)
    if not found:
        return {}
    if cluster.executor == "local":
        first = loaded[min(found)].recipe.name
        raise RunError(
            f"{first}: reads what another of these recipes makes, and cluster profile `{cluster.name}` starts runs at "
            "once; submit one after the other, or write a pipeline, whose stages wait for each other"
        )
    names = [f"{place} ({item.recipe.name})" for place, item in enumerate(loaded)]
    sort_stages({names[place]: {names[one] for one in found.get(place, ())} for place in range(len(loaded))})
    return {reader: frozenset(its) for reader, its in found.items()}


def plan_calls(
    loaded: Sequence[LoadedRecipe], queue: Queue, makers: Mapping[int, frozenset[int]] = MappingProxyType({})
) -> list[SbatchCall]:
    """Sort the runs that recipes need into sbatch calls: recipes of one run first, alike ones together.

    Args:
        loaded: The recipes.
        queue: Says how long arrays may be.
        makers: For recipes that wait for others of them: the places of those. Makers' calls come first.
    """
    tasks = {position: count for position, item in enumerate(loaded) if (count := item.recipe.shares) > 1}
    alone = [position for position in range(len(loaded)) if position not in tasks]
    limit = queue.max_elements(max([len(alone), *tasks.values()]))
    calls = [
        SbatchCall(tuple(PlannedRun(alone[place]) for place in places))
        for places in group(
            [loaded[position].recipe for position in alone], limit, [makers.get(position) for position in alone]
        )
    ]
    for position, count in tasks.items():
        calls += _calls_of_shares(position, count, limit if queue.has_arrays else None)
    return sorted(calls, key=lambda call: _depth(call.runs[0].position, makers))


def _depth(position: int, makers: Mapping[int, frozenset[int]]) -> int:
    return max((1 + _depth(maker, makers) for maker in makers.get(position, ())), default=0)


def _calls_of_shares(position: int, count: int, limit: int | None) -> Iterator[SbatchCall]:
    """Make arrays of shares and a call that waits for them; without arrays, one call for runs in this order."""
    shares = [PlannedRun(position, True, CorpusShare(index, count)) for index in range(count)]
    last = PlannedRun(position, True)
    if limit is None:
        yield SbatchCall((*shares, last))
        return
    for start in range(0, count, limit):
        yield SbatchCall(tuple(shares[start : start + limit]))
    yield SbatchCall((last,), purpose="finalise", waits=True)


def _find_faults(loaded: Sequence[LoadedRecipe], cluster: Cluster) -> list[Fault]:
    found = name_points_and_recipes(check_each(loaded, cluster))
    known = {(fault.file, fault.line, fault.key) for fault in found}
    more = [
        (item.path, fault)
        for item, fault in find_unstartable(loaded, cluster)
        if (fault.file, fault.line, fault.key) not in known
    ]
    return [*found, *name_recipes(more), *dict.fromkeys(find_conflicts(loaded))]


def runs_root_of(cluster: Cluster) -> Path:
    """Return the folder of all runs.

    Raises:
        LauncherError: The profile's `roots.runs` cannot be used.
    """
    runs = cluster.roots.runs
    where = f"cluster profile `{cluster.name}`: roots.runs: `{runs}`"
    root = expand(runs)
    if re.search(r"[\\\n]", str(root)):  # after a backslash slurmd leaves %j as it is and removes the backslash
        raise LauncherError(f"{where}: Slurm cannot write logs below a folder with a backslash; write another folder")
    return root


def _condition(run: RunDir) -> str | None:
    """What makes sbatch wait for a run; nothing if that run finished already."""
    state = read_state(run)
    record, last = state.record, state.last
    if state.is_finished:
        return None
    if state.is_terminal and last:
        raise RunError(f"--after: `{record.id}` ended: {last.reason}; `launcher resume {record.id}` first")
    if not record.submissions:
        raise RunError(f"--after: `{record.id}` was never queued; `launcher resume {record.id}` first")
    return f"afterok:{record.submissions[-1].job_id}"


def _made_by(run: RunDir) -> dict[str, str]:
    """What will be there once a run has finished, a corpus, tokenizer, model or adapter, and its `data_use`."""
    recipe = read_recipe(run.recipe.read_text(encoding="utf-8"))
    return {recipe.makes.name: recipe.data_use} if recipe.makes else {}


def _free_folder(root: Path, members: Sequence[PlannedRecipe], taken: set[Path]) -> SubmissionDir:
    """Name a submission by a hash of its recipes and the first free number, so that a dry run is repeatable."""
    digest = hashlib.sha256("".join(item.fingerprint for item in members).encode()).hexdigest()[:8]
    names = (root / f"{digest}-{number}" for number in itertools.count(1))
    free = next(path for path in names if path not in taken and not path.exists())
    taken.add(free)
    return SubmissionDir(free)
