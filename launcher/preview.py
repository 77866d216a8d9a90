"""What `submit` will do, to the byte, without doing it: feasibility, sbatch calls, scripts."""

import hashlib
import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import LauncherError, RecipeError, RunError
from launcher.facts import read_facts
from launcher.freeze import ResolvedRecipe, resolve
from launcher.load import LoadedRecipe
from launcher.paths import RunDir, SubmissionDir, expand, submissions_root
from launcher.plan import check_all
from launcher.recipe import PrepareRecipe, recipe_adapter
from launcher.record import Share
from launcher.render import Request, group, render
from launcher.runs import find_run
from launcher.slurm.queue import Queue, queue_of
from launcher.snapshot import Snapshot, read_code


@dataclass(frozen=True)
class SubmitOptions:
    """What the user may say about a submission besides recipes and cluster."""

    after: tuple[str, ...] = ()
    """Start only when these runs have finished; as `launcher.runs.find_run` understands them."""
    max_parallel: int | None = None
    """How many runs of an array may run at once."""
    rehearsal: bool = False
    """The recipes were shrunk by their `rehearsal` section."""


@dataclass(frozen=True)
class PlannedRun:
    """One run to come."""

    position: int
    """Which of the recipes."""
    in_group: bool = False
    """Whether it is one of several that make the recipe's corpus together."""
    share: Share | None = None
    """What it does for the one that completes the corpus."""


@dataclass(frozen=True)
class Call:
    """What one sbatch call is for."""

    runs: tuple[PlannedRun, ...]
    """Their order is that of the array's elements."""
    purpose: str = ""
    waits: bool = False
    """Whether it starts when the shares of its recipe are over."""


@dataclass(frozen=True)
class PlannedSubmission:
    """One sbatch call to come."""

    call: Call
    folder: SubmissionDir
    script: str

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """The runs, in the order of the array's elements."""
        return self.call.runs


@dataclass(frozen=True)
class Preview:
    """What `submit` will make and send."""

    runs_root: Path
    recipes: tuple[ResolvedRecipe, ...]
    submissions: tuple[PlannedSubmission, ...]
    snapshot: Snapshot
    conditions: tuple[str, ...]
    """What sbatch's `--dependency` has to name so that all of it waits for another run."""

    def awaited_by(self, submission: PlannedSubmission) -> list[SubmissionDir]:
        """Submissions that have to be over before this one starts."""
        if not submission.call.waits:
            return []
        position = submission.runs[0].position
        shares = [one for one in self.submissions if not one.call.waits and one.runs[0].share]
        return [one.folder for one in shares if one.runs[0].position == position]


def require_feasible(loaded: Sequence[LoadedRecipe], cluster: Cluster, options: SubmitOptions) -> None:
    """Refuse recipes that cannot work on this cluster.

    Raises:
        RecipeError: With all faults of all recipes.
    """
    pending = {name: use for run in options.after for name, use in _made_by(find_run(cluster, run)).items()}
    if faults := check_all(loaded, cluster, pending):
        raise RecipeError(faults)


def preview(loaded: Sequence[LoadedRecipe], cluster: Cluster, options: SubmitOptions) -> Preview:
    """Say what `submit` will send. Changes nothing.

    Raises:
        RunError: `options.after` names a run that failed, or none.
    """
    runs_root = _runs_root(cluster)
    conditions = tuple(condition for run in options.after if (condition := _condition(run, cluster)))
    snapshot = read_code(runs_root)
    recipes = tuple(resolve(item) for item in loaded)
    planned, taken = [], set[Path]()
    for call in plan_calls(loaded, queue_of(cluster)):
        members = [recipes[run.position] for run in call.runs]
        folder = _free_folder(submissions_root(runs_root), members, taken)
        request = Request(tuple(item.loaded.recipe for item in members), options.max_parallel, call.purpose)
        script = render(request, cluster, folder, snapshot.folder, cluster.python or sys.executable)
        planned.append(PlannedSubmission(call, folder, script))
    return Preview(runs_root, recipes, tuple(planned), snapshot, conditions)


def plan_calls(loaded: Sequence[LoadedRecipe], queue: Queue) -> list[Call]:
    """Sort the runs that recipes need into sbatch calls: recipes of one run first, alike ones together."""
    tasks = {position: count for position, item in enumerate(loaded) if (count := _tasks(item)) > 1}
    alone = [position for position in range(len(loaded)) if position not in tasks]
    limit = queue.max_elements(max([len(alone), *tasks.values()]))
    calls = [
        Call(tuple(PlannedRun(alone[place]) for place in places))
        for places in group([loaded[position].recipe for position in alone], limit)
    ]
    for position, count in tasks.items():
        calls += _calls_of_shares(position, count, limit if queue.has_arrays else None)
    return calls


def _tasks(item: LoadedRecipe) -> int:
    return item.recipe.tasks if isinstance(item.recipe, PrepareRecipe) else 1


def _calls_of_shares(position: int, count: int, limit: int | None) -> Iterator[Call]:
    """Make arrays of shares and a call that waits for them; without arrays, one call for runs in this order."""
    shares = [PlannedRun(position, True, Share(index, count)) for index in range(count)]
    last = PlannedRun(position, True)
    if limit is None:
        yield Call((*shares, last))
        return
    for start in range(0, count, limit):
        yield Call(tuple(shares[start : start + limit]))
    yield Call((last,), purpose="finalise", waits=True)


def _runs_root(cluster: Cluster) -> Path:
    runs = cluster.roots.runs
    where = f"cluster profile `{cluster.name}`: roots.runs: `{runs}`"
    unset = [name for name in re.findall(r"\$\{?(\w+)", runs) if name not in os.environ]
    if unset:
        raise LauncherError(f"{where}: ${unset[0]} is not set in this shell; set it, or write the folder itself")
    root = expand(runs)
    if re.search(r"[\\\n]", str(root)):  # after a backslash slurmd leaves %j as it is and removes the backslash
        raise LauncherError(f"{where}: Slurm cannot write logs below a folder with a backslash; write another folder")
    return root


def _condition(after: str, cluster: Cluster) -> str | None:
    """What makes sbatch wait for a run; nothing if that run finished already."""
    run = find_run(cluster, after)
    facts = read_facts(run)
    record, last = facts.record, facts.last
    if facts.is_finished:
        return None
    if facts.is_settled and last:
        raise RunError(f"--after: `{record.id}` ended: {last.reason}; `launcher resume {record.id}` first")
    if not record.submissions:
        raise RunError(f"--after: `{record.id}` was never queued; `launcher resume {record.id}` first")
    return f"afterok:{record.submissions[-1].job_id}"


def _made_by(run: RunDir) -> dict[str, str]:
    """What will be there once a run has finished, a corpus, tokenizer, model or adapter, and its `data_use`."""
    recipe = recipe_adapter.validate_json(run.recipe.read_text(encoding="utf-8"))
    return {recipe.makes: recipe.data_use} if recipe.makes else {}


def _free_folder(root: Path, members: Sequence[ResolvedRecipe], taken: set[Path]) -> SubmissionDir:
    """Name a submission by a hash of its recipes and the first free number, so that a preview is repeatable."""
    digest = hashlib.sha256("".join(item.fingerprint for item in members).encode()).hexdigest()[:8]
    names = (root / f"{digest}-{number}" for number in itertools.count(1))
    free = next(path for path in names if path not in taken and not path.exists())
    taken.add(free)
    return SubmissionDir(free)
