"""`launcher debug`: a run in the foreground, with breakpoints."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.arguments import ClusterOption, OverridesOption, RehearseOption, StageArgument
from launcher.cli.completion import complete_recipes_and_runs
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from launcher.slurm.parse import Job


def debug(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|RUN",
            help="Recipe file, or a run whose recipe to use.",
            autocompletion=complete_recipes_and_runs,
        ),
    ],
    stage: StageArgument = None,
    *,
    overrides: OverridesOption = None,
    rehearse: RehearseOption = False,
    nodes: Annotated[int | None, typer.Option(help="Short for `--set resources.nodes=N`.", min=1)] = None,
    shell: Annotated[bool, typer.Option("--shell", help="Open a shell on the first node instead.")] = False,
    pdb: Annotated[
        int | None,
        typer.Option(
            "--pdb", metavar="RANK", help="Run this rank under pdb, on this terminal instead of rank 0.", min=0
        ),
    ] = None,
    debugpy: Annotated[
        int | None,
        typer.Option(
            "--debugpy",
            metavar="RANK",
            help="Let this rank wait for an editor that is attached by debugpy, at a port of its node.",
            min=0,
        ),
    ] = None,
    patience: Annotated[float, typer.Option(help="Minutes to wait for the nodes.", min=0)] = 10,
    cluster: ClusterOption = None,
) -> None:
    """Run a recipe in the foreground, as a batch job would, with rank 0 on this terminal.

    `breakpoint()` in code that rank 0 runs opens pdb. Of a run, the recipe and a copy of its newest checkpoint
    are used. Uses the allocation this shell is in, or gets one and releases it at the end.
    """
    from launcher.cli.views.wording import not_on
    from launcher.errors import RunError
    from launcher.load import load_cluster
    from launcher.operate.debug import DebugOptions, load_target, make_run, require_open, require_rank
    from launcher.operate.debug import debug as carry_out
    from launcher.pipeline.find import find_stage

    profile = load_cluster(cluster)
    if stage:
        target = str(find_stage(profile, target, stage).root)
    changes = [*(overrides or ()), *([f"resources.nodes={nodes}"] if nodes else [])]
    debuggers = {name: rank for name, rank in {"pdb": pdb, "debugpy": debugpy}.items() if rank is not None}
    if len(given := [*(f"--{name}" for name in debuggers), *(["--shell"] if shell else [])]) > 1:
        raise RunError(f"{', '.join(given)}: choose one of them")
    debugger = next((f"{name}:{rank}" for name, rank in debuggers.items()), None)
    options = DebugOptions(changes, rehearse, shell, patience * 60, debugger)
    subject = load_target(target, profile, options)
    for name, rank in debuggers.items():
        require_rank(subject, f"--{name}", rank)
    if debugpy is not None:
        require_open(subject, "--debugpy")
    made = make_run(subject, profile, rehearse)
    if made.starts_at:
        tell(f"starts from a copy of step {made.starts_at}")
    tell(f"run directory: {made.frozen.folder.root}")
    if made.avoided.nodes:
        tell(not_on(made.avoided.nodes))
    code = carry_out(made, profile, options, lambda job_id: tell(f"allocation {job_id}"), _print_waiting)
    if profile.executor == "slurm" and "SLURM_JOB_ID" not in os.environ:
        tell("allocation released")
    raise typer.Exit(code)


def _print_waiting(job: "Job") -> None:
    from launcher.cli.views.wording import clock

    start = f", starts about {clock(job.start)}" if job.start else ""
    tell(f"job {job.id} {job.explanation}{start}")
