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
from launcher.load import LoadedRecipe, load_recipes
from launcher.monitor.find import find_run
from launcher.run.batch_process import BATCH_MODULE, INTERACTIVE_MODULE
from launcher.run.files import link_or_copy
from launcher.run.paths import RunDir, SubmissionDir, published_steps
from launcher.run.record import RunRecord
from launcher.site.suspect_nodes import Avoided, choose_avoided
from launcher.slurm.allocation import hold_allocation, inside_argv
from launcher.slurm.command import slurm_environment
from launcher.slurm.parse import Job
from launcher.submit.freeze import Freezer, FrozenRun, NewRun, freeze_submission
from launcher.submit.plan_submission import SubmitOptions, plan_submission

_BATCH, _INTERACTIVE = f"-m {BATCH_MODULE} ", f"-m {INTERACTIVE_MODULE} "
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
    debugger: str | None = None
    """Which rank has a debugger: `pdb:3`, `debugpy:3`."""


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
    """Step of the checkpoint copied from another run; 0 without one."""
    avoided: Avoided
    """Nodes that its allocation is not to have."""


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
    # Another name, so that `launcher logs NAME` still means the newest real run of the recipe.
    name = one.recipe.name if one.recipe.name.startswith(_PREFIX) else f"{_PREFIX}{one.recipe.name}"[:_NAME_LENGTH]
    alone = {one.recipe.array: 1} if one.recipe.array else {}
    recipe = one.recipe.model_copy(update={"name": name, **alone})
    artifacts = RunRecord.read(run.record).locations.artifacts if run else None
    return Target(replace(one, recipe=recipe, path=folder / path.name, artifacts=artifacts), run)


def require_rank(target: Target, option: str, rank: int) -> None:
    """Check that the run will have a rank.

    Raises:
        RunError: It will not.
    """
    count = target.loaded.recipe.resources.world_size
    if rank >= count:
        ranks = f"ranks 0 to {count - 1}" if count > 1 else "rank 0 alone"
        raise RunError(f"{option} {rank}: `{target.loaded.recipe.name}` has {ranks}")


def require_open(target: Target, option: str) -> None:
    """Check that a port of a node may lead to the run: a debugger asks nobody who they are.

    Raises:
        RunError: The run reads credentialed data.
    """
    if target.loaded.recipe.data_use == "credentialed":
        raise RunError(
            f"{option}: everybody who is logged in on the node could connect to the debugger, and "
            f"`{target.loaded.recipe.name}` reads credentialed data; use `--pdb`"
        )


def make_run(target: Target, cluster: Cluster, rehearsal: bool) -> DebugRun:
    """Make the run directory and the script as `launcher submit` does; the script starts the interactive process.

    Raises:
        RecipeError: The recipe cannot work on this cluster.
    """
    stage = RunRecord.read(target.run.record) if target.run else None
    pipeline = Path(stage.pipeline) if stage and stage.pipeline else None
    options = SubmitOptions(rehearsal=rehearsal, pipeline=pipeline, stage=stage.stage if stage else None)
    plan = plan_submission([target.loaded], cluster, options)
    [planned], [recipe] = plan.submissions, plan.recipes
    script = interactive_script(planned.script)
    freezer = Freezer(plan)
    freezer.publish_code()
    [folder] = freezer.name_runs()
    for root in (planned.folder.root, folder.root):
        root.mkdir(recipe.folder_mode)
    new = NewRun(folder, recipe)
    freeze_submission(planned.folder, script, [new])
    step = _copy_checkpoint(target.run, folder) if target.run and not rehearsal else 0
    frozen = freezer.freeze_run(new, planned.folder)
    wanted = recipe.recipe.resources
    avoided = Avoided() if _own_allocation() else choose_avoided(cluster, wanted)
    return DebugRun(frozen, planned.folder, script, wanted.nodes, step, avoided)


def _copy_checkpoint(source: RunDir, run: RunDir) -> int:
    """Copy the newest checkpoint of another run, by links where possible; return its step."""
    step = max(published_steps(source), default=0)
    if step:
        shutil.copytree(source.checkpoint(step), run.checkpoint(step), copy_function=link_or_copy)
    return step


def interactive_script(script: str) -> str:
    """Make a batch script start the interactive process instead, with further arguments."""
    head, _, last = script.rstrip("\n").rpartition("\n")
    assert _BATCH in last  # the template's last line
    return f'{head}\n{last.replace(_BATCH, _INTERACTIVE)} "$@"\n'


def debug(
    made: DebugRun, cluster: Cluster, options: DebugOptions, on_start: Callable[[str], None],
    on_wait: Callable[[Job], None],
) -> int:  # fmt: skip
    """Carry out one attempt of a run, or open a shell, in the foreground; return the exit code.

    Args:
        made: The run.
        cluster: Where.
        options: What to open and how long to wait for it.
        on_start: Called with the job id once there is an allocation.
        on_wait: Called with the job while it waits.

    Raises:
        SlurmError: There is no allocation.
        RunError: The allocation that one is in has too few nodes.
    """
    debugger = [f"--debugger={options.debugger}"] if options.debugger else []
    command = ["bash", str(made.submission.script), *(["--shell"] if options.shell else []), *debugger]
    if cluster.executor == "local":
        return subprocess.run(command, check=False).returncode
    has_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    try:
        with _allocation(made, cluster, options.patience, on_wait) as job_id:
            made.frozen.add_job(job_id, made.submission, time.time())
            on_start(job_id)
            argv = inside_argv(job_id, [*command, f"--nodes={made.nodes}"], has_terminal)
            return subprocess.run(argv, env=slurm_environment(cluster), check=False).returncode
    finally:
        if not made.frozen.record.submissions:  # there never was an allocation
            for root in (made.frozen.folder.root, made.submission.root):
                shutil.rmtree(root)


def _own_allocation() -> str | None:
    """Id of the allocation that this process is in."""
    return os.environ.get("SLURM_JOB_ID")


@contextmanager
def _allocation(made: DebugRun, cluster: Cluster, patience: float, on_wait: Callable[[Job], None]) -> Iterator[str]:
    """Use the allocation that this process is in and keep it; else get one."""
    inside = _own_allocation()
    if inside is None:
        with hold_allocation(made.script, cluster, patience, on_wait, made.avoided.options) as job_id:
            yield job_id
        return
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", made.nodes))
    if nodes < made.nodes:
        raise RunError(f"allocation {inside} has {nodes} nodes, the recipe wants {made.nodes}; write `--nodes {nodes}`")
    yield inside
