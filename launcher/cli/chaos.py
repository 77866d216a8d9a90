"""`launcher devcluster chaos`: what it prints, and who resumes the run."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from launcher.cli.json_output import print_json
from launcher.cli.verbosity import tell

if TYPE_CHECKING:
    from launcher.devcluster import DevCluster
    from launcher.devcluster.chaos import ChaosReport, Strike

_SHOWN = 5
"""Steps that differ which are named."""


def break_run(
    cluster: "DevCluster",
    name: str,
    against: str | None,
    strikes: "Sequence[Strike]",
    seed: int,
    as_json: bool,
) -> int:
    """Let faults strike a run until it has finished, and print what each cost; return the exit code."""
    from launcher.devcluster.chaos import ChaosTarget, Storm, differing_steps
    from launcher.load import load_cluster
    from launcher.monitor.find import find_run
    from launcher.operate.stop import find_held, release, resume

    profile = load_cluster(str(cluster.profile))
    run = find_run(profile, name)
    reference = find_run(profile, against) if against is not None else None

    def resume_run() -> None:
        if held := find_held(run, profile):
            release(held, profile)
        else:
            resume(run, profile)

    target = ChaosTarget(run, cluster)
    report = Storm(target, resume_run, tell).carry_out(strikes, seed)
    if reference is not None:
        report = replace(report, differing=tuple(differing_steps(run.metrics, reference.metrics)))
    print_json(asdict(report)) if as_json else _show(report)
    return int(bool(report.differing))


def _show(report: "ChaosReport") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("step", "phase", "fault", "exit reason", "attempts", "redone", "seconds", "the run", box=None)
    for cost in report.costs:
        seconds = "" if cost.seconds is None else f"{cost.seconds:.0f}"
        numbers = (str(cost.attempts), str(cost.redone), seconds)
        table.add_row(str(cost.step), cost.phase, cost.what, cost.exit_reason, *numbers, cost.recovery)
    console = Console()
    console.print(table)
    for fault, why in report.skipped:
        console.print(f"not struck: {fault}: {why}", soft_wrap=True, markup=False)
    redone = sum(cost.redone for cost in report.costs)
    console.print(f"seed {report.seed}: {len(report.costs)} faults, {report.attempts} attempts, {redone} steps redone")
    console.print(_curve(report), soft_wrap=True)


def _curve(report: "ChaosReport") -> str:
    if report.differing is None:
        return f"{report.steps} steps; name a run that nothing disturbed with --against to compare the losses"
    if not report.differing:
        return f"the losses of all {report.steps} steps are those of the run that nothing disturbed, to the last bit"
    steps = ", ".join(map(str, report.differing[:_SHOWN]))
    more = ", ..." if len(report.differing) > _SHOWN else ""
    count = len(report.differing)
    return f"the losses differ from those of the run that nothing disturbed at {count} steps: {steps}{more}"
