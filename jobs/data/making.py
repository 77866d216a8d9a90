"""Going through source files: a part of each, in several processes and over several attempts.

Parts are made in `<result>.partial/`. Each that is finished is kept, so that a run that was stopped or killed goes on
where it was.
"""

import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias, TypeVar

from jobs.data.counts import check_quality, first_unreadable, summary
from jobs.data.parts import Part, finished_part
from jobs.data.plan import SourcePlan
from jobs.data.progress import Gauge, Progress
from jobs.data.workers import run_tasks
from jobs.runtime.context import Context
from jobs.runtime.durable import clear_leftovers, naming
from launcher.corpus import Tally
from launcher.errors import LauncherError
from launcher.ledger import append_event
from launcher.paths import CONTINUE

AnyPlan = TypeVar("AnyPlan", bound=SourcePlan)
Make: TypeAlias = Callable[[AnyPlan, int, Gauge], Part]
"""Makes the part of one source file, whole or not at all; shows on the gauge how much of it has been read."""


def make_parts(
    plan: AnyPlan, numbers: Sequence[int], make: Make[AnyPlan], context: Context, is_stop_wanted: Callable[[], bool]
) -> list[Part]:
    """Process source files, but for those that have been finished before.

    Args:
        plan: Of the whole.
        numbers: Which of its files.
        make: Makes the part of one file, in a worker process.
        context: This task.
        is_stop_wanted: Asked about once a second.

    Returns:
        The parts in the order of the files; fewer than files if a stop was asked for.

    Raises:
        LauncherError: more is unreadable than the recipe forgives.
    """
    make_work_folder(plan)
    clear_leftovers(plan.work)
    files = {number: plan.size(number) for number in numbers}
    done = find_done(plan, files, context)
    missing = sorted(files.keys() - done.keys(), key=lambda number: (-files[number], number))  # a shorter tail
    for number in missing:  # a record that stays while its files are replaced would speak for them
        plan.record(number).unlink(missing_ok=True)
    total = sum((part.tally for part in done.values()), start=Tally())
    check_quality(plan, done, total)
    cpus, started = plan.recipe.resources.cpus_per_task, time.monotonic()
    with Progress(context, files, {number: part.tally for number, part in done.items()}) as progress:
        for number, part in run_tasks(
            naming(plan.work)(lambda number: make(plan, number, progress.gauge)),
            missing,
            cpus,
            is_stop_wanted,
            progress.tell,
        ):
            done[number], total = part, total + part.tally
            progress.count(number, part.tally)
            append_event(context.run.ledger, context.attempt, last_step=len(done))
            where = f"{len(done)}/{len(numbers)}, {time.monotonic() - started:.0f} s"
            print(f"[{where}] {part.source.path}: {summary(part.tally)}", *part.first_bad, sep="\n    ", flush=True)
            check_quality(plan, done, total)
    return [done[number] for number in sorted(done)]


def make_work_folder(plan: SourcePlan) -> None:
    """Make the folder that the parts lie in, closed to others if the text is.

    Raises:
        LauncherError: this user may not write there, or another one has begun something of this name.
    """
    try:
        plan.work.mkdir(parents=True, exist_ok=True)
        if plan.recipe.data_use == "credentialed":
            for folder in (plan.work.parent, plan.work):  # parts are moved out of the latter to be removed
                folder.chmod(0o700)
    except PermissionError as error:
        what = "somebody else has begun one of this name: wait for it, or write another name"
        if not os.path.isdir(plan.work.parent):
            what = "ask who owns the folder, or set another root in the cluster profile"
        raise LauncherError(f"{error.filename}: not for you to write; {what}") from None


def find_done(plan: SourcePlan, numbers: Collection[int], context: Context) -> dict[int, Part]:
    """Find the parts that are there, and tell of them; one whose file has changed is not."""
    done = {number: part for number in numbers if (part := finished_part(plan, number))}
    changed = sum(plan.record(number).exists() for number in numbers if number not in done)
    again = f"; changed since and done again: {changed}" if changed else ""
    others = sorted({part.code for part in done.values()} - {plan.code})
    by = f"; parts of other code are among them ({', '.join(others)})" if others else ""
    files = f"{len(numbers):,} source file{'s' * (len(numbers) != 1)}"
    # Those of an array were named in the logs of its tasks; the log of the whole names some of them, too.
    print(f"{files}, {len(done):,} of them done before{by}{again}", *first_unreadable(done), sep="\n    ", flush=True)
    steps = {"first_step": len(done), "last_step": len(done), "total_steps": len(numbers)}
    append_event(context.run.ledger, context.attempt, **steps)
    return done


def stopped(context: Context) -> int:
    """Note that a stop was asked for; what is finished is kept."""
    append_event(context.run.ledger, context.attempt, reason="stopped", source=context.recipe.kind)
    return CONTINUE


def code_versions(plan: SourcePlan, parts: Sequence[Part]) -> str:
    """Say which code made a result of these parts: one version, unless parts of other ones were taken over."""
    return ", ".join(sorted({plan.code, *(part.code for part in parts)}))
