"""kind: prepare - source files become a corpus: read, filter, split, tokenise, write, finalise, publish.

The corpus is made in `<corpus>.partial/` and renamed into place when it is whole. Until then each
finished source file is kept, so a prepare that was stopped or killed goes on where it was. In several tasks,
each is a run that makes the parts of its share; the run that they work for makes what is missing and
completes the corpus, so no lost task can lose it.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.data.clean.decontaminate import tell
from jobs.data.counts import summary
from jobs.data.finalise import finalise
from jobs.data.making import make_parts, stopped
from jobs.data.parts import make_part
from jobs.data.plan import Plan, make_plan
from jobs.data.progress import Phases
from jobs.data.shares import agree, changes, deal
from jobs.runtime.context import Context
from jobs.runtime.durable import naming, sync
from launcher.corpus import MANIFEST, Manifest, read_manifest
from launcher.errors import LauncherError
from launcher.ledger import StopRequest, append_event
from launcher.paths import FINISHED, RunDir
from launcher.record import Share
from launcher.settings import differing_settings

if TYPE_CHECKING:
    from jobs.runtime.stop import StopFlag


def main(context: Context, stop: "StopFlag") -> int:
    """Make the corpus that the recipe describes, or this run's share of its parts.

    Returns:
        0 when that is done, 75 when a stop was asked for before.

    Raises:
        LauncherError: sources or tokenizer cannot be used, too much is unreadable, or the name is taken.
    """
    plan, share = make_plan(context), context.record.share
    wanted = partial(stop.wanted, context.run, context.ranks.is_main)
    is_stop_wanted = (lambda: heed_group(context.run) or wanted()) if share else wanted
    if context.record.group:
        agree(plan, context.run.group if share else context.run)
    if share:
        return make_share(plan, share, context, is_stop_wanted)
    return make_corpus(plan, context, is_stop_wanted)


def heed_group(run: RunDir) -> bool:
    """Tell whether a person left a STOP file for the run that this one works for; it then stops this one, too."""
    request = StopRequest.read(run.group.stop_request)
    if request is None or request.reason != "user":  # the time limit of that run's own job is not ours
        return False
    request.write(run.stop_request)  # says to the batch process why, so that it does not come back
    return True


def make_share(plan: Plan, share: Share, context: Context, is_stop_wanted: Callable[[], bool]) -> int:
    """Make the parts of one share; there is nothing to do if the corpus is whole already."""
    numbers = deal([plan.size(number) for number in range(len(plan.files))], share.count)[share.index]
    try:
        if not is_whole(plan) and len(make_parts(plan, numbers, make_part, context, is_stop_wanted)) < len(numbers):
            return stopped(context)
    except OSError:
        if not is_whole(plan):  # otherwise the corpus was completed meanwhile, and the work folder cleared away
            raise
    if is_published(plan):
        shutil.rmtree(plan.work.parent, ignore_errors=True)
    append_event(context.run.ledger, context.attempt, last_step=len(numbers), reason="finished", source="prepare")
    return FINISHED


def make_corpus(plan: Plan, context: Context, is_stop_wanted: Callable[[], bool]) -> int:
    """Make the parts that are missing, and of all parts the corpus; or find that it is there."""
    if is_published(plan):
        print(f"{plan.folder}: is there already, made from files of the same names and sizes with the same settings")
        tell_of_changes(plan)
    else:
        try:
            if not complete(plan, context, is_stop_wanted):
                return stopped(context)
        except OSError:
            if not is_published(plan):  # otherwise another run was quicker, and cleared the work folder away
                raise
    shutil.rmtree(plan.work.parent, ignore_errors=True)  # there if a run was killed just when it had published
    manifest, count = read_manifest(plan.folder), len(plan.files)
    print(f"{plan.folder}: {summary(manifest.counts)}", *tell(manifest.decontamination), sep="\n    ", flush=True)
    steps = {"last_step": count, "total_steps": count}
    append_event(context.run.ledger, context.attempt, **steps, reason="finished", source="prepare")
    return FINISHED


def complete(plan: Plan, context: Context, is_stop_wanted: Callable[[], bool]) -> bool:
    """Make what is missing, and publish it; False if a stop was asked for before."""
    if not is_whole(plan):
        parts = make_parts(plan, range(len(plan.files)), make_part, context, is_stop_wanted)
        if len(parts) < len(plan.files):
            return False
        size = sum(part.source.size for part in parts)
        with Phases(context, len(parts), size) as phases, naming(plan.work):
            if not finalise(plan, parts, is_stop_wanted, phases.tell):
                return False
    publish(plan)
    return True


def is_published(plan: Plan) -> bool:
    """Tell whether this very corpus is there already.

    Raises:
        LauncherError: another one is there.
    """
    if not plan.folder.exists():
        return False
    try:
        there = read_manifest(plan.folder)
    except LauncherError:
        what = "is there, and holds no whole corpus"
    else:
        if there.fingerprint == plan.fingerprint:
            return True
        what = f"holds a corpus made from other files or settings ({difference(plan, there)})"
    raise LauncherError(f"{plan.folder}: {what}; write another name as `corpus`, or remove that folder")


def difference(plan: Plan, there: Manifest) -> str:
    """Say what keeps a corpus from being the one that the recipe means."""
    before = {Path(file.path).name: file.size for file in there.sources}
    now = {path.name: plan.size(number) for number, (path, _) in enumerate(plan.files)}
    said = "; ".join((*differing_settings(there, plan.recipe), *changes(before, now)))
    return said or "the tokenizer, an evaluation set, or the order of the files"


def tell_of_changes(plan: Plan) -> None:
    """Name source files that were written after the corpus was: perhaps with other content of the same size.

    A copy on another file system has a new time as well, and the same content, so this decides nothing.
    """
    made = (plan.folder / MANIFEST).stat().st_mtime_ns
    newer = [path for path, _ in plan.files if path.stat().st_mtime_ns > made]
    if newer:
        more = f" and {len(newer) - 1:,} more" if newer[1:] else ""
        print(
            f"warning: written after the corpus was, and not compared: {newer[0]}{more}; if that is other content, "
            "remove the folder and prepare it again",
            flush=True,
        )


def is_whole(plan: Plan) -> bool:
    """Tell whether the corpus needs no more parts."""
    return is_published(plan) or (plan.work / MANIFEST).exists()


def publish(plan: Plan) -> None:
    """Move the corpus into place, without what only the making needed."""
    away = plan.work.with_name(f"{plan.work.name}.parts")
    shutil.rmtree(away, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.rename(plan.parts, away)  # all at once: a task that still makes one of them finds no folder to put it in
    try:
        clear_away_strangers(plan.work)
        os.rename(plan.work, plan.folder)
        clear_away_strangers(plan.folder)  # what another run of the same recipe was writing has come along
    except (OSError, LauncherError):
        if not is_published(plan):  # otherwise another run of the same recipe was quicker
            raise
    sync(plan.folder.parent)
    shutil.rmtree(plan.work.parent, ignore_errors=True)


def clear_away_strangers(folder: Path) -> None:
    """Remove what killed attempts left half done, or made of files that have changed since."""
    ours = {folder / MANIFEST, *(folder / name for name in read_manifest(folder).checksums())}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in ours:
            path.unlink(missing_ok=True)
