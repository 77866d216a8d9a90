"""Process source files in several worker processes and over several attempts.

Results lie in `<result>.partial/` until all are there, so a run that was stopped or killed resumes where it was.
"""

import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias, TypeVar

from jobs.data.corpus.counts import check_quality, first_unreadable, summary
from jobs.data.corpus.file_list import FileList
from jobs.data.corpus.progress import Gauge, Progress
from jobs.data.corpus.source_file import ProcessedFile, finished_file
from jobs.rank.atomic_files import clear_leftovers, naming
from jobs.rank.context import Context
from jobs.rank.publish import why_closed
from jobs.rank.worker_pool import run_tasks
from launcher.artifacts.corpus_manifest import Tally
from launcher.errors import LauncherError
from launcher.run.ledger import append_event

AnyFileList = TypeVar("AnyFileList", bound=FileList)
Process: TypeAlias = Callable[[AnyFileList, int, Gauge], ProcessedFile]
"""Processes one source file, completely or not at all; shows on the gauge how much of it has been read."""


def process_files(
    files: AnyFileList, numbers: Sequence[int], process: Process[AnyFileList], context: Context
) -> list[ProcessedFile]:
    """Process source files in worker processes, except for those that an earlier attempt finished.

    Args:
        files: The file list.
        numbers: Which of its files.
        process: Processes one of them.
        context: This run.

    Returns:
        Their records, in the order of the file list.

    Raises:
        LauncherError: more records are unreadable than the recipe allows.
        StopRequested: a stop was asked for before all files were done.
    """
    make_work_folder(files)
    clear_leftovers(files.work)
    sizes = {number: files.size(number) for number in numbers}
    done = find_done(files, sizes, context)
    missing = sorted(sizes.keys() - done.keys(), key=lambda number: (-sizes[number], number))  # a shorter tail
    for number in missing:  # an old record must not vouch for files that are being replaced
        files.record(number).unlink(missing_ok=True)
    total = sum((one.tally for one in done.values()), start=Tally())
    check_quality(files, done, total)
    cpus, started = files.recipe.resources.cpus_per_task, time.monotonic()
    with Progress(context, sizes, {number: one.tally for number, one in done.items()}) as progress:
        work = naming(files.work)(lambda number: process(files, number, progress.gauge))
        for number, one in run_tasks(work, missing, cpus, progress.report):
            done[number], total = one, total + one.tally
            progress.count(number, one.tally)
            append_event(context.run.ledger, context.attempt, last_step=len(done))
            where = f"{len(done)}/{len(numbers)}, {time.monotonic() - started:.0f} s"
            print(f"[{where}] {one.source.path}: {summary(one.tally)}", *one.first_bad, sep="\n    ", flush=True)
            check_quality(files, done, total)
    return [done[number] for number in sorted(done)]


def make_work_folder(files: FileList) -> None:
    """Make the work folder; with credentialed text only its owner may read it.

    Raises:
        LauncherError: this user may not write there.
    """
    try:
        files.work.mkdir(parents=True, exist_ok=True)
        if files.recipe.data_use == "credentialed":
            for folder in (files.work.parent, files.work):  # `parts` is moved into the former to be removed
                folder.chmod(0o700)
    except OSError as error:
        why, what = why_closed(error), "ask who owns the folder, or set another root in the cluster profile"
        if why is None:
            raise
        if isinstance(error, PermissionError) and os.path.isdir(files.work.parent):
            what = "another user is making one of this name; wait for it, or write another name"
        raise LauncherError(f"{error.filename}: {why}; {what}") from None


def find_done(files: FileList, numbers: Collection[int], context: Context) -> dict[int, ProcessedFile]:
    """Return the records of files that earlier attempts finished, and log them."""
    done = {number: one for number in numbers if (one := finished_file(files, number))}
    changed = sum(files.record(number).exists() for number in numbers if number not in done)
    again = f"; changed since and done again: {changed}" if changed else ""
    others = sorted({one.code for one in done.values()} - {files.code})
    by = f"; some by other versions of the code ({', '.join(others)})" if others else ""
    said = f"{len(numbers):,} source file{'s' * (len(numbers) != 1)}, {len(done):,} of them done before{by}{again}"
    # Array elements have named theirs in their own logs; this log names some of them as well.
    print(said, *first_unreadable(done), sep="\n    ", flush=True)
    steps = {"first_step": len(done), "last_step": len(done), "total_steps": len(numbers)}
    append_event(context.run.ledger, context.attempt, **steps)
    return done


def code_versions(files: FileList, processed: Sequence[ProcessedFile]) -> str:
    """Name the versions of the code that made a result: one, unless earlier versions processed some of the files."""
    return ", ".join(sorted({files.code, *(one.code for one in processed)}))
