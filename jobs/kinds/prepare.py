"""kind: prepare - source files become a corpus: read, filter, split, tokenise, write, finalise, publish.

The corpus is made in `<corpus>.partial/` and renamed into place when it is whole. Until then each
finished source file is kept, so a prepare that was stopped or killed resumes where it was. In several tasks,
each is a run that makes the parts of its share; the run that they work for makes what is missing and
completes the corpus, so no lost task can lose it.
"""

import contextlib
import os
import shutil
from functools import partial
from pathlib import Path

from jobs.data.clean.decontaminate import describe_decontamination
from jobs.data.corpus.counts import summary
from jobs.data.corpus.file_list import CorpusFileList, corpus_file_list
from jobs.data.corpus.finalise import finalise
from jobs.data.corpus.progress import Phases
from jobs.data.corpus.source_file import process_file
from jobs.data.corpus.source_files import process_files
from jobs.data.corpus.task_split import agree, changes
from jobs.rank.atomic_files import naming
from jobs.rank.context import Context
from jobs.rank.deal import deal
from jobs.rank.publish import is_in_place, put_in_place
from jobs.rank.stop_flag import STOP, noting_stop
from launcher.artifacts.corpus_manifest import MANIFEST, Manifest, read_manifest
from launcher.artifacts.corpus_settings import differing_settings
from launcher.errors import LauncherError
from launcher.run.ledger import StopRequest, append_event
from launcher.run.paths import RunDir
from launcher.run.record import CorpusShare


def main(context: Context) -> None:
    """Make the corpus that the recipe describes, or this run's share of its parts.

    Raises:
        LauncherError: sources or tokenizer cannot be used, too much is unreadable, or the name is taken.
        StopRequested: a stop was asked for before that was done.
    """
    plan, share = corpus_file_list(context), context.record.share
    if context.record.group:
        agree(plan, context.run.group if share else context.run)
    with noting_stop(context):
        if share is None:
            return _make_corpus(plan, context)
        with STOP.heeding(partial(_is_group_stopped, context.run)):
            return _make_share(plan, share, context)


def _is_group_stopped(run: RunDir) -> bool:
    """Tell whether a person left a STOP file for the run that this one works for, which stops this one as well."""
    request = StopRequest.read(run.group.stop_request)
    if request is None or request.reason != "user":  # the time limit of that run's own job is not ours
        return False
    request.write(run.stop_request)  # says to the batch process why, so that it does not come back
    return True


def _make_share(plan: CorpusFileList, share: CorpusShare, context: Context) -> None:
    numbers = deal([plan.size(number) for number in range(len(plan.sources))], share.count)[share.index]
    try:
        if not _is_whole(plan):
            process_files(plan, numbers, process_file, context)
    except OSError:
        if not _is_whole(plan):  # otherwise the corpus was completed meanwhile, and the work folder cleared away
            raise
    if _is_published(plan):
        shutil.rmtree(plan.work.parent, ignore_errors=True)
    append_event(context.run.ledger, context.attempt, last_step=len(numbers), reason="finished", source="prepare")


def _make_corpus(plan: CorpusFileList, context: Context) -> None:
    if _is_published(plan):
        print(f"{plan.folder}: exists already, made from files of the same names and sizes with the same settings")
        _warn_of_changes(plan)
    else:
        try:
            _complete(plan, context)
        except OSError:
            if not _is_published(plan):  # otherwise another run was quicker, and cleared the work folder away
                raise
    shutil.rmtree(plan.work.parent, ignore_errors=True)  # there if a run was killed just when it had published
    manifest, count = read_manifest(plan.folder), len(plan.sources)
    print(
        f"{plan.folder}: {summary(manifest.counts)}",
        *describe_decontamination(manifest.decontamination),
        sep="\n    ",
        flush=True,
    )
    steps = {"last_step": count, "total_steps": count}
    append_event(context.run.ledger, context.attempt, **steps, reason="finished", source="prepare")


def _complete(plan: CorpusFileList, context: Context) -> None:
    if not _is_whole(plan):
        parts = process_files(plan, range(len(plan.sources)), process_file, context)
        size = sum(part.source.size for part in parts)
        with Phases(context, len(parts), size) as phases, naming(plan.work):
            finalise(plan, parts, phases.report)
    publish(plan)


def _is_published(plan: CorpusFileList) -> bool:
    """Tell whether this very corpus is there already; anything else there is an error."""

    def describe_other() -> str | None:
        try:
            there = read_manifest(plan.folder)
        except LauncherError:
            return "holds no complete corpus"
        if there.fingerprint == plan.fingerprint:
            return None
        return f"holds a corpus made from other files or settings ({_difference(plan, there)})"

    return is_in_place(plan.folder, "corpus", describe_other)


def _difference(plan: CorpusFileList, there: Manifest) -> str:
    """Say how the corpus that is there differs from the one that the recipe describes."""
    before = {file.path: file.size for file in there.sources}
    now = {str(path): plan.size(number) for number, (path, _) in enumerate(plan.sources)}
    said = "; ".join((*differing_settings(there, plan.recipe), *changes(before, now)))
    return said or "the tokenizer, an evaluation set, or the order of the files"


def _warn_of_changes(plan: CorpusFileList) -> None:
    """Warn of source files that were modified after the corpus was made."""
    # Their content may be new, with the same size; or they were copied. So this decides nothing.
    made = (plan.folder / MANIFEST).stat().st_mtime_ns
    newer = [path for path, _ in plan.sources if path.stat().st_mtime_ns > made]
    if newer:
        more = f" and {len(newer) - 1:,} more" if newer[1:] else ""
        print(
            f"warning: modified after the corpus was made, and not compared: {newer[0]}{more}; if the content "
            "has changed, remove the folder and prepare it again",
            flush=True,
        )


def _is_whole(plan: CorpusFileList) -> bool:
    return _is_published(plan) or (plan.work / MANIFEST).exists()


def publish(plan: CorpusFileList) -> None:
    """Move the corpus into place, without the files that only its making needed."""
    away = plan.work.with_name(f"{plan.work.name}.parts")
    shutil.rmtree(away, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.rename(plan.parts, away)  # all at once: a task that still makes one of them finds no folder to put it in
    try:
        _remove_unlisted_files(plan.work)
        put_in_place(plan.work, plan.folder, partial(_is_published, plan))
        _remove_unlisted_files(plan.folder)  # what another run of the same recipe was writing has come along
    except (OSError, LauncherError):
        if not _is_published(plan):  # otherwise another run of the same recipe was quicker
            raise
    shutil.rmtree(plan.work.parent, ignore_errors=True)


def _remove_unlisted_files(folder: Path) -> None:
    """Remove what killed attempts left half done, or made of files that have changed since."""
    ours = {folder / MANIFEST, *(folder / name for name in read_manifest(folder).checksums())}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in ours:
            path.unlink(missing_ok=True)
