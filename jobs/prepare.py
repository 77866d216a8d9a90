"""kind: prepare - source files become a corpus: read, filter, split, tokenise, write, publish.

The corpus is made in `<corpus>.partial/` and renamed into place when it is whole. Until then each
finished source file is kept, so a prepare that was stopped or killed goes on where it was.
"""

import os
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING

import launcher
from jobs.data.durable import write_durably
from jobs.data.parts import Part, finished_part, make_part
from jobs.data.plan import Plan, make_plan
from jobs.data.workers import run_tasks
from jobs.runtime.context import Context
from launcher.corpus import MANIFEST, SPLITS, Manifest, SplitRule, Tally, read_manifest
from launcher.errors import LauncherError
from launcher.ledger import append_event
from launcher.paths import CONTINUE, FINISHED

if TYPE_CHECKING:
    from jobs.runtime.stop import StopFlag

_SHOWN = 10


def main(context: Context, stop: "StopFlag") -> int:
    """Make the corpus that the recipe describes.

    Returns:
        0 when the corpus is published, 75 when a stop was asked for before that.

    Raises:
        LauncherError: sources or tokenizer cannot be used, too much is unreadable, or the name is taken.
    """
    plan = make_plan(context)
    if not is_published(plan):
        if not (plan.work / MANIFEST).exists():
            parts = make_parts(plan, context, stop)
            if len(parts) < len(plan.files):
                append_event(context.run.ledger, context.attempt, reason="stopped", source="prepare")
                return CONTINUE
            write_manifest(plan, parts, code_version(context))
        publish(plan)
    print(f"{plan.folder}: {summary(read_manifest(plan.folder).counts)}", flush=True)
    append_event(context.run.ledger, context.attempt, last_step=len(plan.files), reason="finished", source="prepare")
    return FINISHED


def is_published(plan: Plan) -> bool:
    """Tell whether this very corpus is there already.

    Raises:
        LauncherError: another one is there.
    """
    if not plan.folder.exists():
        return False
    there = read_manifest(plan.folder).fingerprint
    if there != plan.fingerprint:
        raise LauncherError(
            f"{plan.folder}: holds a corpus made from other files or settings (fingerprint {there[:12]}, this recipe's "
            f"is {plan.fingerprint[:12]}); write another name as `corpus`, or remove that folder"
        )
    return True


def make_parts(plan: Plan, context: Context, stop: "StopFlag") -> list[Part]:
    """Process the source files that no earlier attempt finished.

    Returns:
        The parts in the order of the files; fewer than files if a stop was asked for.
    """
    plan.work.mkdir(parents=True, exist_ok=True)
    if plan.recipe.data_use == "credentialed":
        plan.work.chmod(0o700)
    numbers = range(len(plan.files))
    done = {number: part for number in numbers if (part := finished_part(plan, number))}
    print(f"{len(numbers)} source files, {len(done)} of them done before", flush=True)
    append_event(context.run.ledger, context.attempt, first_step=len(done), last_step=len(done))
    missing = sorted(set(numbers) - done.keys(), key=plan.size, reverse=True)  # the largest first: a shorter tail
    is_stop_wanted = partial(stop.wanted, context.run, context.ranks.is_main)
    cpus, started = plan.recipe.resources.cpus_per_task, time.monotonic()
    for number, part in run_tasks(partial(make_part, plan), missing, cpus, is_stop_wanted):
        done[number] = part
        append_event(context.run.ledger, context.attempt, last_step=len(done))
        where = f"{len(done)}/{len(numbers)}, {time.monotonic() - started:.0f} s"
        print(f"[{where}] {part.source.path}: {summary(part.tally)}", *part.first_bad, sep="\n    ", flush=True)
    return [done[number] for number in sorted(done)]


def write_manifest(plan: Plan, parts: list[Part], code: str) -> None:
    """Sum up the parts; the corpus is whole once its manifest is there.

    Raises:
        LauncherError: more is unreadable than the recipe forgives, or nothing is left.
    """
    counts = sum((part.tally for part in parts), start=Tally())
    check_quality(plan, parts, counts)
    manifest = Manifest(
        corpus=plan.recipe.corpus,
        data_use=plan.recipe.data_use,
        fingerprint=plan.fingerprint,
        code=code,
        tokenizer=plan.encoder.record,
        dtype=plan.encoder.dtype,
        split=SplitRule(validation=plan.recipe.validation),
        clean=plan.recipe.clean.model_dump(mode="json"),
        counts=counts,
        sources=tuple(part.source for part in parts),
        shards={split: tuple(part.shards[split] for part in parts if split in part.shards) for split in SPLITS},
    )
    write_durably(plan.work / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def check_quality(plan: Plan, parts: list[Part], counts: Tally) -> None:
    """Refuse a corpus with too many unreadable records, or without a document."""
    allowed = plan.recipe.max_bad_fraction
    if counts.bad_records > allowed * counts.records:
        first = [bad for part in parts for bad in part.first_bad][:_SHOWN]
        raise LauncherError(
            f"{counts.bad_records:,} of {counts.records:,} records cannot be read, more than `max_bad_fraction: "
            f"{allowed:g}` forgives; mend the files, or raise it (finished files are kept). The first ones:\n  "
            + "\n  ".join(first)
        )
    if not counts.documents["train"]:
        raise LauncherError(f"sources: no document is left for training ({summary(counts)}); check files and filters")


def publish(plan: Plan) -> None:
    """Move the corpus into place, without what only the making needed."""
    shutil.rmtree(plan.work / "parts", ignore_errors=True)
    for abandoned in plan.work.glob("*/.*"):
        abandoned.unlink()
    try:
        os.rename(plan.work, plan.folder)
    except OSError:
        if not is_published(plan):  # otherwise another run of the same recipe was quicker
            raise
    shutil.rmtree(plan.work.parent, ignore_errors=True)


def code_version(context: Context) -> str:
    """Say which code this is."""
    return f"{launcher.__version__} {context.record.code_commit or context.record.code_hash}"


def summary(tally: Tally) -> str:
    """Say in a line what became of the source text."""
    kept = [f"{split} {tally.documents[split]:,} documents, {tally.tokens[split]:,} tokens" for split in SPLITS]
    dropped = [f"dropped {count:,} ({reason})" for reason, count in tally.dropped.items()]
    return "; ".join([*kept, *dropped, f"{tally.bad_records:,} of {tally.records:,} records unreadable"])
