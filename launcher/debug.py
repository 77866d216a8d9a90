"""Interactive debugging: the run that `launcher submit` would make, in the foreground and with a terminal."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.freeze import Freezer, FrozenRun, NewRun, freeze_submission
from launcher.load import LoadedRecipe, load_recipes
from launcher.paths import RunDir, SubmissionDir, published_steps, submissions_root
from launcher.preview import SubmitOptions, preview, require_feasible
from launcher.recipe import PrepareRecipe
from launcher.record import RunRecord
from launcher.runs import find_run
from launcher.slurm.command import slurm_environment
from launcher.slurm.interactive import hold_allocation, inside_argv
from launcher.slurm.parse import Job

_BATCH, _INTERACTIVE = "-m jobs.runtime.batch ", "-m jobs.runtime.interactive "
_PREFIX = "debug "
_NAME_LENGTH = 100
"""Longest name of a recipe."""


@dataclass(frozen=True)
class DebugOptions:
    """What the user may say besides recipe and cluster."""

    overrides: Sequence[str] = ()
    rehearsal: bool = False
    shell: bool = False
    patience: float = 600
    """Seconds to wait for an allocation."""


@dataclass(frozen=True)
class Target:
    """What is to be debugged."""

    loaded: LoadedRecipe
    run: RunDir | None
    """The existing run that it comes from."""


@dataclass(frozen=True)
class DebugRun:
    """A run made to be debugged."""

    frozen: FrozenRun
    submission: SubmissionDir
    script: str
    nodes: int
    starts_at: int
    """Step of the checkpoint that another run lent; 0 without one."""


def load_target(target: str, cluster: Cluster, options: DebugOptions) -> Target:
    """Load the recipe of a file, or of an existing run with all that was changed for it.

    Raises:
        RunError: The file holds several recipes, or there is no such run.
    """
    if target.endswith((".yaml", ".yml")):
        run, path, folder = None, Path(target), Path(target).absolute().parent
    else:
        run = find_run(cluster, target)
        path, folder = run.recipe, Path(RunRecord.read(run.record).recipe_folder)
    loaded = load_recipes(path, options.overrides, options.rehearsal)
    if len(loaded) != 1:
        raise RunError(f"{target}: holds {len(loaded)} recipes; debug a file with one")
    [one] = loaded
    # A name of its own: who asks for the newest run of the recipe does not mean this one.
    name = one.recipe.name if one.recipe.name.startswith(_PREFIX) else f"{_PREFIX}{one.recipe.name}"[:_NAME_LENGTH]
    alone = {"tasks": 1} if isinstance(one.recipe, PrepareRecipe) else {}
    recipe = one.recipe.model_copy(update={"name": name, **alone})
    return Target(replace(one, recipe=recipe, path=folder / path.name), run)


def make_run(target: Target, cluster: Cluster, rehearsal: bool) -> DebugRun:
    """Make the run directory and the script as `launcher submit` does; the script starts the interactive process.

    Raises:
        RecipeError: The recipe cannot work on this cluster.
    """
    loaded, options = target.loaded, SubmitOptions(rehearsal=rehearsal)
    require_feasible([loaded], cluster, options)
    wanted = preview([loaded], cluster, options)
    [planned], [recipe] = wanted.submissions, wanted.recipes
    script = interactive_script(planned.script)
    submissions_root(wanted.runs_root).mkdir(parents=True, exist_ok=True)
    wanted.snapshot.publish()
    freezer = Freezer(wanted.runs_root, cluster, wanted.snapshot, rehearsal)
    [folder] = freezer.name_runs([recipe])
    for root in (planned.folder.root, folder.root):
        root.mkdir(recipe.folder_mode)
    new = NewRun(folder, recipe)
    freeze_submission(planned.folder, script, [new])
    lent = _lend_checkpoint(target.run, folder) if target.run and not rehearsal else 0
    frozen = freezer.freeze_run(new, planned.folder)
    return DebugRun(frozen, planned.folder, script, loaded.recipe.resources.nodes, lent)


def _lend_checkpoint(lender: RunDir, run: RunDir) -> int:
    """Give a run the newest checkpoint of another one, which keeps it; return its step."""
    step = max(published_steps(lender), default=0)
    if step:
        shutil.copytree(lender.checkpoint(step), run.checkpoint(step), copy_function=_link_or_copy)
    return step


def _link_or_copy(source: str, target: str) -> None:
    """Share the bytes of a checkpoint, which nobody ever changes in place."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def interactive_script(script: str) -> str:
    """Make a batch script start the interactive process instead, with further arguments."""
    head, _, last = script.rstrip("\n").rpartition("\n")
    assert _BATCH in last  # the template's last line
    return f'{head}\n{last.replace(_BATCH, _INTERACTIVE)} "$@"\n'


def debug(
    made: DebugRun, cluster: Cluster, options: DebugOptions, tell_allocation: Callable[[str], None],
    tell_waiting: Callable[[Job], None],
) -> int:  # fmt: skip
    """Carry out one attempt of a run, or open a shell, in the foreground; return the exit code.

    Args:
        made: The run.
        cluster: Where.
        options: What to open and how long to wait for it.
        tell_allocation: Called with the job id once there is an allocation.
        tell_waiting: Called with the job while it waits.

    Raises:
        SlurmError: There is no allocation.
        RunError: The allocation that one is in has too few nodes.
    """
    command = ["bash", str(made.submission.script), *(["--shell"] if options.shell else [])]
    if cluster.executor == "local":
        return subprocess.run(command, check=False).returncode
    has_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    try:
        with _allocation(made, cluster, options.patience, tell_waiting) as job_id:
            made.frozen.add_job(job_id, made.submission, time.time())
            tell_allocation(job_id)
            argv = inside_argv(job_id, [*command, f"--nodes={made.nodes}"], has_terminal)
            return subprocess.run(argv, env=slurm_environment(cluster), check=False).returncode
    finally:
        if not made.frozen.record.submissions:  # there never was an allocation
            for root in (made.frozen.folder.root, made.submission.root):
                shutil.rmtree(root)


@contextmanager
def _allocation(
    made: DebugRun, cluster: Cluster, patience: float, tell_waiting: Callable[[Job], None]
) -> Iterator[str]:
    """Use the allocation that this process is in, which stays; else get one of our own."""
    inside = os.environ.get("SLURM_JOB_ID")
    if inside is None:
        with hold_allocation(made.script, cluster, patience, tell_waiting) as job_id:
            yield job_id
        return
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", made.nodes))
    if nodes < made.nodes:
        raise RunError(f"allocation {inside} has {nodes} nodes, the recipe wants {made.nodes}; write `--nodes {nodes}`")
    yield inside
