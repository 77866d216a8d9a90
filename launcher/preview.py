"""What `submit` will do, to the byte, without doing it: feasibility, sbatch calls, scripts."""

import hashlib
import itertools
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import LauncherError, RecipeError, RunError
from launcher.freeze import ResolvedRecipe, resolve
from launcher.ledger import read_attempts
from launcher.load import LoadedRecipe
from launcher.paths import RunDir, SubmissionDir, expand, submissions_root
from launcher.plan import check_all
from launcher.recipe import PrepareRecipe, recipe_adapter
from launcher.record import RunRecord
from launcher.render import Request, group, render
from launcher.runs import find_run
from launcher.slurm.queue import queue_of
from launcher.snapshot import Snapshot, read_code


@dataclass(frozen=True)
class SubmitOptions:
    """What the user may say about a submission besides recipes and cluster."""

    after: str | None = None
    """Start only when this run has finished; as `launcher.runs.find_run` understands it."""
    max_parallel: int | None = None
    """How many runs of an array may run at once."""
    rehearsal: bool = False
    """The recipes were shrunk by their `rehearsal` section."""


@dataclass(frozen=True)
class PlannedSubmission:
    """One sbatch call to come."""

    positions: tuple[int, ...]
    """Which of the recipes; their order is that of the array's elements."""
    folder: SubmissionDir
    script: str


@dataclass(frozen=True)
class Preview:
    """What `submit` will make and send."""

    runs_root: Path
    recipes: tuple[ResolvedRecipe, ...]
    submissions: tuple[PlannedSubmission, ...]
    snapshot: Snapshot
    dependency: tuple[str, ...]
    """Options of sbatch that make it wait for another run."""


def require_feasible(loaded: Sequence[LoadedRecipe], cluster: Cluster, options: SubmitOptions) -> None:
    """Refuse recipes that cannot work on this cluster.

    Raises:
        RecipeError: With all faults of all recipes.
    """
    pending = _corpus_made_by(find_run(cluster, options.after)) if options.after else []
    if faults := check_all(loaded, cluster, pending):
        raise RecipeError(faults)


def preview(loaded: Sequence[LoadedRecipe], cluster: Cluster, options: SubmitOptions) -> Preview:
    """Say what `submit` will send. Changes nothing.

    Raises:
        RunError: `options.after` names a run that failed, or none.
    """
    runs_root, dependency = _runs_root(cluster), _dependency(options.after, cluster)
    snapshot = read_code(runs_root)
    recipes = tuple(resolve(item) for item in loaded)
    planned, taken = [], set[Path]()
    for positions in group([item.recipe for item in loaded], queue_of(cluster).max_elements(len(loaded))):
        members = [recipes[position] for position in positions]
        folder = _free_folder(submissions_root(runs_root), members, taken)
        request = Request(tuple(item.loaded.recipe for item in members), options.max_parallel)
        script = render(request, cluster, folder, snapshot.folder, cluster.python or sys.executable)
        planned.append(PlannedSubmission(tuple(positions), folder, script))
    return Preview(runs_root, recipes, tuple(planned), snapshot, dependency)


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


def _dependency(after: str | None, cluster: Cluster) -> tuple[str, ...]:
    """Options of sbatch that make it wait for a run; none if that run finished already."""
    if after is None:
        return ()
    run = find_run(cluster, after)
    record, attempts = RunRecord.read(run.record), read_attempts(run.ledger)
    if any(attempt.reason == "finished" for attempt in attempts):
        return ()
    if attempts and attempts[-1].action == "stop":
        raise RunError(f"--after: `{record.id}` ended: {attempts[-1].reason}; `launcher resume {record.id}` first")
    if not record.submissions:
        raise RunError(f"--after: `{record.id}` was never queued; `launcher resume {record.id}` first")
    return (f"--dependency=afterok:{record.submissions[-1].job_id}", "--kill-on-invalid-dep=yes")


def _corpus_made_by(run: RunDir) -> list[str]:
    """The corpus that will be there once a run has finished."""
    recipe = recipe_adapter.validate_json(run.recipe.read_text(encoding="utf-8"))
    return [recipe.corpus] if isinstance(recipe, PrepareRecipe) else []


def _free_folder(root: Path, members: Sequence[ResolvedRecipe], taken: set[Path]) -> SubmissionDir:
    """Name a submission by a hash of its recipes and the first free number, so that a preview is repeatable."""
    digest = hashlib.sha256("".join(item.fingerprint for item in members).encode()).hexdigest()[:8]
    names = (root / f"{digest}-{number}" for number in itertools.count(1))
    free = next(path for path in names if path not in taken and not path.exists())
    taken.add(free)
    return SubmissionDir(free)
